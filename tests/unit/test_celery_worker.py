"""celery_worker: what is asked of Celery and told to it, what is let out of its answers, and a broker that is away."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.celery_worker import BrokerError, Look, ping, talk

BROKER = "redis://airflow:s3cr3t@db1/0"
TOKEN = "t0ken-of-a-task"  # noqa: S105


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter whose Celery keeps what it is told in a file, and breaks at a broker called `broken`."""
    package = tmp_path / "celery"
    package.mkdir()
    ti = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 2}
    airflow = {"id": "one", "args": [json.dumps({"token": TOKEN, "ti": ti})]}
    (package / "__init__.py").write_text(
        "import json, pathlib, types\n"
        f"STATE = pathlib.Path({str(tmp_path / 'state')!r})\n"
        f"AIRFLOW = {airflow!r}\n"
        "OTHER = {'id': 'two', 'args': 'cut off...'}\n"
        "class Celery:\n"
        "    def __init__(self, broker):\n"
        "        self.broker, self.conf = broker, types.SimpleNamespace()\n"
        "        self.control = self\n"
        "    def reach(self):\n"
        "        if 'broken' in self.broker:\n"
        "            raise OSError('WRONGPASS invalid username-password pair')\n"
        "        if 'mute' in self.broker:\n"
        "            raise SystemExit(1)\n"
        "        assert self.conf.broker_connection_retry is False and 's3cr3t' in self.broker\n"
        "        assert self.conf.broker_transport_options['socket_connect_timeout'] == 5\n"
        "    def tell(self, *what, destination, timeout, limit, reply):\n"
        "        assert reply and limit == 1 and destination == ['celery@worker1']\n"
        "        with STATE.open('a') as file:\n"
        "            print(*what, file=file)\n"
        "    def cancel_consumer(self, queue, **how):\n"
        "        self.tell('cancel', queue, **how)\n"
        "    def add_consumer(self, queue, **how):\n"
        "        self.tell('add', queue, **how)\n"
        "    def ping(self, destination=None, timeout=1.0, limit=None):\n"
        "        self.reach()\n"
        "        workers = ['celery@worker2', 'celery@worker1']\n"
        "        return [{w: {'ok': 'pong'}} for w in workers if destination is None or w in destination][:limit]\n"
        "    def inspect(self, destination, timeout, limit):\n"
        "        self.reach()\n"
        "        self.known = destination == ['celery@worker1']\n"
        "        return self\n"
        "    def answer(self, what):\n"
        "        return {'celery@worker1': what} if self.known else None\n"
        "    def active_queues(self):\n"
        "        return self.answer([{'name': 'default'}])\n"
        "    def active(self):\n"
        "        return self.answer([AIRFLOW])\n"
        "    def reserved(self):\n"
        "        return self.answer([OTHER])\n"
        "    def scheduled(self):\n"
        "        return self.answer([{'eta': None, 'request': {'id': 'three', 'args': []}}, {'request': AIRFLOW}])\n"
    )
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def test_every_kind_of_task_is_told_once_and_without_its_token(python: str) -> None:
    look = talk(python, BROKER, "celery@worker1")
    assert look is not None and look.queues == ["default"]
    unknown = {"dag_id": None, "run_id": None, "task_id": None, "map_index": None}
    assert look.tasks == [
        {"id": "one", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 2},
        {"id": "two", **unknown},
        {"id": "three", **unknown},
    ]
    assert TOKEN not in json.dumps(look.tasks)


def test_each_queue_is_told(python: str, tmp_path: Path) -> None:
    talk(python, BROKER, "celery@worker1", cancel=["a", "b"], add=["c"])
    assert (tmp_path / "state").read_text().splitlines() == ["cancel a", "cancel b", "add c"]


def test_nobody_answers(python: str) -> None:
    assert talk(python, BROKER, "celery@other") is None


def test_workers_that_answer_a_ping(python: str) -> None:
    assert ping(python, BROKER) == ["celery@worker2", "celery@worker1"]
    assert ping(python, BROKER, "celery@worker1") == ["celery@worker1"]
    assert ping(python, BROKER, "celery@worker3") == []
    # A worker without a name is not every worker.
    assert ping(python, BROKER, "") == []


def of_worker1(python: str, broker: str) -> Look | None:
    return talk(python, broker, "celery@worker1")


@pytest.mark.parametrize("ask", [ping, of_worker1])
def test_a_broker_that_cannot_be_asked(python: str, ask: Callable[[str, str], object]) -> None:
    with pytest.raises(BrokerError, match=r"^OSError: WRONGPASS invalid username-password pair$"):
        ask(python, f"{BROKER}?broken")
    with pytest.raises(BrokerError, match=r"^no answer$"):
        ask(python, f"{BROKER}?mute")


@pytest.mark.parametrize("ask", [ping, of_worker1])
def test_the_password_is_no_argument(tmp_path: Path, ask: Callable[[str, str], object]) -> None:
    spy = tmp_path / "spy"
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\necho null\n')
    spy.chmod(0o755)
    assert ask(str(spy), BROKER) is None
    assert "s3cr3t" not in (tmp_path / "arguments").read_text()
