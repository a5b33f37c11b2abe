"""timeline: when tasks waited and ran, as data, picture and page."""

from __future__ import annotations

import builtins
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils import timeline

MINUTE = "2026-01-01T12:00:"


def instance(name: str, host: str, *moments: float | None, index: int = -1) -> dict[str, Any]:
    """A task instance as the API tells it: scheduled, queued, started, ended."""
    keys = ("scheduled_when", "queued_when", "start_date", "end_date")
    told = {
        key: None if moment is None else f"{MINUTE}{moment:06.3f}Z" for key, moment in zip(keys, moments, strict=True)
    }
    return {"task_id": name, "map_index": index, "hostname": host, "pool_slots": 1, **told}


def task(name: str, host: str, *moments: float) -> dict[str, Any]:
    """A task as the functions take it."""
    return {"task": name, "host": host, "slots": 1} | dict(
        zip(("scheduled", "queued", "start", "end"), moments, strict=True)
    )


TASKS = [
    task("a", "one", 0, 0.5, 1, 4),
    task("b", "one", 0, 4, 4.5, 6),
    task("<c>", "two", 2, 2, 3, 5),
    task("d", "one", 6, 6, 6, 7),
]


def test_times_count_from_the_first_task_that_could_run() -> None:
    found = timeline.times(
        [
            instance("a", "10.0.0.1", 10, 10.5, 11, 14),
            instance("b", "10.0.0.2", None, None, 12, 13, index=3),
            instance("never", "", 10, None, None, None),
        ],
        {"10.0.0.1": "worker1"},
    )
    assert found == [
        task("a", "worker1", 0, 0.5, 1, 4),
        task("b[3]", "10.0.0.2", 2, 2, 2, 3),
    ]
    assert timeline.times([], {}) == []


def test_no_two_tasks_of_a_row_meet() -> None:
    assert [[one["task"] for one in row] for row in timeline.lanes(TASKS)] == [["a", "d"], ["<c>"], ["b"]]


def test_usage_counts_what_runs() -> None:
    assert timeline.usage(TASKS) == [(0.0, 0), (1, 1), (3, 2), (4, 1), (4.5, 2), (5, 1), (6, 1), (7, 0)]
    assert timeline.usage([]) == [(0.0, 0)]


def test_an_idle_host_is_told_of() -> None:
    one, three, two = timeline.hosts(TASKS, {"one": 2, "three": 4})
    assert one == {"host": "one", "slots": 2, "tasks": 3, "most": 1, "busy": 5.5, "wait": 1}
    assert (two["slots"], two["most"]) == (None, 1)
    assert three == {"host": "three", "slots": 4, "tasks": 0, "most": 0, "busy": 0, "wait": None}


def test_the_picture_shows_every_task_and_host() -> None:
    drawn = timeline.picture("A & B", TASKS, {"one": 2, "two": 1})
    text = {"".join(element.itertext()).strip() for element in ElementTree.fromstring(drawn).iter()}  # noqa: S314
    assert {"a", "b", "<c>", "d", "A & B", "waits for its turn", "waits for a worker", "runs", "Slots used"} <= text
    assert "one: 3 tasks, at most 1 of 2 slots at once" in text
    assert drawn == timeline.picture("A & B", TASKS, {"one": 2, "two": 1}), "the same tasks make the same file"
    for colour in timeline.COLOURS.values():
        assert colour in drawn
    assert len(drawn) < 60_000


def test_the_page_needs_no_other_file() -> None:
    page = timeline.page("A & B", "<all> well", TASKS, {})
    assert (
        page.startswith("<!DOCTYPE html>") and "&lt;all&gt; well" in page and "&lt;c&gt;" in page and "<c>" not in page
    )
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', page) == []
    assert page.count("<svg") == 1 and page.index("<svg") < page.index("<table>")


def test_no_tasks_make_a_page_as_well() -> None:
    assert "<svg" in timeline.page("Nothing", "", [], {"one": 2})


def test_without_the_library_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "matplotlib":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    for draw in (timeline.picture, lambda *given: timeline.page(given[0], "", *given[1:])):
        with pytest.raises(timeline.NoPlotterError, match="pip install matplotlib"):
            draw("A", TASKS, {})
