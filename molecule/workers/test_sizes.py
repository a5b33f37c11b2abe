"""Several workers on one host, with queues, limits and bounds of their own: they come, work, stay and go.

Runs after test_removal.py, which leaves worker1 and worker2.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest
from conftest import OWN_DAGS, changes, python_as, restarted, wait_until

CHANGE = "host_vars/worker2/sizes.yml"
SIZES = """---
airflow_worker_instances:
  big: {queues: [large], concurrency: 2, memory_max: 1G, cpu_quota: 150%}
  grows: {queues: [], autoscale: "2,1"}
"""
INSTANCES = {"worker2/airflow-worker@big", "worker2/airflow-worker@grows"}
REMOVE = ("playbooks/worker_remove.yml", "-e", "worker=worker2", "-e", "confirm=true")
SERVED = {
    "celery@worker1": ["default", "worker1"],
    "celery@worker2": ["default", "worker2"],
    "celery@worker2-big": ["large", "worker2-big"],
    "celery@worker2-grows": ["worker2-grows"],
}
# What every worker consumes from, as they say themselves.
QUEUES = """
import json, os
from celery import Celery
app = Celery(broker=os.environ['AIRFLOW__CELERY__BROKER_URL'])
answers = app.control.inspect(timeout=5).active_queues() or {}
print(json.dumps({worker: sorted(queue['name'] for queue in queues) for worker, queues in answers.items()}))
"""

pytestmark = pytest.mark.usefixtures("sizes")


@pytest.fixture(scope="module")
def sizes(cluster):
    """Give worker2 two more workers; the last test takes them away, and this does where it did not get there."""
    before = cluster.started()
    cluster.change(CHANGE, SIZES)
    cluster.play("site.yml", *OWN_DAGS)
    yield restarted(before, cluster.started())
    if "big" in cluster.variables["worker2"].get("airflow_worker_instances", {}):
        cluster.change(CHANGE, "---\n")
        cluster.play("site.yml", *OWN_DAGS)


def served(cluster) -> dict[str, list[str]]:
    """Queues that each worker consumes from."""
    found = json.loads(cluster.host("control1").check_output(python_as("cli"), QUEUES).splitlines()[-1])
    return {str(worker): list(queues) for worker, queues in found.items()}


def start(api, seconds: int) -> str:
    """Start a task of so many seconds in the queue `large`, and wait until it runs; the path of its run."""
    wait_until(lambda: api.ask("PATCH", "/api/v2/dags/large", {"is_paused": False})[0] == 200, 120)
    body = {"logical_date": None, "conf": {"seconds": seconds}}
    status, run = api.ask("POST", "/api/v2/dags/large/dagRuns", body)
    assert status == 200, run
    path = f"/api/v2/dags/large/dagRuns/{quote(run['dag_run_id'], safe='')}"
    wait_until(lambda: api.tasks(path)[0]["state"] in ("running", "success"), 60)
    return path


def finish(api, run: str, timeout: float) -> dict[str, object]:
    """Wait for the end of the only task of a run; the task."""
    wait_until(lambda: api.ask("GET", run)[1]["state"] in ("success", "failed"), timeout)
    (task,) = api.tasks(run)
    return dict(task)


def main_pid(cluster, unit: str) -> str:
    """Main process of a unit of worker2."""
    return str(cluster.host("worker2").check_output(f"systemctl show --value --property=MainPID {unit}"))


def test_new_workers_restart_the_scheduler_only(cluster, sizes):
    """It counts their slots; worker2's own worker does not know of them."""
    assert sizes == INSTANCES | {"control1/airflow-scheduler"}
    assert changes(cluster.play("site.yml", *OWN_DAGS)) == 0


def test_each_serves_its_queues(cluster):
    assert served(cluster) == SERVED


def test_limits_are_those_of_the_settings(cluster):
    ask = "systemctl show --property=MemoryMax,CPUQuotaPerSecUSec,OOMPolicy"
    shown = cluster.host("worker2").check_output(f"{ask} airflow-worker@big")
    assert "MemoryMax=1073741824" in shown and "OOMPolicy=continue" in shown
    assert re.search(r"(?m)^CPUQuotaPerSecUSec=1\.50*s$", shown), shown
    for unit in ("airflow-worker", "airflow-worker@grows"):
        shown = cluster.host("worker2").check_output(f"{ask} {unit}")
        assert {"MemoryMax=infinity", "CPUQuotaPerSecUSec=infinity", "OOMPolicy=continue"} == set(shown.splitlines())


def test_bounds_are_those_of_the_settings(cluster):
    banner = "journalctl --unit {} --no-pager | grep concurrency: | tail -1"
    worker = cluster.host("worker2")
    assert "concurrency: {min=1, max=2}" in worker.check_output(banner.format("airflow-worker@grows"))
    assert "concurrency: 2" in worker.check_output(banner.format("airflow-worker@big"))


def test_tasks_of_its_queue_run_there(cluster, api):
    run = start(api, 1)
    task = finish(api, run, 60)
    assert (task["state"], task["hostname"]) == ("success", cluster.address("worker2"))
    # Served by the only log server of the host, which is the other worker's.
    status, log = api.ask("GET", f"{run}/taskInstances/rest/logs/1")
    assert status == 200 and "airflow-worker@big.service" in json.dumps(log), log


def test_the_cluster_is_verified_with_them(cluster):
    output = cluster.play("playbooks/verify.yml")
    for unit in ("airflow-worker ", "airflow-worker@big ", "airflow-worker@grows "):
        assert re.search(rf"(?m)^\s*worker2 +{re.escape(unit)}", output), unit


def test_each_has_a_timer(cluster):
    for at in ("", "@big", "@grows"):
        assert cluster.host("worker2").service(f"airflow-worker-check{at}.timer").is_running, at


def test_killed_task_does_not_end_the_worker(cluster, api):
    """As when the kernel ends it for want of memory."""
    run = start(api, 300)
    mine = (
        "for task in $(pgrep --uid airflow --full '^airflow worker -- '); do "
        "if grep -q '/airflow-worker@big[.]service' /proc/$task/cgroup; then echo $task; fi; done"
    )
    before = main_pid(cluster, "airflow-worker@big")
    worker = cluster.host("worker2")
    wait_until(lambda: worker.check_output(mine) != "", 30)
    assert worker.run(f"kill -KILL $({mine})").rc == 0
    assert finish(api, run, 100)["state"] == "failed"
    assert main_pid(cluster, "airflow-worker@big") == before != "0"
    assert finish(api, start(api, 1), 60)["state"] == "success"


def test_host_with_the_last_worker_of_a_queue_is_refused(cluster):
    output = cluster.play(*REMOVE, succeeds=False)
    assert "worker2 is needed" in output and "large" in output and changes(output) == 0


def test_missed_deadline_puts_all_workers_of_the_host_back(cluster, api):
    before = cluster.started()
    run = start(api, 90)
    # For this run, the others serve the queue as well.
    elsewhere = ("-e", '{"airflow_worker_queues": ["default", "large"]}')
    output = cluster.play(*REMOVE, *elsewhere, "-e", "deadline=5", succeeds=False)
    for word in ("was not taken out", "celery@worker2-big still has large.rest", "in service again"):
        assert word in output, word
    assert restarted(before, cluster.started()) == set()
    found = served(cluster)
    assert all(set(queues) <= set(found[worker]) for worker, queues in SERVED.items()), found
    task = finish(api, run, 120)
    assert (task["state"], task["try_number"]) == ("success", 1)
    cluster.play("site.yml", *OWN_DAGS)
    assert restarted(before, cluster.started()) == INSTANCES | {"worker2/airflow-worker"}
    assert served(cluster) == SERVED


def test_workers_that_leave_restart_the_scheduler_only(cluster):
    before = cluster.started()
    cluster.change(CHANGE, "---\n")
    cluster.play("site.yml", *OWN_DAGS)
    assert restarted(before, cluster.started()) == {"control1/airflow-scheduler"}
    worker = cluster.host("worker2")
    left = "find /etc/systemd/system /etc/airflow /opt/airflow -maxdepth 2 -name '*worker*@*'"
    assert worker.check_output(left) == ""
    active = "systemctl list-units --no-legend --state=active 'airflow-worker@*' 'airflow-worker-check@*'"
    assert worker.check_output(active) == ""
    assert {name: SERVED[name] for name in ("celery@worker1", "celery@worker2")} == served(cluster)
    cluster.play("playbooks/verify.yml")
