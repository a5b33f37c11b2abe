"""worker_check: when a worker that is alive counts as one that takes no tasks."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "roles/airflow/files/worker_check.py"
NOW = 10_000.0
QUEUES = ["default", "worker1"]


def load() -> Any:
    """The program, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("worker_check", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


program = load()
GOOD = program.Look(["default", "worker1"], 0, {})
SILENT = program.Look(None, 0, {})


@pytest.fixture
def told(tmp_path: Path) -> argparse.Namespace:
    """Arguments of a worker that was started long ago."""
    record = tmp_path / "started-with"
    record.touch()
    os.utime(record, (100, 100))
    return argparse.Namespace(worker="celery@worker1", queues=QUEUES, slots=4, record=record, folder=tmp_path)


def looks(told: argparse.Namespace, *found: Any, now: float = NOW) -> list[str]:
    """What is said of some looks in a row; an exception is what asking ends with."""
    said = []
    for one in found:

        def ask(worker: str, queues: list[str], one: Any = one) -> Any:
            if isinstance(one, Exception):
                raise one
            return one

        said.append(program.check(told, now, ask))
    return said


def restarts(told: argparse.Namespace) -> bool:
    """Whether the last look was one too many."""
    return bool((told.folder / "restart").exists())


@pytest.mark.parametrize(
    ("look", "before", "word"),
    [
        (GOOD, {}, ""),
        (SILENT, {}, "does not answer"),
        (program.Look(["worker1"], 0, {}), {}, "does not consume from default"),
        (program.Look([], 4, {}), {}, "does not consume from default, worker1"),
        (program.Look(QUEUES, 0, {"default": "a"}), {}, ""),
        (program.Look(QUEUES, 0, {"default": "b"}), {"default": "a"}, ""),
        (program.Look(QUEUES, 1, {"default": "a"}), {"default": "a"}, "3 of its 4 slots are free"),
        (program.Look(QUEUES, 4, {"default": "a"}), {"default": "a"}, ""),
        (program.Look(QUEUES, 1, {}, ["b", "c"]), {}, "3 of its 4 slots are free, and it has not begun 1 of"),
        (program.Look(QUEUES, 1, {}, ["c"]), {}, ""),
        (program.Look(QUEUES, 4, {}, ["b"]), {}, ""),
        (program.Look([*QUEUES, "more"], 0, {}), {}, ""),
    ],
    ids=[
        "works", "silent", "a queue missing", "no queue", "a task just came", "the queue moves", "idle beside its work",
        "busy", "a task taken and not begun", "a task just taken", "busy beside one that it took",
        "more queues than asked for",
    ],
)  # fmt: skip
def test_trouble(look: Any, before: dict[str, str], word: str) -> None:
    found = program.trouble(look, program.Memory(0, 0, before, ["b"]), QUEUES, 4)
    assert word in found and bool(word) is bool(found)


def test_three_bad_looks_in_a_row_are_needed(told: argparse.Namespace) -> None:
    said = looks(told, SILENT, SILENT, GOOD, SILENT, SILENT)
    assert "1 of 3" in said[0] and "2 of 3" in said[1] and "takes tasks" in said[2] and "2 of 3" in said[4]
    assert not restarts(told)
    assert "it is restarted" in looks(told, SILENT)[0]
    assert restarts(told)


def test_a_task_that_waits_beside_free_slots(told: argparse.Namespace) -> None:
    waits = program.Look(QUEUES, 0, {"default": "a"})
    looks(told, waits, waits, waits)
    assert not restarts(told), "the first look only learns which task waits"
    looks(told, waits)
    assert restarts(told)


def test_another_start_begins_anew(told: argparse.Namespace) -> None:
    looks(told, SILENT, SILENT)
    os.utime(told.record, (200, 200))
    assert "1 of 3" in looks(told, SILENT)[0]
    looks(told, SILENT, SILENT)
    assert restarts(told)
    # The verdict is for the unit that reads it right after the look.
    looks(told, GOOD)
    assert not restarts(told)


def test_a_broker_that_is_away_is_not_the_workers_fault(told: argparse.Namespace) -> None:
    said = looks(told, SILENT, SILENT, OSError("Connection refused"), SILENT)
    assert "the broker does not answer: Connection refused" in said[2]
    assert "1 of 3" in said[3] and not restarts(told)


def test_a_worker_that_leaves_or_was_just_started_is_left_alone(told: argparse.Namespace) -> None:
    assert "just started" in looks(told, SILENT, now=100 + program.GRACE - 1)[0]
    told.record.unlink()
    assert "being taken out" in looks(told, SILENT)[0]
    assert not restarts(told)


def test_a_memory_that_was_cut_off_is_none(told: argparse.Namespace) -> None:
    (told.folder / "looks.json").write_text('{"bad": 2, "sta')
    assert "1 of 3" in looks(told, SILENT)[0]
