"""One task at a time on SQLite; then, by an edit of the inventory, many on PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from conftest import INVENTORY, TOP, Api, changes

FILE = "/var/lib/airflow/airflow.db"


def overlap(tasks: list[dict[str, Any]]) -> float:
    """Seconds for which the two middle tasks of parallel_dag ran at once; negative for those between them."""
    times = [
        (datetime.fromisoformat(task["start_date"]), datetime.fromisoformat(task["end_date"]))
        for task in tasks
        if task["task_id"] in ("task_2", "task_3")
    ]
    (_, first_end), (second_start, second_end) = sorted(times)
    return (min(first_end, second_end) - second_start).total_seconds()


def test_one_task_at_a_time(cluster, api):
    control = cluster.host("control1")
    assert not control.package("postgresql").is_installed
    assert not control.package("redis-server").is_installed
    assert control.check_output("airflow config get-value core parallelism") == "1"
    assert overlap(api.run_dag("parallel_dag", 180)) <= 0
    file = control.file(FILE)
    assert (file.user, file.mode & 0o007) == ("airflow", 0)


def test_what_sqlite_cannot_do_is_refused(cluster):
    hosts = (INVENTORY / "hosts.yml").read_text()
    cluster.change(
        "hosts.yml", hosts + "    redis: {children: {control: {}}}\n    workers: {children: {control: {}}}\n"
    )
    output = cluster.play("site.yml", succeeds=False)
    cluster.change("hosts.yml", hosts)
    for word in ('"sqlite" with CeleryExecutor', "Nothing was changed", "remedy:"):
        assert word in output, word
    assert changes(output) == 0


def test_step_to_postgresql_says_what_stays_behind(cluster, api, web_url):
    control = cluster.host("control1")
    before = control.check_output(f"sha256sum {FILE}")
    (INVENTORY / "group_vars/all/cluster.yml").unlink()
    cluster.change("hosts.yml", (TOP / "inventories/single_host/hosts.yml").read_text())
    output = cluster.play("playbooks/preflight.yml")
    for word in ("control1 runs on SQLite until now", "Not carried over: the history of runs", "which nothing deletes"):
        assert word in " ".join(output.split()), word
    assert "until now" in " ".join(cluster.play("site.yml").split())
    kept = control.check_output(f"sha256sum {FILE}")
    assert control.file(FILE).exists and len(kept) == len(before)

    again = Api(web_url, "admin", cluster.secrets["airflow_admin_password"])
    runs = again.ask("GET", "/api/v2/dags/parallel_dag/dagRuns")[1]
    assert runs["total_entries"] == 0, "PostgreSQL begins empty"
    assert overlap(again.run_dag("parallel_dag")) > 2
    # Said once: the next run has nothing to say and nothing to do.
    output = cluster.play("site.yml")
    assert "until now" not in output
    assert changes(output) == 0
    assert control.check_output(f"sha256sum {FILE}") == kept
    cluster.play("playbooks/verify.yml")
