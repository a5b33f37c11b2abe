"""unit_state: parsing, and what it says of running, stale, stopped, disabled, missing and foreign units."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import unit_state

SYSTEMCTL = """\
#!/bin/sh
# Prints, as systemctl show does, the block of each unit that is named after `--`.
first=yes
for unit in "$@"; do
  [ -f "{folder}/$unit.show" ] || continue
  [ "$first" = yes ] || echo
  first=no
  echo "Id=$unit"
  cat "{folder}/$unit.show"
done
"""
RUNS = {"ActiveState": "active", "UnitFileState": "enabled", "LoadState": "loaded", "NeedDaemonReload": "no"}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a systemctl that knows the units of its *.show files."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "systemctl").write_text(SYSTEMCTL.format(folder=tmp_path))
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def add(machine: Path, name: str, record: bool = True, **properties: str) -> dict[str, Any]:
    """A unit with one file; returns what the module is to be told of it."""
    show = "".join(f"{key}={value}\n" for key, value in {**RUNS, **properties}.items())
    (machine / f"{name}.show").write_text(show)
    settings = machine / f"{name}.cfg"
    settings.write_text(f"settings of {name}\n")
    started = machine / f"{name}.started-with"
    if record:
        started.write_text(f"{hashlib.sha256(settings.read_bytes()).hexdigest()}  {settings}\n")
    return {"name": name, "files": [str(settings)], "record": str(started)}


def call(capsys: pytest.CaptureFixture[str], units: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    """Run the module in this process; its JSON answer."""
    capsys.readouterr()
    with patch_module_args({"units": units, **options}), pytest.raises(SystemExit):
        unit_state.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_blocks_are_parsed_in_order() -> None:
    output = "Id=a.service\nActiveState=active\n\nId=b.service\nUnitFileState=\nExecStart=x=y\n"
    assert unit_state.parse_show(output) == [
        {"Id": "a.service", "ActiveState": "active"},
        {"Id": "b.service", "UnitFileState": "", "ExecStart": "x=y"},
    ]
    assert unit_state.parse_show("") == []


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "missing", tmp_path / "two"]
    for path in (files[0], files[2]):
        path.write_text(f"{path.name}\n")
    names = [str(path) for path in files]
    argv = ["/usr/bin/sha256sum", *names]
    printed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    assert unit_state.checksums(names) == printed.strip()


def test_all_is_well(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, [add(machine, "a.service"), add(machine, "b.service", UnitFileState="alias")])
    assert answer["changed"] is False
    assert answer["reload_needed"] is False
    assert [answer[key] for key in ("stale", "stopped", "disabled", "attention", "unexpected", "missing")] == [[]] * 6


def test_each_trouble_is_named(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    units = [
        add(machine, "well.service"),
        add(machine, "changed.service"),
        add(machine, "no-record.service", record=False),
        add(machine, "off.service", ActiveState="inactive"),
        add(machine, "restarting.service", ActiveState="activating", NeedDaemonReload="yes"),
        add(machine, "not-at-boot.service", UnitFileState="disabled"),
        add(machine, "gone.service", ActiveState="inactive", LoadState="not-found", UnitFileState=""),
    ]
    (machine / "changed.service.cfg").write_text("new settings\n")
    answer = call(capsys, units)
    assert answer["stale"] == ["changed.service", "no-record.service"]
    assert answer["stopped"] == ["off.service", "restarting.service", "gone.service"]
    assert answer["disabled"] == ["not-at-boot.service", "gone.service"]
    assert answer["missing"] == ["gone.service"]
    assert answer["reload_needed"] is True
    assert answer["attention"] == [unit["name"] for unit in units[1:]]


def test_files_that_will_change_make_a_unit_stale(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    units = [add(machine, "a.service"), add(machine, "b.service")]
    answer = call(capsys, units, pending=[units[1]["files"][0], "/etc/other"])
    assert answer["stale"] == answer["attention"] == ["b.service"]


def test_every_running_unit_is_stale_on_request(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    units = [add(machine, "well.service"), add(machine, "off.service", ActiveState="inactive")]
    answer = call(capsys, units, restart=True)
    assert (answer["stale"], answer["stopped"]) == (["well.service"], ["off.service"])


INSTANCES = ("airflow-worker@gone.service", "airflow-worker@kept.service", "airflow-worker-check@gone.service")


def test_foreign_unit_files_are_named(
    machine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = machine / "system"
    system.mkdir()
    for name in ("airflow-worker.service", "airflow-old.service", "other.service", *INSTANCES):
        (system / name).write_text("")
    (system / "airflow-webserver.service").symlink_to("airflow-api-server.service")
    (system / "airflow-worker.service.d").mkdir()
    monkeypatch.setattr(
        unit_state,
        "Path",
        lambda path, *parts: system.joinpath(*parts) if str(path) == "/etc/systemd/system" else Path(path, *parts),
        raising=True,
    )
    wanted = [add(machine, "airflow-worker.service")]
    owned = ["airflow-old.service", "airflow-worker.service", "airflow-scheduler.service"]
    assert call(capsys, wanted, owned=owned)["unexpected"] == ["airflow-old.service"]
    kept = add(machine, INSTANCES[1])
    assert call(capsys, [*wanted, kept], owned=["airflow-worker@*.service"])["unexpected"] == [INSTANCES[0]]
    assert call(capsys, wanted)["unexpected"] == []
    assert call(capsys, [], owned=owned)["unexpected"] == [
        "airflow-old.service",
        "airflow-worker.service",
    ]
