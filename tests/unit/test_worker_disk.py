"""worker_disk: when a worker hands a task back."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from programs import load

FILE = Path(__file__).parents[2] / "roles/airflow/files/worker_disk.py"
Disk = namedtuple("Disk", "f_bavail f_frsize f_files f_favail")


class Reject(Exception):  # noqa: N818 (Celery's name)
    """Celery's."""

    def __init__(self, reason: str, requeue: bool) -> None:
        super().__init__(reason)
        self.requeue = requeue


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file, with what it takes from Airflow and Celery, and without the pause."""
    settings: dict[str, Any] = {"base_log_folder": "/logs", "worker_min_free_disk": 100}
    conf = SimpleNamespace(get=lambda section, name: settings[name], getint=lambda section, name: settings[name])
    names: dict[str, dict[str, Any]] = {
        "airflow": {}, "airflow.configuration": {"conf": conf}, "celery": {}, "celery.exceptions": {"Reject": Reject},
    }  # fmt: skip
    loaded = load(monkeypatch, FILE, names)
    monkeypatch.setattr(loaded, "PAUSE", 0)
    return loaded


@pytest.mark.parametrize(
    ("disk", "free"),
    [
        (Disk(f_bavail=100_000, f_frsize=1000, f_files=10, f_favail=1), None),
        (Disk(f_bavail=99_999, f_frsize=1000, f_files=10, f_favail=1), 99),
        (Disk(f_bavail=100_000, f_frsize=1000, f_files=10, f_favail=0), 0),
        # Some file systems count no files.
        (Disk(f_bavail=100_000, f_frsize=1000, f_files=0, f_favail=0), None),
    ],
    ids=["just enough", "too little", "no more files", "files are not counted"],
)
def test_room(program: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any, disk: Disk, free: int | None) -> None:
    monkeypatch.setattr(os, "statvfs", {"/logs": disk}.__getitem__)
    guard = program.DiskGuard().annotate_any()["before_start"]
    if free is None:
        guard(object(), "id-1", [], {})
    else:
        with pytest.raises(Reject) as refused:
            guard(object(), "id-1", [], {})
        assert refused.value.requeue
        assert f"/logs has {free} MB of free disk and needs 100: task id-1 goes back to its queue" in caplog.text
