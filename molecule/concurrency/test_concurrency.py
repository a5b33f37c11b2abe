"""The limits on tasks at once, each as an edit of the inventory or of the DAG, and what `parallel_dag` then does.

Each leaves a report in .cache/concurrency; `make experiments` takes the pictures of docs/concurrency.md from there.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import TOP, Api, Cluster, restarted, wait_until
from drawing import draw, times, usage

LIMITS = "group_vars/all/zzz_limits.yml"
WORKERS = "group_vars/workers.yml"
SCHEDULER = {"control1/airflow-scheduler"}
SHIPPED = (TOP / "dags" / "parallel_dag.py").read_text()
TUTORIAL = 'DAG("parallel_dag", schedule="@daily", start_date=datetime(2020, 1, 1), catchup=False)'
DAYS = 4

Tasks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def dags() -> Path:
    """The DAGs that a run delivers: `parallel_dag` as it ships, for an experiment to edit."""
    folder = TOP / ".lab" / "concurrency" / "dags"
    folder.mkdir(exist_ok=True)
    for file in folder.glob("*.py"):
        file.unlink()
    assert TUTORIAL in SHIPPED
    (folder / "parallel_dag.py").write_text(SHIPPED)
    return folder


def converge(cluster: Cluster, dags: Path) -> set[str]:
    """Run site.yml; the services that it restarted."""
    before = cluster.started()
    cluster.play("site.yml", "-e", f"airflow_dags={dags}")
    return restarted(before, cluster.started())


@pytest.fixture(scope="module", autouse=True)
def quiet(request: pytest.FixtureRequest, cluster: Cluster, dags: Path) -> None:
    """Let the runs end that begin when `parallel_dag` is switched on, so that each experiment has the cluster alone."""
    cluster.change(LIMITS, "---\n")
    cluster.change(WORKERS, "airflow_worker_concurrency: 4\n")
    converge(cluster, dags)
    # Now that its server runs, whatever was left undone before.
    api = request.getfixturevalue("api")
    api.run_dag("parallel_dag")
    runs = "/api/v2/dags/parallel_dag/dagRuns?state=running&state=queued"
    wait_until(lambda: api.ask("GET", runs)[1]["total_entries"] == 0, 120)


def names(cluster: Cluster) -> dict[str, str]:
    """Name of each worker by the address that it reports."""
    return {cluster.address(worker): worker for worker in cluster.members("workers")}


def slots(cluster: Cluster) -> dict[str, int]:
    """Tasks that each worker runs at once."""
    return {host: int(cluster.variables[host]["airflow_worker_concurrency"]) for host in cluster.members("workers")}


def look(cluster: Cluster, api: Api, name: str, title: str) -> dict[str, dict[str, Any]]:
    """Run `parallel_dag`, draw it, and return when and where each of its tasks ran."""
    tasks = times(api.run_dag("parallel_dag"), names(cluster))
    draw(name, title, tasks, slots(cluster))
    return {task["task"]: task for task in tasks}


def overlap(left: dict[str, Any], right: dict[str, Any]) -> float:
    """Seconds during which both ran; negative where there was a pause between them."""
    return float(min(left["end"], right["end"]) - max(left["start"], right["start"]))


def most(tasks: Any) -> int:
    """Most tasks that ran at once."""
    return max(running for _, running in usage(list(tasks)))


def test_parallelism_1_runs_one_task_at_a_time(cluster, api, dags):
    cluster.change(LIMITS, "airflow_config: {core: {parallelism: 1}}\n")
    assert converge(cluster, dags) == SCHEDULER
    found = look(cluster, api, "parallelism-1", "parallelism 1: task_2 and task_3 one after the other")
    assert overlap(found["task_2"], found["task_3"]) < 0
    assert most(found.values()) == 1
    # The one that waits does so for its turn, and for no worker.
    second = max(found["task_2"], found["task_3"], key=lambda task: task["start"])
    assert second["queued"] - second["scheduled"] >= 3


def test_parallelism_2_runs_two(cluster, api, dags):
    cluster.change(LIMITS, "airflow_config: {core: {parallelism: 2}}\n")
    assert converge(cluster, dags) == SCHEDULER
    found = look(cluster, api, "parallelism-2", "parallelism 2: task_2 and task_3 side by side")
    assert overlap(found["task_2"], found["task_3"]) > 0
    assert most(found.values()) == 2


def test_max_active_tasks_1_of_the_dag(cluster, api, dags):
    (dags / "parallel_dag.py").write_text(SHIPPED.replace("catchup=False", "catchup=False, max_active_tasks=1"))
    assert converge(cluster, dags) == set(), "a DAG is no setting of any service"
    wait_until(lambda: api.ask("GET", "/api/v2/dags/parallel_dag/details")[1]["max_active_tasks"] == 1, 120)
    found = look(cluster, api, "max-active-tasks-1", "max_active_tasks=1 of the DAG")
    assert overlap(found["task_2"], found["task_3"]) < 0
    assert most(found.values()) == 1
    # Since Airflow 3 it counts for each run by itself.
    runs = [api.start_dag("parallel_dag") for _ in range(2)]
    wait_until(lambda: {api.ask("GET", run)[1]["state"] for run in runs} == {"success"}, 120)
    assert [most(times(api.tasks(run), {})) for run in runs] == [1, 1]
    assert most(times([task for run in runs for task in api.tasks(run)], {})) == 2


def history(api: Api, dag: str) -> list[dict[str, Any]]:
    """Switch a DAG on, wait until it has run its history, and return the runs by their logical dates."""
    wait_until(lambda: api.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})[0] == 200, 120)

    def runs() -> list[dict[str, Any]]:
        return api.ask("GET", f"/api/v2/dags/{dag}/dagRuns?limit=100&order_by=logical_date")[1]["dag_runs"]

    # Each midnight since the start, that of the start included.
    wait_until(lambda: len(found := runs()) > DAYS and {run["state"] for run in found} == {"success"}, 300)
    return runs()


def moment(text: str) -> datetime:
    """A time of the API."""
    return datetime.fromisoformat(text)


def test_max_active_runs_1_catches_up_one_by_one(cluster, api, dags):
    """The same history twice: with a limit on the runs, and, so that its absence shows, without."""
    begin = datetime.now(tz=UTC) - timedelta(days=DAYS)
    dated = f'schedule="@daily", start_date=datetime({begin:%Y, %-m, %-d}), catchup=True'
    for dag, limit in (("one_by_one", ", max_active_runs=1"), ("side_by_side", "")):
        (dags / f"{dag}.py").write_text(SHIPPED.replace(TUTORIAL, f'DAG("{dag}", {dated}{limit})'))
    (dags / "parallel_dag.py").write_text(SHIPPED)
    cluster.change(LIMITS, "---\n")
    assert converge(cluster, dags) <= SCHEDULER, "parallelism is that of the workers again"

    one_by_one = history(api, "one_by_one")
    assert [run["run_type"] for run in one_by_one] == ["scheduled"] * len(one_by_one)
    ends = [moment(run["end_date"]) for run in one_by_one]
    assert all(moment(run["start_date"]) >= end for run, end in zip(one_by_one[1:], ends, strict=False))

    side_by_side = history(api, "side_by_side")
    ends = [moment(run["end_date"]) for run in side_by_side]
    assert any(moment(run["start_date"]) < end for run, end in zip(side_by_side[1:], ends, strict=False))
    for dag, runs in (("one_by_one", one_by_one), ("side_by_side", side_by_side)):
        ids = [quote(run["dag_run_id"], safe="") for run in runs]
        instances: Tasks = []
        for number, run in enumerate(ids):
            own = api.tasks(f"/api/v2/dags/{dag}/dagRuns/{run}")
            instances += [{**task, "task_id": f"{task['task_id']} of run {number + 1}"} for task in own]
        tasks = times(instances, names(cluster))
        title = "max_active_runs=1" if dag == "one_by_one" else "no max_active_runs"
        draw(f"history-{dag.replace('_', '-')}", f"catchup=True, {title}", tasks, slots(cluster))


def test_worker_concurrency_1_puts_them_on_two_hosts(cluster, api, dags):
    """The workers get other settings, and the scheduler the parallelism that follows; nobody else restarts."""
    cluster.change(WORKERS, "airflow_worker_concurrency: 1\n")
    assert converge(cluster, dags) == SCHEDULER | {"worker1/airflow-worker", "worker2/airflow-worker"}
    for number in range(2):
        found = look(cluster, api, "worker-concurrency-1", "worker_concurrency 1 on two workers: a host for each")
        assert {found["task_2"]["host"], found["task_3"]["host"]} == {"worker1", "worker2"}, number
        assert overlap(found["task_2"], found["task_3"]) > 0, number


def test_nothing_is_left_to_change(cluster, dags):
    assert converge(cluster, dags) == set()


def test_the_plan_is_what_the_hosts_do(cluster, api, tmp_path):
    """What plan.yml computes, asked of the hosts: slots, limits, memory, connections."""
    file = tmp_path / "plan.json"
    cluster.play("playbooks/plan.yml", "-e", f"json={file}")
    plan = json.loads(file.read_text())
    assert plan["cluster"]["tasks"] == sum(slots(cluster).values()) == 2
    told = {limit["name"]: limit["tasks"] for limit in plan["limits"]}
    assert told["slots of default_pool"] == api.ask("GET", "/api/v2/pools/default_pool")[1]["slots"]
    parallelism = cluster.host("control1").check_output("airflow config get-value core parallelism")
    assert told[f"[core] parallelism {parallelism}"] == int(parallelism)
    for host, memory in plan["memory"].items():
        has = int(cluster.host(host).check_output("awk '/^MemTotal/ {print $2}' /proc/meminfo"))
        assert memory["available"] == has // 1024
    ask = "runuser -u postgres -- psql --quiet --tuples-only --no-align --command %s"
    clients = "select count(*) from pg_stat_activity where backend_type = 'client backend'"
    settings, used = (
        int(cluster.host("control1").check_output(ask, query)) for query in ("show max_connections", clients)
    )
    assert plan["connections"]["available"] == settings
    assert used <= plan["connections"]["needed"] <= settings


def test_verify_draws_what_its_canary_did(cluster, tmp_path):
    """Every worker has a line of its own, with a task."""
    cluster.play("playbooks/verify.yml", "-e", f"report={tmp_path}/report.html")
    for drawn in (tmp_path / "report.html", tmp_path / "report.svg"):
        text = drawn.read_text()
        for worker in cluster.members("workers"):
            assert re.search(rf"{worker}: [1-9][0-9]* tasks?, at most 1 of 1 slots? at once", text), (drawn, worker)


def test_a_canary_that_fails_is_drawn_as_well(cluster, tmp_path):
    """The log of one worker cannot be fetched: the tasks ran, and the page says what is wrong."""
    worker = cluster.members("workers")[-1]
    chain = "chain input { type filter hook input priority -10; tcp dport 8793 reject with tcp reset; }"
    cluster.host(worker).check_output("echo %s | nft -f -", f"table inet closed {{ {chain}; }}")
    try:
        output = cluster.play("playbooks/verify.yml", "-e", f"report={tmp_path}/report.html", succeeds=False)
    finally:
        cluster.host(worker).check_output("nft delete table inet closed")
    said = f"the log of on_{worker} cannot be read"
    page = (tmp_path / "report.html").read_text()
    assert said in output and said in page and "which failed" in page
    assert re.search(
        rf"{worker}: [1-9][0-9]* tasks?, at most [1-9][0-9]* of {slots(cluster)[worker]} slots? at once", page
    )
