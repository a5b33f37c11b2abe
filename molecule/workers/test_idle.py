"""A worker that is alive and takes no tasks is noticed by its timer and restarted, and nobody else is."""

from __future__ import annotations

import pytest
from conftest import OWN_DAGS, python_as, restarted, wait_until

CHANGE = "group_vars/all/zzz_check.yml"
# As some workers are after the broker was away: it answers, and consumes from nothing but the queue of its name.
DEAFEN = """
import os
from celery import Celery
app = Celery(broker=os.environ['AIRFLOW__CELERY__BROKER_URL'])
print(app.control.cancel_consumer('default', destination=['celery@worker2'], reply=True, timeout=5))
"""


@pytest.fixture(scope="module", autouse=True)
def looks_every_five_seconds(cluster, own_dags):
    """Have the timer of worker2 look often, which restarts nothing."""
    before = cluster.started()
    cluster.change(CHANGE, "---\nairflow_worker_check_interval: 5\n")
    cluster.play("site.yml", "--limit", "worker2", *OWN_DAGS)
    assert restarted(before, cluster.started()) == set()
    yield
    cluster.change(CHANGE, "---\n")
    cluster.play("site.yml", "--limit", "worker2", *OWN_DAGS)


def looked(cluster, word: str, since: str) -> bool:
    """Whether the timer of worker2 said something since then."""
    ask = f"journalctl --unit=airflow-worker-check --no-pager --output=cat --since=@{since}"
    return word in cluster.host("worker2").check_output(ask)


def test_worker_that_works_is_left_alone(cluster):
    before = cluster.started()
    now = cluster.host("worker2").check_output("date +%s")
    wait_until(lambda: looked(cluster, "celery@worker2: it takes tasks", now), 60)
    assert restarted(before, cluster.started()) == set()


def test_worker_that_answers_and_does_not_consume(cluster, api):
    """Its running task finishes, on its first try."""
    patient = api.start_dag("patient")
    wait_until(lambda: [task["state"] for task in api.tasks(patient)] == ["running"], 60)
    before = cluster.started()
    now = cluster.host("worker2").check_output("date +%s")
    assert "no longer consuming" in cluster.host("control1").check_output(python_as("cli"), DEAFEN)
    wait_until(lambda: looked(cluster, "does not consume from default: it is restarted", now), 60)
    assert [task["state"] for task in api.tasks(patient)] == ["running"]
    wait_until(lambda: restarted(before, cluster.started()) == {"worker2/airflow-worker"}, 240)
    (task,) = api.tasks(patient)
    assert (task["state"], task["try_number"]) == ("success", 1)


def test_worker_that_does_not_begin_what_it_took(cluster, api):
    """Nothing waits in its queues; the task goes back there with the restart, and succeeds on its first try."""
    worker = cluster.host("worker2")
    # A worker that was just started is left alone.
    before = cluster.started()
    now = worker.check_output("date +%s")
    wait_until(lambda: looked(cluster, "it takes tasks", now), 120)
    worker.check_output("pkill --signal STOP --full 'celeryd: .*ForkPool[W]orker'")
    patient = api.start_dag("patient")
    wait_until(lambda: looked(cluster, "it has not begun 1 of the tasks that it took: it is restarted", now), 120)
    wait_until(lambda: restarted(before, cluster.started()) == {"worker2/airflow-worker"}, 240)
    wait_until(lambda: [task["state"] for task in api.tasks(patient)] == ["success"], 240)
    assert [task["try_number"] for task in api.tasks(patient)] == [1]


def test_worker_that_does_not_answer(cluster):
    worker = cluster.host("worker2")
    # A worker that was just started is left alone.
    before = cluster.started()
    now = worker.check_output("date +%s")
    wait_until(lambda: looked(cluster, "it takes tasks", now), 120)
    worker.check_output("kill -STOP $(systemctl show --value --property=MainPID airflow-worker)")
    wait_until(lambda: looked(cluster, "it does not answer: it is restarted", now), 120)
    wait_until(lambda: restarted(before, cluster.started()) == {"worker2/airflow-worker"}, 120)
    cluster.play("playbooks/verify.yml")
