"""Restarts in batches that wait for each other.

Runs after test_operations.py, which adds worker3.
"""

from __future__ import annotations

from conftest import restarted

CHANGE = "group_vars/all/zzz_rolling.yml"


def order(cluster, names) -> list[float]:
    """Seconds since the epoch at which the worker of each host became active."""
    show = 'date +%s --date="$(systemctl show --value --property=ActiveEnterTimestamp airflow-worker)"'
    return [float(cluster.host(name).check_output(show)) for name in names]


def test_worker_that_does_not_come_back_stops_the_next(cluster):
    before = cluster.started()
    cluster.change(CHANGE, "airflow_service_options: {worker: {ExecStartPost: /bin/false}}\n")
    output = cluster.play("site.yml", succeeds=False)
    assert "worker1" in output
    after = cluster.started()
    assert ("worker1", "airflow-worker.service") not in after
    assert restarted(before, after) == set()
    cluster.change(CHANGE, "---\n")
    cluster.play("site.yml")
    assert restarted(before, cluster.started()) == {"worker1/airflow-worker"}


def test_restart_on_request(cluster):
    before = cluster.started()
    cluster.play("playbooks/restart.yml", "--limit", "worker1,worker3")
    assert restarted(before, cluster.started()) == {"worker1/airflow-worker", "worker3/airflow-worker"}
    first, second = order(cluster, ("worker1", "worker3"))
    assert first < second
