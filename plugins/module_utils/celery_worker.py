# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Asks Celery's workers through the broker: which answer, and what one does; and tells it which queues to consume."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Celery is in Airflow's interpreter, not in that of the module. The broker's URL holds a password: no argument.
CONNECT = """
import json, os, sys
from celery import Celery
told = json.loads(sys.argv[1])
app = Celery(broker=os.environ['BROKER_URL'])
app.conf.broker_connection_retry = False
# Who consumes hands on messages that nobody acknowledged for so long, and this one, in wait for answers, must never.
year = 365 * 24 * 3600
app.conf.broker_transport_options = {
    'socket_timeout': told['patience'], 'socket_connect_timeout': 5, 'visibility_timeout': year}
"""

PING = """
print(json.dumps([name for answer in app.control.ping(**told['options']) for name in answer]))
"""

# The arguments of a task hold the token that it runs with, so that only its names are let out. A worker carries out
# what it is told a moment after it has answered: the queues that it tells afterwards may still be those of before.
TALK = """
worker = told['worker']
one = {'destination': [worker], 'timeout': told['timeout'], 'limit': 1}
for queue in told['cancel']:
    app.control.cancel_consumer(queue, reply=True, **one)
for queue in told['add']:
    app.control.add_consumer(queue, reply=True, **one)

def ask(command):
    return (getattr(app.control.inspect(**one), command)() or {}).get(worker)

def told_of(request):
    try:
        task = json.loads(request['args'][0])['ti']
    except Exception:
        task = {}
    return {'id': request['id'], **{name: task.get(name) for name in ('dag_id', 'run_id', 'task_id', 'map_index')}}

answers = {}
for command in ('active_queues', 'active', 'reserved', 'scheduled'):
    answers[command] = ask(command)
    if answers[command] is None:
        print('null')
        sys.exit()
requests = answers['active'] + answers['reserved'] + [entry['request'] for entry in answers['scheduled']]
print(json.dumps({'queues': [queue['name'] for queue in answers['active_queues']],
                  'tasks': list({task['id']: task for task in map(told_of, requests)}.values())}))
"""


class BrokerError(Exception):
    """The last line of what Celery complained about."""


@dataclass(frozen=True)
class Look:
    """What a worker does.

    :ivar queues: names of the queues that it consumes from.
    :ivar tasks: what it runs, has received or keeps for later: ``id`` is Celery's; ``dag_id``, ``run_id``, ``task_id``
        and ``map_index`` are Airflow's, None where the message does not tell.
    """

    queues: list[str]
    tasks: list[dict[str, Any]]


def _run(python: str, broker_url: str, question: str, told: dict[str, Any]) -> Any:
    """Run a question in Airflow's interpreter, and return what it prints last.

    :param told: ``patience``, the seconds to wait for the broker, and what the question reads.
    :raises BrokerError: when the broker cannot be asked.
    """
    done = subprocess.run(
        [python, "-c", CONNECT + question, json.dumps(told)],
        env={**os.environ, "BROKER_URL": broker_url},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BrokerError((done.stderr.strip().splitlines() or ["no answer"])[-1])
    return json.loads(done.stdout.rstrip().rpartition("\n")[2])


def ping(python: str, broker_url: str, worker: str | None = None) -> list[str]:
    """Return Celery's names of the workers that answer a ping.

    :param python: interpreter that can import Celery.
    :param worker: ask only the one with this name, and do not wait for others.
    :raises BrokerError: when the broker cannot be asked.
    """
    options: dict[str, Any] = {"timeout": 2}
    if worker is not None:
        options = {"destination": [worker], "timeout": 3, "limit": 1}
    names: list[str] = _run(python, broker_url, PING, {"options": options, "patience": 5})
    return names


def talk(
    python: str,
    broker_url: str,
    worker: str,
    *,
    cancel: Sequence[str] = (),
    add: Sequence[str] = (),
    timeout: float = 5,
) -> Look | None:
    """Tell a worker from which queues to consume, and return what it does; None when it does not answer.

    :param python: interpreter that can import Celery.
    :param worker: Celery's name of it, such as ``celery@worker1``.
    :param cancel: queues to consume no longer.
    :param add: queues to consume from as well.
    :param timeout: seconds for each answer.
    :raises BrokerError: when the broker cannot be asked.
    """
    told = {"worker": worker, "cancel": list(cancel), "add": list(add), "timeout": timeout, "patience": 10}
    answer = _run(python, broker_url, TALK, told)
    return None if answer is None else Look(**answer)
