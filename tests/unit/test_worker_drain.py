"""worker_drain: what a worker is told, how long is waited, and what counts as a task."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.module_utils.celery_worker import BrokerError, Look
from ansible_collections.dataops.airflow.plugins.modules import worker_drain

QUEUES = ["default", "worker1"]
SECRET = "redis://airflow:s3cr3t-broker@db1/0"  # noqa: S105


def task(number: int = 1, **more: Any) -> dict[str, Any]:
    """A task as a look tells it."""
    return {"id": f"id-{number}", "dag_id": "d", "run_id": "r", "task_id": f"t{number}", "map_index": -1, **more}


class Fake:
    """A worker with its queues, and the time that each of its tasks still takes.

    :ivar told: what it was told, in order: ``(cancel, add)``, without the looks.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.queues = list(QUEUES)
        self.ends: dict[int, float] = {}
        self.told: list[tuple[list[str], list[str]]] = []
        self.obeys = True
        self.looks = 0
        # By the number of the look.
        self.events: dict[int, Callable[[], None]] = {}
        self.silent: Callable[[], bool] = lambda: False
        self.broken: Callable[[], bool] = lambda: False

    def __call__(self, *_where: str, cancel: Sequence[str] = (), add: Sequence[str] = ()) -> Look | None:
        self.looks += 1
        self.events.get(self.looks, lambda: None)()
        if self.broken():
            raise BrokerError("Connection refused.")
        if self.silent():
            return None
        if cancel or add:
            self.told.append((list(cancel), list(add)))
        # Celery obeys a moment after it has answered.
        before = list(self.queues)
        if self.obeys:
            self.queues = [queue for queue in self.queues if queue not in cancel] + list(add)
        return Look(before, [task(number) for number, end in self.ends.items() if end > self.now])

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A worker instead of Celery, and a clock that is moved by waiting only."""
    worker = Fake()
    monkeypatch.setattr(worker_drain, "talk", worker)
    monkeypatch.setattr(time, "monotonic", lambda: worker.now)
    monkeypatch.setattr(time, "sleep", worker.sleep)
    return worker


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run the module in this process; its JSON answer."""

    def run(state: str = "drained", **options: Any) -> dict[str, Any]:
        capsys.readouterr()
        arguments = {"workers": "celery@worker1", "state": state, "broker_url": SECRET, **options}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            worker_drain.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return run


def test_it_stops_consuming_and_waits_for_the_tasks(fake: Fake, call: Any) -> None:
    fake.ends = {1: 1040, 2: 1003}
    answer = call()
    assert answer["changed"] is True and answer["queues"] == QUEUES
    assert fake.told == [(QUEUES, [])] and fake.queues == []
    assert fake.now >= 1040 and answer["waited"] >= 40
    assert fake.now <= 1050
    assert answer["running"] == [] and answer["finished"] == ["d.t1 of r", "d.t2 of r"]


def test_a_second_call_changes_nothing(fake: Fake, call: Any) -> None:
    fake.queues = []
    answer = call()
    assert answer["changed"] is False and answer["queues"] == [] and fake.told == []


def test_a_message_that_was_on_its_way_is_waited_for(fake: Fake, call: Any) -> None:
    fake.events = {4: lambda: fake.ends.update({7: fake.now + 20})}
    assert call()["waited"] >= 20


def test_a_worker_that_was_started_anew_is_told_again(fake: Fake, call: Any) -> None:
    fake.ends = {1: 1060}
    fake.events = {6: lambda: fake.queues.extend(QUEUES)}
    call()
    assert fake.told == [(QUEUES, []), (QUEUES, [])] and fake.queues == []


def test_the_deadline_names_the_tasks(fake: Fake, call: Any) -> None:
    fake.ends = {1: 1100, 2: 1003}
    answer = call(timeout=5)
    assert answer["failed"] is True and "d.t1 of r" in answer["msg"] and "t2" not in answer["msg"]
    assert answer["running"] == [task(1)] and answer["queues"] == QUEUES and answer["late"] is True
    assert 5 <= answer["waited"] < 7


def test_no_deadline_waits_for_days(fake: Fake, call: Any) -> None:
    fake.ends = {1: 1000 + 86400 * 3}
    assert "failed" not in call(timeout=0)


def test_a_worker_that_does_not_obey_fails(fake: Fake, call: Any) -> None:
    fake.obeys = False
    answer = call(timeout=5)
    assert answer["failed"] is True and "consumes from default, worker1" in answer["msg"]


def test_it_may_leave_the_tasks_running(fake: Fake, call: Any) -> None:
    fake.ends = {1: 9999}
    answer = call(wait=False)
    assert "failed" not in answer and fake.queues == [] and answer["running"] == [task(1)] and answer["waited"] < 5


def test_check_mode_only_looks(fake: Fake, call: Any) -> None:
    fake.ends = {1: 9999}
    answer = call(_ansible_check_mode=True)
    assert answer["changed"] is True and answer["running"] == [task(1)] and answer["queues"] == QUEUES
    assert fake.told == [] and fake.looks == 1
    fake.queues = []
    assert call(_ansible_check_mode=True)["changed"] is False
    assert call("consuming", queues=QUEUES, _ansible_check_mode=True)["changed"] is True
    assert fake.told == []


def test_a_worker_that_does_not_answer_is_gone(fake: Fake, call: Any) -> None:
    fake.silent = lambda: True
    answer = call(patience=10)
    assert answer["failed"] is True and answer["gone"] is True and "is gone" in answer["msg"]
    assert answer["late"] is False, "to wait longer helps nobody"
    assert 10 <= answer["waited"] < 12 and answer["changed"] is False
    accepted = call(patience=10, gone="accept")
    assert "failed" not in accepted and accepted["gone"] is True and accepted["running"] == []


def test_a_broker_that_is_away_for_a_while_is_waited_for(fake: Fake, call: Any) -> None:
    fake.ends = {1: 1060}
    fake.broken = lambda: 1010 < fake.now < 1030
    assert "failed" not in call(patience=25)
    fake.now, fake.queues, fake.ends = 1000.0, list(QUEUES), {1: 1060}
    answer = call(patience=5)
    assert answer["gone"] is True and "Connection refused" in answer["msg"] and answer["running"] == [task(1)]


def test_it_consumes_again(fake: Fake, call: Any) -> None:
    fake.queues = ["default"]
    answer = call("consuming", queues=QUEUES, timeout=10)
    assert answer["changed"] is True and answer["queues"] == ["default"]
    assert fake.told == [([], ["worker1"])] and fake.queues == QUEUES
    assert call("consuming", queues=QUEUES, timeout=10)["changed"] is False


def test_consuming_has_a_deadline(fake: Fake, call: Any) -> None:
    fake.queues, fake.obeys = [], False
    answer = call("consuming", queues=QUEUES, timeout=3)
    assert answer["failed"] is True and "does not consume from default, worker1" in answer["msg"]


def test_times_are_not_negative(fake: Fake, call: Any) -> None:
    assert call(timeout=-1)["failed"] is True and fake.looks == 0


@pytest.mark.parametrize(
    ("known", "name"),
    [
        (task(1), "d.t1 of r"),
        (task(1, map_index=4), "d.t1[4] of r"),
        ({"id": "x", "dag_id": None}, "Celery's x"),
    ],
)
def test_titles(known: dict[str, Any], name: str) -> None:
    assert worker_drain.title(known) == name


def test_it_gives_up_when_the_worker_was_started_anew(fake: Fake, call: Any, tmp_path: Path) -> None:
    """A drain that a broken-off run left behind must not stop the worker of a later one."""
    fake.ends = {1: 5000}
    record = tmp_path / "started-with"

    def start() -> None:
        record.touch()
        fake.queues = list(QUEUES)

    fake.events[6] = start
    answer = call(abandon=["/nonexistent", str(record)])
    assert answer["failed"] is True and "started anew" in answer["msg"]
    assert fake.queues == QUEUES and len(fake.told) == 1


def test_several_workers_are_told_at_once(monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    """The second one takes no new tasks while the first one still has some, and both have one deadline."""
    fakes = {f"celery@{name}": Fake() for name in ("worker1", "worker1-gpu")}
    told: list[str] = []

    def talk(_python: str, _broker: str, name: str, **what: Any) -> Look | None:
        told.extend([name] if what["cancel"] else [])
        found = fakes[name](**what)
        if name == "celery@worker1" and len(told) == len(fakes):
            fakes[name].ends.clear()
        return found

    monkeypatch.setattr(worker_drain, "talk", talk)
    monkeypatch.setattr(worker_drain, "FIRST_PAUSE", 0.01)
    fakes["celery@worker1"].ends = {1: 2000}
    answer = call(workers=list(fakes))
    assert "failed" not in answer and sorted(told) == sorted(fakes)
    assert answer["queues"] == QUEUES and answer["finished"] == ["d.t1 of r"]
    fakes["celery@worker1-gpu"].ends = {2: 2000}
    answer = call(workers=list(fakes), timeout=1)
    assert (
        answer["msg"].startswith("The worker celery@worker1-gpu still has d.t2 of r")
        and "worker1 " not in answer["msg"]
    )
