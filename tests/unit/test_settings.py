"""settings: what Airflow's interpreter is told, what is made of its answer, and a host without it."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.module_utils import stored_settings
from ansible_collections.dataops.airflow.plugins.modules import settings

AWKWARD = "hunter2 '\"$`\\ äß"
WANTED: dict[str, Any] = {
    "pools": {"reports": {"slots": 4}},
    "variables": {"region": AWKWARD},
    "connections": {},
    "roles": {},
    "users": {},
}
# Airflow, as far as it is needed: keeps what it is told and says what it is to say.
STANDS_IN = """#!{python}
import json, os, sys
told = sys.stdin.read()
with open({folder!r} + "/told", "w") as file:
    json.dump({{"argv": sys.argv, "environment": dict(os.environ), "cwd": os.getcwd(), "told": json.loads(told)}}, file)
print("noise")
print(open({folder!r} + "/answer").read())
sys.stderr.write("Traceback: " + json.loads(told)["settings"]["variables"]["region"])
"""
ANSWER = {"changes": [{"kind": "pools", "name": "reports", "action": "created", "fields": ["slots"]}], "diff": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A host with Airflow."""
    (tmp_path / "python").write_text(STANDS_IN.format(python=sys.executable, folder=str(tmp_path)))
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "cli.env").write_text("AIRFLOW_HOME='/x y'\n")
    (tmp_path / "answer").write_text(json.dumps(ANSWER))
    # Nobody here may become another user.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/setpriv").write_text('#!/bin/sh\nfor one; do shift; [ "$one" = -- ] && exec "$@"; done\n')
    (tmp_path / "bin/setpriv").chmod(0o755)
    return tmp_path


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, check: bool = False
) -> tuple[dict[str, Any], str]:
    """Run the module in this process; its answer, and as text."""
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    options = {
        "settings": json.dumps(WANTED),
        "purge": ["pools"],
        "administrator": "admin",
        "environment": str(folder / "cli.env"),
        "python": str(folder / "python"),
        "user": "airflow",
        "home": str(folder),
        "_ansible_check_mode": check,
        "_ansible_diff": True,
    }
    capsys.readouterr()
    with patch_module_args(options), pytest.raises(SystemExit):
        settings.main()
    text = capsys.readouterr().out
    answer: dict[str, Any] = json.loads(text)
    return answer, text


@pytest.mark.parametrize("check", [False, True])
def test_airflows_interpreter_is_told_everything_and_nobody_else_anything(
    folder: Path, check: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, text = call(capsys, monkeypatch, folder, check)
    assert answer["changed"] is True and answer["changes"] == ANSWER["changes"]
    seen = json.loads((folder / "told").read_text())
    assert seen["told"] == {"settings": WANTED, "purge": ["pools"], "administrator": "admin", "check": check}
    assert seen["environment"]["AIRFLOW_HOME"] == "/x y" and seen["cwd"] == str(folder)
    assert "hunter2" not in json.dumps([seen["argv"], seen["environment"]]) + text
    # The program is whole: it runs without the collection.
    assert seen["argv"][1] == "-c" and "def work(" in seen["argv"][2]
    assert "ansible" not in seen["argv"][2]


def test_nothing_to_do_is_no_change(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "answer").write_text(json.dumps({"changes": [], "diff": {"before": "", "after": ""}}))
    assert call(capsys, monkeypatch, folder)[0]["changed"] is False


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"refused": "airflow_roles, r"}, "Nothing was changed.\n\nairflow_roles, r"),
        ({"failed": "IntegrityError: x"}, "settings in the database: IntegrityError: x"),
        (None, "settings in the database: Airflow's interpreter ended with 0: Traceback: ***"),
    ],
)
def test_what_goes_wrong_is_told_without_secrets(
    folder: Path,
    said: dict[str, Any] | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "answer").write_text(json.dumps(said) if said else "no JSON")
    answer, text = call(capsys, monkeypatch, folder)
    assert answer["failed"] is True and answer["msg"] == message
    assert "hunter2" not in text


def test_on_a_bare_host_everything_would_be_created(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "cli.env").unlink()
    answer, text = call(capsys, monkeypatch, folder, check=True)
    assert [f"{change['name']} {change['action']}" for change in answer["changes"]] == [
        "reports created",
        "region created",
    ]
    assert answer["changed"] is True and not (folder / "told").exists()
    assert "pools.reports.slots: 4" in answer["diff"]["after"] and "hunter2" not in text
    assert call(capsys, monkeypatch, folder)[0]["failed"] is True, "without Airflow nothing can be kept"


def test_the_interpreter_answers_on_the_last_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(told: dict[str, Any]) -> dict[str, Any]:
        print("Airflow says hello")
        raise ValueError(f"bad row: {told['settings']['variables']['region']}")

    monkeypatch.setattr(stored_settings, "work", fail)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"settings": WANTED})))
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back afterwards
    stored_settings.main()
    assert json.loads(capsys.readouterr().out) == {"failed": "ValueError: bad row: ***"}
