#!/usr/bin/env python3
"""Measure tasks per minute, the delay of a task and the processor time that it costs: Airflow's defaults against ours.

usage: bench/throughput.py [--document] [--tasks N] [--dags N] [--concurrency N] [--once]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from datetime import datetime
from typing import Any

# It has hosts and a network of its own, whatever the other benchmarks do.
os.environ.setdefault("BENCH_LAB", "throughput")

import yaml
from run import INVENTORIES, LAB, PLAYBOOK, RESULTS, ROOT, BenchError, bare_hosts, document, machine, run, say, table

sys.path.insert(0, str(ROOT))
from ansible.utils.collection_loader import _collection_finder

_collection_finder._AnsibleCollectionFinder(paths=[str(ROOT / ".ansible" / "collections")])._install()
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import Api, ApiError  # noqa: E402

PAGE = ROOT / "docs" / "concurrency.md"
BEGIN, END = "<!-- throughput: written by bench/throughput.py --document -->", "<!-- end of throughput -->"
INVENTORY = ROOT / ".lab" / LAB / "inventory"
DAGS = ROOT / ".lab" / LAB / "dags"
HOSTS = ("control1", "worker1", "worker2")
"""One for all but the tasks, and two workers, which share the machine's processors with it."""
TUNED = {
    "core": ["parallelism", "default_pool_task_slot_count", "max_active_tasks_per_dag", "max_active_runs_per_dag"],
    "dag_processor": ["parsing_processes", "refresh_interval", "min_file_process_interval"],
    "workers": ["min_heartbeat_interval"],
    "celery": ["extra_celery_config"],
}
"""Options that the collection sets and that bear on throughput; the defaults are what Airflow makes of none of them."""
# Ours, theirs, theirs, ours: what the machine does besides grows or shrinks alike for both.
ORDER = ("ours", "defaults", "defaults", "ours")
DAG_OF_MANY = """from airflow.sdk import DAG, task

with DAG("many_tasks", schedule=None, is_paused_upon_creation=False):

    @task
    def short(number: int) -> None:
        pass

    short.expand(number=list(range({tasks})))
"""
ONE_OF_MANY_DAGS = """from airflow.sdk import DAG, task

with DAG("many_dags_{number:03}", schedule=None, is_paused_upon_creation=False):

    @task
    def first() -> None:
        pass

    @task
    def second() -> None:
        pass

    first() >> second()
"""

Figures = dict[str, float]


def write_inventory(concurrency: int) -> None:
    """One control host with everything, and two workers with so many slots each."""
    control: dict[str, Any] = {"hosts": {"control1": {}}}
    groups = ("postgresql", "redis", "schedulers", "webservers", "dag_processors", "triggerers")
    children = dict.fromkeys(groups, control) | {"workers": {"hosts": {"worker1": {}, "worker2": {}}}}
    # Dumped through JSON: YAML would write the same dict once, with references to it.
    (INVENTORY / "hosts.yml").write_text(json.dumps({"all": {"children": children}}))
    (INVENTORY / "group_vars" / "workers.yml").write_text(f"airflow_worker_concurrency: {concurrency}\n")


def write_dags(tasks: int, dags: int) -> None:
    """One DAG with many short tasks, and many DAGs with two each."""
    DAGS.mkdir(exist_ok=True)
    (DAGS / "many_tasks.py").write_text(DAG_OF_MANY.format(tasks=tasks))
    for number in range(dags):
        (DAGS / f"many_dags_{number:03}.py").write_text(ONE_OF_MANY_DAGS.format(number=number))


def converge(name: str, settings: str) -> None:
    """Bring the hosts to the collection's settings, or to Airflow's defaults."""
    defaults = {section: dict.fromkeys(options) for section, options in TUNED.items()}
    config = {"airflow_config": defaults if settings == "defaults" else {}}
    (INVENTORY / "group_vars" / "all" / "zzz_settings.yml").write_text(yaml.safe_dump(config))
    run(f"throughput-{name}", [PLAYBOOK, *INVENTORIES, "site.yml", "-e", f"airflow_dags={DAGS}"])


def connect() -> Api:
    """Airflow's API, logged in."""
    secrets = yaml.safe_load((INVENTORY / "group_vars" / "all" / "vault.yml").read_text())
    network = yaml.safe_load((ROOT / "lab" / "inventories" / f"{LAB}.yml").read_text())["all"]["vars"]["lab_network"]
    api = Api(f"http://{network}.12:8080", timeout=120)
    api.login("admin", secrets["airflow_admin_password"])
    return api


def processor_seconds() -> dict[str, float]:
    """Processor seconds that each host's processes have taken so far, as its container counts them."""
    found = {}
    tree = "/sys/fs/cgroup"
    ask = f"cat {tree}/cpuacct/cpuacct.usage 2> /dev/null || awk '/^usage_usec/ {{print $2 * 1000}}' {tree}/cpu.stat"
    for host in HOSTS:
        told = run(f"throughput-cpu-{host}", ["ssh", "-F", f".lab/{LAB}/ssh_config", host, ask])["output"]
        found[host] = float(told.split()[-1]) / 1e9
    return found


def instances(api: Api, dags: list[str], since: str) -> list[dict[str, Any]]:
    """All task instances of the runs that were started since then."""
    found: list[dict[str, Any]] = []
    while True:
        asked = {"dag_ids": dags, "run_after_gte": since, "page_limit": 100, "page_offset": len(found)}
        page = api.ask("POST", "/api/v2/dags/~/dagRuns/~/taskInstances/list", asked)
        found += page["task_instances"]
        if len(found) >= page["total_entries"] or not page["task_instances"]:
            return found


def moment(text: str) -> float:
    """Seconds since the epoch of a time of the API."""
    return datetime.fromisoformat(text).timestamp()


def runs_left(api: Api) -> bool:
    """Whether a DAG run is not over yet, or the server too busy to say."""
    try:
        return bool(api.ask("GET", "/api/v2/dags/~/dagRuns?state=queued&state=running&limit=1")["total_entries"])
    except ApiError as problem:
        if problem.status:
            raise
        return True


def wait_for_dags(api: Api, number: int) -> None:
    """Wait until so many DAGs are known; the first look at their files is not measured."""
    deadline = time.monotonic() + 300
    while api.ask("GET", "/api/v2/dags?limit=1")["total_entries"] < number:
        if time.monotonic() > deadline:
            raise BenchError(f"Airflow does not know {number} DAGs")
        time.sleep(1)


def measure(api: Api, dags: list[str], tasks_each: int) -> Figures:
    """Start a run of each DAG, wait for all, and tell how fast it went."""
    before = processor_seconds()
    begin = time.time()
    since = datetime.fromtimestamp(begin).astimezone().isoformat()
    for dag in dags:
        api.ask("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})
    # A look a second would be work that is measured, too.
    while runs_left(api):
        time.sleep(2)
    after = processor_seconds()
    tasks = instances(api, dags, since)
    if len(tasks) != len(dags) * tasks_each or {task["state"] for task in tasks} != {"success"}:
        raise BenchError(f"{len(tasks)} tasks of {len(dags) * tasks_each}: { ({task['state'] for task in tasks}) }")
    end = max(moment(task["end_date"]) for task in tasks)
    ended = {(task["dag_id"], task["task_id"]): moment(task["end_date"]) for task in tasks}
    delays = []
    for task in tasks:
        ready = ended[task["dag_id"], "first"] if task["task_id"] == "second" else moment(task["run_after"])
        delays.append(moment(task["start_date"]) - ready)
    cpu = {host: after[host] - before[host] for host in HOSTS}
    return {
        "tasks": len(tasks),
        "seconds": end - begin,
        "per_minute": len(tasks) / (end - begin) * 60,
        "delay": statistics.median(delays),
        "lead": statistics.median(moment(task["start_date"]) - moment(task["queued_when"]) for task in tasks),
        "control": cpu["control1"] / len(tasks),
        "worker": (cpu["worker1"] + cpu["worker2"]) / len(tasks),
        "load": os.getloadavg()[0],
    }


def measure_all(tasks: int, dags: int, concurrency: int, order: tuple[str, ...]) -> dict[str, dict[str, list[Figures]]]:
    """Both kinds of settings, on the same hosts, in this order: `{load: {settings: [figures]}}`."""
    loads = {"many tasks": (["many_tasks"], tasks), "many DAGs": ([f"many_dags_{n:03}" for n in range(dags)], 2)}
    found: dict[str, dict[str, list[Figures]]] = {name: {"defaults": [], "ours": []} for name in loads}
    with bare_hosts("throughput"):
        write_inventory(concurrency)
        write_dags(tasks, dags)
        run("throughput-create", [PLAYBOOK, *INVENTORIES, "lab/create.yml"])
        for number, settings in enumerate(order):
            converge(f"{number}-{settings}", settings)
            api = connect()
            wait_for_dags(api, 1 + dags)
            for name, (names, each) in loads.items():
                found[name][settings].append(figures := measure(api, names, each))
                say(f"  {settings}, {name}: {figures['per_minute']:.0f} tasks/min, delay {figures['delay']:.1f} s")
    return found


ROWS = (
    ("per_minute", "tasks per minute", 1, False),
    ("delay", "median delay of a task, s", 1, True),
    ("lead", "median wait of a queued task, s", 1, True),
    ("worker", "processor seconds of the workers, per task", 2, True),
    ("control", "processor seconds of the control host, per task", 2, True),
)
"""Figure, title, decimals, and whether less is better."""


def report(
    found: dict[str, dict[str, list[Figures]]], facts: dict[str, Any], concurrency: int, order: tuple[str, ...]
) -> str:
    """The table: each figure's mean, and how many times better ours is."""
    lines = []
    for name, by_settings in found.items():
        for key, title, decimals, less in ROWS:
            theirs, ours = (statistics.fmean(one[key] for one in by_settings[which]) for which in ("defaults", "ours"))
            ratio = theirs / ours if less else ours / theirs
            shown = f"{name} ({by_settings['ours'][0]['tasks']:.0f} tasks): {title}"
            lines.append([shown, f"{theirs:.{decimals}f}", f"{ours:.{decimals}f}", f"{ratio:.2f}"])
        loads = [f"{statistics.fmean(one['load'] for one in by_settings[which]):.1f}" for which in ("defaults", "ours")]
        lines.append([f"{name}: load average of the machine at the end", *loads, ""])
    head = {"Figure": "---", "Airflow's defaults": "---:", "ours": "---:", "times better": "---:"}
    return (
        f"{facts['time']}, commit {facts['commit']}, {facts['cpus']} CPUs ({facts['model']}) shared by control node and"
        f" hosts; two workers of {concurrency} slots; runs of each: {len(order) // 2},"
        f" in the order {', '.join(order)}."
        f"\n\n{table(head, lines)}\n"
    )


def main() -> None:
    """Measure, report, document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=500, help="short tasks of one DAG (default 500)")
    parser.add_argument("--dags", type=int, default=100, help="DAGs with two short tasks each (default 100)")
    parser.add_argument(
        "--concurrency", type=int, default=4, help="slots of each worker (default 4, as in inventories/cluster)"
    )
    parser.add_argument("--once", action="store_true", help="one run of each, ours on hosts that are not warm yet")
    parser.add_argument("--document", action="store_true", help=f"write the report into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    try:
        facts = machine()
        order = ORDER[:2] if options.once else ORDER
        found = measure_all(options.tasks, options.dags, options.concurrency, order)
        (RESULTS / "throughput.json").write_text(json.dumps({"machine": facts, "found": found}, indent=1) + "\n")
        text = report(found, facts, options.concurrency, order)
        print(text)
        if options.document:
            document(PAGE, BEGIN, END, text)
    except (ApiError, BenchError) as problem:
        sys.exit(f"bench: {problem}")


if __name__ == "__main__":
    main()
