"""New settings and a new release for everything, batch by batch, under a load of tasks.

Runs after test_added.py, which adds worker3.
"""

from __future__ import annotations

import threading
from urllib.parse import quote

import pytest
from conftest import OWN_DAGS, restarted, wait_until

CHANGE = "group_vars/all/zzz_rolling.yml"
COMPONENTS = {
    f"control1/airflow-{name}" for name in ("scheduler", "api-server", "dag-processor", "triggerer", "flower")
}
WORKERS = ("worker1", "worker2", "worker3")


pytestmark = pytest.mark.usefixtures("own_dags")


def order(cluster, names) -> list[float]:
    """Seconds since the epoch at which the worker of each host became active."""
    show = 'date +%s --date="$(systemctl show --value --property=ActiveEnterTimestamp airflow-worker)"'
    return [float(cluster.host(name).check_output(show)) for name in names]


def test_worker_that_does_not_come_back_stops_the_next(cluster):
    before = cluster.started()
    cluster.change(CHANGE, "airflow_service_options: {worker: {ExecStartPost: /bin/false}}\n")
    output = cluster.play("site.yml", *OWN_DAGS, succeeds=False)
    assert "worker1" in output
    after = cluster.started()
    assert ("worker1", "airflow-worker.service") not in after
    assert restarted(before, after) == set()
    cluster.change(CHANGE, "---\n")
    cluster.play("site.yml", *OWN_DAGS)
    assert restarted(before, cluster.started()) == {"worker1/airflow-worker"}


def new_settings(cluster) -> None:
    """Change what every component reads."""
    cluster.change(CHANGE, "airflow_config: {core: {default_task_retry_delay: 301}}\n")


def new_release(cluster) -> None:
    """Add a package: every host of Airflow gets a new set of them, and every component starts from it."""
    cluster.change(CHANGE, "airflow_requirements: [emoji==2.14.0]\n")
    cluster.play("playbooks/lock.yml")


@pytest.mark.parametrize("renew", [new_settings, new_release])
def test_what_is_new_everywhere_loses_no_task(renew, cluster, api):
    """A task of 120 s that runs when its worker is due, and short ones throughout: each succeeds on its first try."""
    runs: list[str] = []
    over = threading.Event()

    def submit() -> None:
        """Start ten short tasks, again and again; what the API server did not take is not there to be lost."""
        while not over.wait(3) or len(runs) < 20:
            try:
                status, run = api.ask("POST", "/api/v2/dags/stream/dagRuns", {"logical_date": None})
            except OSError:
                continue
            if status == 200:
                runs.append(f"/api/v2/dags/stream/dagRuns/{quote(run['dag_run_id'], safe='')}")

    wait_until(lambda: api.ask("PATCH", "/api/v2/dags/stream", {"is_paused": False})[0] == 200, 120)
    renew(cluster)
    patient = api.start_dag("patient")
    wait_until(lambda: [task["state"] for task in api.tasks(patient)] == ["running"], 60)
    before = cluster.started()
    stream = threading.Thread(target=submit)
    stream.start()
    try:
        cluster.play("site.yml", *OWN_DAGS)
    finally:
        over.set()
        stream.join()
    after = cluster.started()
    assert restarted(before, after) == COMPONENTS | {f"{name}/airflow-worker" for name in WORKERS}
    control = {unit: int(time) for (host, unit), time in after.items() if host == "control1"}
    answered = control.pop("airflow-api-server.service") + 2_000_000
    assert answered < min(control.values()), "the others wait until the API server answers, which takes seconds"
    starts = order(cluster, WORKERS)
    assert starts == sorted(starts) and len(set(starts)) == len(WORKERS), "one worker after the other"
    for run in [patient, *runs]:
        wait_until(lambda run=run: api.ask("GET", run)[1]["state"] in ("success", "failed"), 300)
    tasks = [task for run in [patient, *runs] for task in api.tasks(run)]
    assert len(tasks) >= 201
    wrong = [task for task in tasks if (task["state"], task["try_number"]) != ("success", 1)]
    assert wrong == [], wrong[:3]


def test_restart_on_request(cluster):
    before = cluster.started()
    cluster.play("playbooks/restart.yml", "--limit", "worker1,worker3")
    assert restarted(before, cluster.started()) == {"worker1/airflow-worker", "worker3/airflow-worker"}
    first, second = order(cluster, ("worker1", "worker3"))
    assert first < second
