"""A worker that is added on its own, and then counted by the others."""

from __future__ import annotations

import pytest
from conftest import INVENTORY, OWN_DAGS, changes, restarted, wait_until

pytestmark = pytest.mark.usefixtures("own_dags")


def begin(cluster, api) -> str:
    """Start a task on worker2 that runs until :func:`finish`; the path of its run."""
    cluster.host("worker2").check_output("rm -f /var/lib/airflow/enough")
    run = api.start_dag("patient", seconds=900)
    wait_until(lambda: states(api, run) == [("running", 1)], 60)
    return str(run)


def finish(cluster, api, run) -> None:
    """Require that the task runs still, let it end, and wait for its success."""
    assert states(api, run) == [("running", 1)]
    worker = cluster.host("worker2")
    worker.check_output("touch /var/lib/airflow/enough")
    wait_until(lambda: states(api, run) == [("success", 1)], 60)
    worker.check_output("rm /var/lib/airflow/enough")


def states(api, run) -> list[tuple[str, int]]:
    """State of each task of a run, and how often it was tried."""
    return [(task["state"], task["try_number"]) for task in api.tasks(run)]


def test_limit_to_a_new_worker_makes_it_work(cluster, api):
    """Nobody else is touched but the database's list of clients, and the run says what the others have to learn."""
    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("        worker2:\n", "        worker2:\n        worker3:\n"))
    cluster.read_inventory()
    cluster.play("lab/create.yml")
    before = cluster.started()
    running = begin(cluster, api)
    output = cluster.play("site.yml", "--limit", "worker3", *OWN_DAGS)
    assert restarted(before, cluster.started()) == {"worker3/airflow-worker"}
    for word in ("--limit left out", "db1: max_connections", "control1: parallelism", "remedy:"):
        assert word in output, word
    # Its tasks run, their results are stored and their logs are read; nobody else's settings were needed for it.
    cluster.play("playbooks/verify.yml")
    finish(cluster, api, running)
    again = cluster.play("site.yml", "--limit", "worker3", *OWN_DAGS)
    assert changes(again) == 0


def test_run_over_all_hosts_counts_it(cluster, api):
    control = cluster.host("control1")

    def capacity() -> list[int]:
        """What the scheduler and the default pool have room for."""
        parallelism = int(control.check_output("airflow config get-value core parallelism"))
        return [parallelism, int(api.ask("GET", "/api/v2/pools/default_pool")[1]["slots"])]

    fewer = capacity()
    running = begin(cluster, api)
    before = cluster.started()
    output = cluster.play("site.yml", *OWN_DAGS)
    assert restarted(before, cluster.started()) == {"control1/airflow-scheduler"}
    assert fewer == [2 * 8, 2 * 8] and capacity() == [2 * 12, 2 * 12], "slots, and as many that may be queued besides"
    # The database's list was complete.
    assert "db1" not in [
        line.split()[0] for line in output.splitlines() if "changed=" in line and "changed=0" not in line
    ]
    finish(cluster, api, running)
