"""A worker that is added on its own, and then counted by the others."""

from __future__ import annotations

from conftest import INVENTORY, changes, restarted, wait_until


def test_limit_to_a_new_worker_makes_it_work(cluster, api):
    """Nobody else is touched but the database's list of clients, and the run says what the others have to learn."""
    running = api.start_dag("parallel_dag")
    before = cluster.started()
    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("        worker2:\n", "        worker2:\n        worker3:\n"))
    cluster.read_inventory()
    cluster.play("lab/create.yml")
    output = cluster.play("site.yml", "--limit", "worker3")
    assert restarted(before, cluster.started()) == {"worker3/airflow-worker"}
    for word in ("--limit left out", "db1: max_connections", "control1: parallelism", "remedy:"):
        assert word in output, word
    wait_until(lambda: api.ask("GET", running)[1]["state"] == "success", 60)
    assert {task["try_number"] for task in api.tasks(running)} == {1}
    # Its tasks run, their results are stored and their logs are read; nobody else's settings were needed for it.
    cluster.play("playbooks/verify.yml")
    again = cluster.play("site.yml", "--limit", "worker3")
    assert changes(again) == 0


def test_run_over_all_hosts_counts_it(cluster):
    control = cluster.host("control1")
    ask = "airflow config get-value core parallelism"
    fewer = int(control.check_output(ask))
    before = cluster.started()
    output = cluster.play("site.yml")
    assert restarted(before, cluster.started()) == {"control1/airflow-scheduler"}
    assert int(control.check_output(ask)) == fewer * 3 // 2
    # The database's list was complete.
    assert "db1" not in [
        line.split()[0] for line in output.splitlines() if "changed=" in line and "changed=0" not in line
    ]
