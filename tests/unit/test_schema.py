"""schema: when it asks and migrates, what it remembers, and what it does not touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import schema

OLD, NEW = {"alembic_version": ["old"]}, {"alembic_version": ["new"], "alembic_version_fab": ["1", "2"]}
URL = "postgresql+psycopg2://airflow:sesame@db/airflow"
# The database is a file with its revisions.
PYTHON = """\
#!/bin/sh
[ "$DATABASE_URL" = "{url}" ] || {{ echo "another database" >&2; exit 1; }}
case "$*" in *sesame*) echo "a password in the arguments" >&2; exit 1 ;; esac
[ ! -f {folder}/away ] || {{ printf 'Traceback\\nOperationalError: away\\n' >&2; exit 1; }}
cat {folder}/database
"""
AIRFLOW = """\
#!/bin/sh
echo "$@" >> {folder}/calls
case "$1 $2" in
  "db check-migrations") cmp -s {folder}/database {folder}/wanted ;;
  "db migrate")
    [ ! -f {folder}/broken ] || {{ echo "no such table" >&2; exit 3; }}
    cp {folder}/wanted {folder}/database ;;
  *) exit 2 ;;
esac
"""
CHECK, MIGRATE = "db check-migrations --migration-wait-timeout 1", "db migrate"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A release that wants `NEW`, and an empty database."""
    (tmp_path / "release/bin").mkdir(parents=True)
    for path, text in (("release/bin/python", PYTHON), ("airflow", AIRFLOW)):
        (tmp_path / path).write_text(text.format(folder=tmp_path, url=URL))
        (tmp_path / path).chmod(0o755)
    (tmp_path / "wanted").write_text(json.dumps(NEW))
    (tmp_path / "database").write_text("{}")
    return tmp_path


def call(folder: Path, capsys: pytest.CaptureFixture[str], check: bool = False, **options: Any) -> dict[str, Any]:
    """Run the module in this process; its JSON answer, and below `called` what was run meanwhile."""
    (folder / "calls").write_text("")
    arguments = {"command": str(folder / "airflow"), "release": str(folder / "release"), "database_url": URL, **options}
    with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
        schema.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {**answer, "called": (folder / "calls").read_text().splitlines()}


def database(folder: Path, revisions: dict[str, list[str]]) -> None:
    """Give the database other revisions."""
    (folder / "database").write_text(json.dumps(revisions))


def record(folder: Path) -> Any:
    """What is written down in the release; None if nothing is."""
    path = folder / "release" / schema.RECORD
    return json.loads(path.read_text()) if path.exists() else None


def test_a_new_database_is_migrated_without_a_question(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(folder, capsys)
    assert (answer["changed"], answer["fresh"], answer["revisions"]) == (True, True, NEW)
    assert answer["called"] == [MIGRATE]
    assert record(folder) == NEW
    assert (json.loads(answer["diff"]["before"]), json.loads(answer["diff"]["after"])) == ({}, NEW)


def test_a_known_database_costs_no_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(folder, capsys)
    answer = call(folder, capsys)
    assert (answer["changed"], answer["fresh"], answer["revisions"]) == (False, False, NEW)
    assert answer["called"] == []


@pytest.mark.parametrize("written", [None, "", "{", json.dumps(OLD)])
def test_a_good_database_is_asked_about_once(
    written: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database(folder, NEW)
    if written is not None:
        (folder / "release" / schema.RECORD).write_text(written)
    answer = call(folder, capsys)
    assert (answer["changed"], answer["called"]) == (False, [CHECK])
    assert record(folder) == NEW
    assert call(folder, capsys)["called"] == []


def test_an_old_or_restored_database_is_migrated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(folder, capsys)
    database(folder, OLD)
    answer = call(folder, capsys)
    assert (answer["changed"], answer["fresh"], answer["revisions"]) == (True, False, NEW)
    assert answer["called"] == [CHECK, MIGRATE]
    assert record(folder) == NEW


def test_a_check_migrates_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for revisions, called in (({}, []), (OLD, [CHECK])):
        database(folder, revisions)
        answer = call(folder, capsys, check=True)
        assert (answer["changed"], answer["called"], answer["revisions"]) == (True, called, revisions)
    database(folder, NEW)
    assert call(folder, capsys, check=True)["changed"] is False
    assert record(folder) is None


def test_comparing_only_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(folder, capsys, compare=True)
    assert (answer["changed"], answer["fresh"], answer["known"], answer["revisions"]) == (False, True, None, {})
    call(folder, capsys)
    database(folder, OLD)
    answer = call(folder, capsys, compare=True)
    assert (answer["changed"], answer["fresh"], answer["known"], answer["revisions"]) == (False, False, NEW, OLD)
    assert answer["called"] == []
    assert record(folder) == NEW


def test_a_failed_migration_is_not_written_down(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken").touch()
    answer = call(folder, capsys)
    assert answer["failed"]
    assert answer["msg"] == "airflow db migrate failed (3): no such table"
    assert record(folder) is None


def test_a_database_that_is_away(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "away").touch()
    answer = call(folder, capsys)
    assert answer["failed"]
    assert answer["msg"] == "the metadata database cannot be asked: OperationalError: away"
    assert answer["called"] == []


def test_a_command_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "airflow").unlink()
    answer = call(folder, capsys)
    assert answer["failed"]
    assert "No such file or directory" in answer["msg"]
