"""Workers whose slots are all taken lose the broker, and go on with as many tasks as they have slots for."""

from __future__ import annotations

import pytest
from conftest import Api, Cluster, python_as, wait_until

pytestmark = pytest.mark.usefixtures("own_dags")

# Away for long enough that a worker cannot give back what it has taken.
AWAY = "systemctl kill --signal=KILL redis-server; systemctl stop redis-server; sleep 5; systemctl start redis-server"
ASK = """
import json, os
from celery import Celery
inspect = Celery(broker=os.environ['AIRFLOW__CELERY__BROKER_URL']).control.inspect(timeout=5)
found = {'active': inspect.active(), 'reserved': inspect.reserved()}
counts = {what: {name: len(tasks) for name, tasks in (of or {}).items()} for what, of in found.items()}
print(json.dumps(counts, sort_keys=True))
"""


def states(api: Api, runs: list[str]) -> list[str]:
    """States of all tasks of some runs."""
    return [task["state"] for run in runs for task in api.tasks(run)]


def has(cluster: Cluster) -> str:
    """How many tasks each worker runs, and has taken and not begun, as Celery knows it."""
    return str(cluster.host("control1").check_output(python_as("cli"), ASK)).strip()


def test_full_workers_lose_the_broker(cluster: Cluster, api: Api) -> None:
    slots = cluster.variables["worker1"]["airflow_worker_concurrency"]
    # The first two end when the others have half a minute to go.
    long = [api.start_dag("patient", seconds=seconds) for seconds in [75, *[105] * (slots - 1)]]
    wait_until(lambda: states(api, long) == ["running"] * 2 * slots, 60)
    cluster.host("db1").check_output(AWAY)
    wait_until(lambda: has(cluster).count("celery@") == 4, 30)
    # Sent at once, and taken by nobody: each worker runs all that it has slots for.
    waiting = [api.start_dag("patient", seconds=1) for _ in range(2)]
    wait_until(lambda: states(api, waiting) == ["queued"] * 4, 30)
    cluster.host("db1").check_output(AWAY)
    wait_until(lambda: has(cluster).count("celery@") == 4, 30)
    assert states(api, long) == ["running"] * 2 * slots, "they ended too early to prove anything"
    assert has(cluster) == (
        f'{{"active": {{"celery@worker1": {slots}, "celery@worker2": {slots}}},'
        ' "reserved": {"celery@worker1": 0, "celery@worker2": 0}}'
    )
    # What waits gets the processes that are free: behind another task it would not begin before that ends.
    wait_until(lambda: set(states(api, long[:1])) == {"success"}, 90)
    wait_until(lambda: set(states(api, waiting)) == {"success"}, 15)
    assert states(api, long[1:]) == ["running"] * 2 * (slots - 1)
    wait_until(lambda: set(states(api, long)) == {"success"}, 60)
    # Every slot is used again.
    later = [api.start_dag("patient", seconds=20) for _ in range(slots)]
    wait_until(lambda: states(api, later) == ["running"] * 2 * slots, 20)
    wait_until(lambda: set(states(api, later)) == {"success"}, 60)
    assert {task["try_number"] for run in [*long, *waiting, *later] for task in api.tasks(run)} == {1}
