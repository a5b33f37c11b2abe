# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Notices that a worker which is alive takes no tasks any more: see templates/worker_check.service.j2, which runs it.

After the broker was away, a Celery worker may answer and yet never take another task, or never begin one that it took.
The worker is asked what it consumes from and what it has, and the queues are looked at. Three looks in a row that find
it idle beside its work leave a file behind, upon which the unit restarts it. A broker that does not answer is not the
worker's fault.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LOOKS = 3
"""Looks in a row after which the worker is restarted."""
GRACE = 60
"""Seconds for which a worker that was just started is left alone."""
PATIENCE = 50
"""Seconds after which a look that hangs is given up."""


@dataclass
class Look:
    """What one look found.

    :ivar queues: names of the queues that the worker consumes from; None when it does not answer.
    :ivar running: tasks that it runs.
    :ivar oldest: by queue, the ID of the message that waits longest there; queues without messages are left out.
    :ivar received: IDs of the tasks that it has taken and not begun.
    """

    queues: list[str] | None = None
    running: int = 0
    oldest: dict[str, str] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)


@dataclass
class Memory:
    """What is kept from look to look.

    :ivar start: when the worker was started that was looked at, in seconds since the epoch.
    :ivar bad: looks in a row that found trouble.
    :ivar oldest: that of the last look.
    :ivar received: that of the last look.
    """

    start: float = 0
    bad: int = 0
    oldest: dict[str, str] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)


def trouble(look: Look, before: Memory, queues: Sequence[str], slots: int) -> str:
    """Judge a look. Returns the trouble, or nothing.

    :param before: what the look before left.
    :param queues: those that the worker is meant to consume from.
    :param slots: tasks that it can run at once.
    """
    if look.queues is None:
        return "it does not answer"
    missing = [name for name in queues if name not in look.queues]
    if missing:
        return f"it does not consume from {', '.join(missing)}"
    free = slots - look.running
    if free <= 0:
        return ""
    waiting = [name for name in queues if name in look.oldest and look.oldest[name] == before.oldest.get(name)]
    if waiting:
        return f"{free} of its {slots} slots are free, and the oldest task in {', '.join(waiting)} still waits"
    unbegun = set(look.received) & set(before.received)
    if unbegun:
        return f"{free} of its {slots} slots are free, and it has not begun {len(unbegun)} of the tasks that it took"
    return ""


def next_memory(memory: Memory, start: float, look: Look, found: str) -> Memory:
    """What to keep after a look that found this trouble, or none; a worker that was started anew begins anew."""
    bad = memory.bad if memory.start == start else 0
    return Memory(start, bad + 1 if found else 0, look.oldest, look.received)


def look_at(worker: str, queues: Sequence[str]) -> Look:
    """Ask the worker and the broker.

    :param worker: Celery's name of it.
    :raises OSError: when the broker does not answer.
    """
    from celery import Celery
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    app = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    app.conf.broker_connection_retry = False
    # Who consumes hands on messages that nobody acknowledged for so long, and this one must never.
    year = 365 * 24 * 3600
    app.conf.broker_transport_options = {"socket_timeout": 10, "socket_connect_timeout": 5, "visibility_timeout": year}
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1)
            client = connection.default_channel.client
            waiting = {name: client.lindex(name, -1) for name in queues}
        ask = app.control.inspect(destination=[worker], timeout=10, limit=1)
        consumed = (ask.active_queues() or {}).get(worker)
        running = (ask.active() or {}).get(worker) if consumed is not None else None
        received = (ask.reserved() or {}).get(worker) if running is not None else None
    except (OperationalError, RedisError) as problem:
        raise OSError(str(problem)) from problem
    oldest = {name: str(json.loads(text)["headers"]["id"]) for name, text in waiting.items() if text}
    if consumed is None or running is None or received is None:
        return Look(oldest=oldest)
    return Look([queue["name"] for queue in consumed], len(running), oldest, [task["id"] for task in received])


def read(path: Path) -> Memory:
    """What the last look left; nothing after a reboot."""
    try:
        return Memory(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Memory()


def check(told: argparse.Namespace, now: float, ask: Any = look_at) -> str:
    """Look once, and remember it. Returns what is to be said.

    :param now: seconds since the epoch.
    :param ask: asks the worker and the broker, as :func:`look_at` does.
    """
    memory, verdict = told.folder / "looks.json", told.folder / "restart"
    verdict.unlink(missing_ok=True)
    try:
        start = told.record.stat().st_mtime
    except OSError:
        return "nothing to look at: it is stopped, or being taken out"
    if now - start < GRACE:
        return "nothing to look at yet: it was just started"
    before = read(memory)
    try:
        look = ask(told.worker, told.queues)
    except OSError as problem:
        memory.unlink(missing_ok=True)
        return f"the broker does not answer: {problem}"
    found = trouble(look, before if before.start == start else Memory(), told.queues, told.slots)
    after = next_memory(before, start, look, found)
    memory.write_text(json.dumps(asdict(after)))
    if after.bad >= LOOKS:
        verdict.touch()
        return f"{found}: it is restarted; its running tasks finish"
    return f"{found} ({after.bad} of {LOOKS} looks)" if found else "it takes tasks"


def main(argv: Sequence[str]) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("worker", help="Celery's name of the worker")
    parser.add_argument("queues", type=lambda names: names.split(","), help="what it is meant to consume from")
    parser.add_argument("slots", type=int, help="tasks that it can run at once")
    parser.add_argument("record", type=Path, help="file that is written when it starts, and goes when it stops")
    parser.add_argument("folder", type=Path, help="where the looks are remembered")
    signal.alarm(PATIENCE)
    told = parser.parse_args(argv)
    print(f"{told.worker}: {check(told, time.time())}")


if __name__ == "__main__":
    main(sys.argv[1:])
