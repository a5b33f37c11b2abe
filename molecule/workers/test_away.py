"""A worker that cannot be reached. Runs after test_added.py, which adds it."""

from __future__ import annotations

import subprocess

from conftest import OWN_DAGS, booted, restarted, wait_until


def test_worker_that_is_away_holds_up_nobody(cluster):
    """The others get their new settings, the run says who did not; the next one with it there makes up for it."""
    container = f"airflow-{cluster.variable('lab_name')}-worker3"
    before = cluster.started()
    for worker in ("worker1", "worker3"):
        cluster.change(f"host_vars/{worker}/concurrency.yml", "---\nairflow_worker_concurrency: 5\n")
    subprocess.run(["podman", "stop", "--time=10", container], check=True, capture_output=True)
    try:
        output = cluster.play("site.yml", *OWN_DAGS, succeeds=False)
    finally:
        subprocess.run(["podman", "start", container], check=True, capture_output=True)
    assert "worker3 cannot be reached: it keeps what it has" in output
    wait_until(lambda: booted(cluster, "worker3") != "", 90)
    after = cluster.started()
    assert restarted(before, after) - {"worker3/airflow-worker"} == {
        "worker1/airflow-worker",
        "control1/airflow-scheduler",
    }
    cluster.play("site.yml", *OWN_DAGS)
    assert restarted(after, cluster.started()) == {"worker3/airflow-worker"}
    banner = "journalctl --unit airflow-worker --no-pager | grep concurrency: | tail -1"
    assert "concurrency: 5" in cluster.host("worker3").check_output(banner)
