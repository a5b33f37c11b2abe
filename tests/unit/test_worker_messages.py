"""worker_messages: what a worker remembers of its messages, and puts back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from programs import load

FILE = Path(__file__).parents[2] / "roles/airflow/files/worker_messages.py"


@dataclass(frozen=True, eq=False)
class Request:
    """A task that the worker has."""

    message: Any


class Redis:
    """What is used of it; a pipeline does at once what it is told."""

    def __init__(self) -> None:
        self.sets: dict[str, dict[bytes, float]] = {}
        self.unacked: set[str] = set()
        self.expires: dict[str, int] = {}

    @contextmanager
    def pipeline(self) -> Iterator[Redis]:
        yield self

    def execute(self) -> None:
        """All is done already."""

    def zremrangebyscore(self, key: str, low: float, high: float) -> None:
        found = self.sets.setdefault(key, {})
        self.sets[key] = {tag: score for tag, score in found.items() if not low <= score <= high}

    def zadd(self, key: str, tags: dict[str, float]) -> None:
        self.sets.setdefault(key, {}).update({tag.encode(): score for tag, score in tags.items()})

    def expire(self, key: str, seconds: int) -> None:
        self.expires[key] = seconds

    def zrange(self, key: str, _first: int, _last: int) -> list[bytes]:
        return list(self.sets.get(key, {}))

    def hexists(self, key: str, tag: str) -> bool:
        assert key == "unacked"
        return tag in self.unacked

    def zrem(self, key: str, tag: str) -> None:
        del self.sets[key][tag.encode()]


@dataclass
class AsynPool:
    """What is used of Celery's pool of processes: the jobs that it waits for, and the busy processes' descriptors."""

    _cache: dict[int, Any]
    _busy_workers: set[int]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file, with Celery's signals, which know who listens."""
    heard: dict[str, Any] = {}

    def signal(name: str) -> SimpleNamespace:
        return SimpleNamespace(connect=lambda handler, weak: heard.update({name: handler}))

    modules = {
        "celery": {},
        "celery.bootsteps": {"StartStopStep": object},
        "celery.concurrency": {},
        "celery.concurrency.asynpool": {"AsynPool": AsynPool},
        "celery.signals": {name: signal(name) for name in ("task_received", "worker_init")},
        "celery.worker": {},
        "celery.worker.state": {"active_requests": set(), "reserved_requests": set()},
    }
    loaded = load(monkeypatch, FILE, modules)
    assert heard == {"task_received": loaded.write_down, "worker_init": loaded.take_part}
    return loaded


def test_every_worker_has_the_step(program: Any) -> None:
    steps: dict[str, set[Any]] = {"consumer": set()}
    program.take_part(sender=SimpleNamespace(app=SimpleNamespace(steps=steps)), signal=None)
    assert steps == {"consumer": {program.Resume}}


def test_what_is_left_of_the_last_minutes_is_put_back(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    redis, restored, now = Redis(), [], [1000.0]

    @contextmanager
    def connect() -> Iterator[Redis]:
        yield redis

    def restore(tag: str, client: Redis) -> None:
        assert client is redis
        restored.append(tag)

    qos = SimpleNamespace(restore_by_tag=restore)
    channel = SimpleNamespace(conn_or_acquire=connect, unacked_key="unacked", qos=qos)
    task_consumer = SimpleNamespace(channel=channel)
    pool = AsynPool(_cache={}, _busy_workers=set())
    consumer = SimpleNamespace(hostname="celery@worker1", task_consumer=task_consumer, pool=SimpleNamespace(_pool=pool))
    monkeypatch.setattr(program.time, "time", lambda: now[0])

    def receive(tag: str) -> Request:
        request = Request(SimpleNamespace(channel=channel, delivery_tag=tag))
        program.write_down(sender=consumer, request=request, signal=None)
        redis.unacked.add(tag)
        return request

    step = program.Resume()
    step.start(consumer)
    assert restored == [], "nothing yet"
    receive("old")
    now[0] += program.KEEP + 1
    running = receive("running")
    for tag in ("finished", "left"):
        receive(tag)
    program.active_requests.add(running)
    redis.unacked.remove("finished")
    assert set(redis.expires.values()) == {program.KEEP}
    # One runs, one was cancelled when the connection broke, which leaves no process.
    pool._cache = {1: SimpleNamespace(_write_to=SimpleNamespace(inqW_fd=11)), 2: SimpleNamespace(_write_to=None)}
    # Celery's pool "solo" has none inside.
    other = SimpleNamespace(hostname="celery@worker2", task_consumer=task_consumer, pool=SimpleNamespace(_pool=None))
    step.start(other)
    assert restored == [], "another worker's"
    assert program.reserved_requests == {running}, "its slot is taken"
    step.start(consumer)
    assert pool._busy_workers == {11}, "its process is busy"
    assert restored == ["left"]
    step.start(consumer)
    assert restored == ["left"], "once"
    program.active_requests.clear()
    step.start(consumer)
    assert restored == ["left", "running"], "killed since"
