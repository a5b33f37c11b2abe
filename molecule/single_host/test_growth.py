"""The first host becomes a Celery cluster by an edit of the groups, and forgets nothing."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from conftest import INVENTORY, Api


def runs(api: Api, dag: str) -> list[str]:
    """IDs of all runs of a DAG."""
    return [run["dag_run_id"] for run in api.ask("GET", f"/api/v2/dags/{dag}/dagRuns?limit=100")[1]["dag_runs"]]


def test_single_host_grows_into_a_cluster(cluster, api, web_url):
    tasks = api.run_dag("parallel_dag")
    before = {dag: runs(api, dag) for dag in ("parallel_dag", "dataops_canary")}
    assert all(before.values())
    api.ask("POST", "/api/v2/variables", {"key": "kept", "value": "through the change"})

    (INVENTORY / "hosts.yml").write_text((Path(__file__).parent / "files" / "grown.yml").read_text())
    cluster.read_inventory()
    cluster.play("lab/create.yml")
    cluster.play("site.yml")
    output = cluster.play("playbooks/verify.yml")
    assert "Executor CeleryExecutor" in output
    assert cluster.host("control1").check_output("airflow config get-value core executor") == "CeleryExecutor"

    again = Api(web_url, "admin", cluster.secrets["airflow_admin_password"])
    for dag, known in before.items():
        assert set(known) <= set(runs(again, dag))
    assert again.ask("GET", "/api/v2/variables/kept")[1]["value"] == "through the change"
    run = quote(tasks[0]["dag_run_id"], safe="")
    log = again.ask("GET", f"/api/v2/dags/parallel_dag/dagRuns/{run}/taskInstances/task_2/logs/1")[1]
    assert "sleep 3" in str(log), "the log of a task that ran before the change"
    ran_on = {task["hostname"] for task in again.run_dag("parallel_dag")}
    assert ran_on == {cluster.address("worker1")}
