"""tasks_over: waits for the tries of now, and for no others."""

from __future__ import annotations

from typing import Any

from ansible_collections.dataops.airflow.plugins.modules import tasks_over as module


class Api:
    """Answers with one list of tries after the other."""

    def __init__(self, *rounds: list[str]) -> None:
        self.rounds = list(rounds)
        self.asked: list[str] = []

    def ask(self, method: str, path: str) -> Any:
        self.asked.append(path)
        offset = int(path.rpartition("offset=")[2])
        found = self.rounds[0][offset : offset + module.PAGE]
        if len(found) < module.PAGE and len(self.rounds) > 1:
            self.rounds.pop(0)
        return {"task_instances": [{"id": name} for name in found]}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def outlast(api: Api, timeout: float = 100) -> tuple[tuple[int, int], float]:
    clock = Clock()
    return module.outlast(api, timeout, clock, clock.sleep), clock.now  # type: ignore[arg-type]


def test_nothing_is_under_way() -> None:
    assert outlast(Api([])) == ((0, 0), 0)


def test_it_waits_for_those_of_now_alone() -> None:
    api = Api(["a", "b"], ["b", "c"], ["b", "c", "d"], ["c", "d"])
    assert outlast(api) == ((2, 0), 3 * module.INTERVAL)
    assert all(f"state={state}" in api.asked[0] for state in ("queued", "running"))


def test_it_ends_with_its_time() -> None:
    assert outlast(Api(["a"]), 11) == ((1, 1), 12)


def test_every_page_is_read() -> None:
    many = [f"{number:03}" for number in range(230)]
    assert outlast(Api(many, [])) == ((230, 0), module.INTERVAL)
