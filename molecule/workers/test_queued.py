"""A task that waits for its worker does not fail: whether the worker is away, or dies with its message."""

from __future__ import annotations

from conftest import OWN_DAGS, wait_until

CHANGE = "host_vars/control1/queued.yml"
SETTINGS = """---
airflow_config:
  scheduler:
    task_queued_timeout: 3
    task_queued_timeout_check_interval: 1
"""
AIRFLOWS_LIMIT = 2
"""How often Airflow sends it again before it fails it."""


def test_task_outlasts_the_absence_of_its_only_worker(cluster, api):
    cluster.change(CHANGE, SETTINGS)
    cluster.play("site.yml", *OWN_DAGS)
    worker = cluster.host("worker2")
    worker.check_output("systemctl stop airflow-worker-check.timer airflow-worker.service")
    run = api.start_dag("short_on_worker2")
    sent_again = "/api/v2/eventLogs?dag_id=short_on_worker2&event=stuck in queued reschedule"
    wait_until(lambda: api.ask("GET", sent_again.replace(" ", "%20"))[1]["total_entries"] > AIRFLOWS_LIMIT + 1, 120)
    (task,) = api.tasks(run)
    assert task["state"] in ("queued", "scheduled")
    worker.check_output("systemctl start airflow-worker.service")
    wait_until(lambda: api.ask("GET", run)[1]["state"] in ("success", "failed"), 120)
    (task,) = api.tasks(run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    cluster.change(CHANGE, "---\n")
    cluster.play("site.yml", *OWN_DAGS)


def test_task_whose_message_died_with_its_worker_is_taken_up_again(cluster, api):
    """Received, and not begun: Redis would keep the message for a day, and Airflow sends it again after ten minutes."""
    worker = cluster.host("worker2")
    begun = worker.check_output("date +%s")
    # The main process goes on to receive, and its pool has no process that could begin.
    worker.check_output('pkill --signal STOP --parent "$(systemctl show --value --property=MainPID airflow-worker)"')
    run = api.start_dag("short_on_worker2")
    received = f"journalctl --quiet --no-pager --unit airflow-worker --since @{begun} | grep -c ' received'"
    wait_until(lambda: worker.run(received).stdout.strip() == "1", 60)
    assert [task["state"] for task in api.tasks(run)] == ["queued"]
    worker.check_output("systemctl kill --signal=KILL airflow-worker")
    wait_until(lambda: api.ask("GET", run)[1]["state"] in ("success", "failed"), 90)
    (task,) = api.tasks(run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    assert "1 tasks that this worker had" in worker.check_output(f"journalctl --unit airflow-worker --since @{begun}")
