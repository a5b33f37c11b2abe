#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Runs the canary DAG and judges what it did."""

from __future__ import annotations

DOCUMENTATION = r"""
module: canary
short_description: Run the canary DAG and judge what it did
version_added: 0.1.0
description:
  - Logs in, compares the live Celery workers with the inventory, triggers the DAG C(dataops_canary) and waits
    for its end.
  - Wants every task to succeed on its first try, one task on each worker and with each further executor with its log
    readable through the API, and the two middle tasks to overlap.
  - Changes nothing but the history of that DAG.
options:
  version:
    description: Version of Airflow that the API server shall run.
    type: str
    required: true
  workers:
    description: The workers of the inventory and the addresses under which they report. Empty without Celery.
    type: dict
    default: {}
  executors:
    description: Executors of which each runs a task; the first runs the others as well. Empty with one executor.
    type: list
    elements: str
    default: []
  overlap:
    description: Whether the middle tasks shall overlap; not where only one task may run at a time.
    type: bool
    default: true
  broker_url:
    description: Celery's broker; only with O(workers).
    type: str
    default: ""
  python:
    description: Interpreter that can import Celery.
    type: path
    default: /opt/airflow/current/bin/python
  timeout:
    description: Seconds for the run of the DAG.
    type: int
    default: 240
attributes:
  check_mode:
    description: Does not run the DAG; logs in and compares the workers.
    support: partial
  diff_mode:
    description: There is nothing to show.
    support: none
extends_documentation_fragment: dataops.airflow.api
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Run the canary
  dataops.airflow.canary:
    url: http://control1:8080
    username: admin
    password: "{{ airflow_admin_password }}"
    version: 3.3.2
    workers: {worker1: 10.0.0.21, worker2: 10.0.0.22}
    broker_url: "{{ cluster_broker_url }}"
"""

RETURN = r"""
run:
  description: ID of the DAG run; empty in check mode.
  type: str
  returned: success
seconds:
  description: Time from the trigger to the end.
  type: float
  returned: success
overlap:
  description: Seconds during which both middle tasks ran.
  type: float
  returned: success
tasks:
  description:
    - Every task with its name, its host and the slots that it takes, and, in seconds since the first of them could run,
      when it could (C(scheduled)), when its turn came (C(queued)), its C(start) and its C(end).
    - After a failure, those that ran.
  type: list
  elements: dict
  returned: always
by_host:
  description: Number of tasks by host.
  type: dict
  returned: success
"""

import collections
import json
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import LOGIN_OPTIONS, Api, ApiError, seconds
from ansible_collections.dataops.airflow.plugins.module_utils.celery_worker import BrokerError, ping
from ansible_collections.dataops.airflow.plugins.module_utils.timeline import times

DAG = "dataops_canary"
# A worker that has no result backend stops after 32 tasks.
ENOUGH = 32


class CanaryError(Exception):
    """A finding that fails the verification: what was found, and what to do."""


def quote(text: str) -> str:
    """Quote a part of a path."""
    return urllib.parse.quote(text, safe="")


def live_workers(python: str, broker_url: str) -> list[str]:
    """Names of the Celery workers that answer a ping, without their prefix ``celery@``."""
    try:
        return sorted(name.partition("@")[2] for name in ping(python, broker_url))
    except BrokerError as problem:
        raise CanaryError(f"the broker cannot be asked: {problem}") from problem


def compare_workers(wanted: list[str], live: list[str]) -> None:
    """Require that the live workers are those of the inventory.

    :raises CanaryError: naming each one that is missing or unknown.
    """
    missing = sorted(set(wanted) - set(live))
    unknown = sorted(set(live) - set(wanted))
    if missing:
        raise CanaryError(
            f"no answer from the worker on {', '.join(missing)}; see there: journalctl -u 'airflow-worker*' -n 50"
        )
    if unknown:
        raise CanaryError(
            f"a worker that is not in the group workers consumes from the broker: {', '.join(unknown)}; "
            "stop it there, or add its host to the inventory"
        )


def await_dag(api: Api, workers: list[str], executors: list[str], deadline: float) -> None:
    """Wait until the canary is parsed with a task for each worker and for each executor but the first.

    Asks for a parse instead of waiting for its turn.
    """
    wanted = {f"on_{worker}" for worker in workers} | {f"by_{executor}" for executor in executors[1:]}
    asked = False
    while True:
        trouble = "is not parsed yet"
        try:
            known = {item["task_id"] for item in api.ask("GET", f"/api/v2/dags/{DAG}/tasks")["tasks"]}
            named = {name for name in known if name.startswith(("on_", "by_"))}
            if named == wanted:
                return
            trouble = f"still has tasks for {sorted(named)}, not for {sorted(wanted)}"
            if not asked:
                token = api.ask("GET", f"/api/v2/dags/{DAG}")["file_token"]
                api.ask("PUT", f"/api/v2/parseDagFile/{quote(token)}")
                asked = True
        except ApiError as problem:
            if problem.status != 404:
                raise
        if time.monotonic() > deadline:
            raise CanaryError(f"the DAG {DAG} {trouble}; see: journalctl -u airflow-dag-processor -n 50")
        time.sleep(0.5)


def run_dag(api: Api, deadline: float) -> tuple[str, list[dict[str, Any]]]:
    """Trigger the DAG, wait for its end and return the run's ID and its task instances."""
    run = api.ask("POST", f"/api/v2/dags/{DAG}/dagRuns", {"logical_date": None})["dag_run_id"]
    path = f"/api/v2/dags/{DAG}/dagRuns/{quote(run)}"
    while True:
        state = api.ask("GET", path)["state"]
        tasks: list[dict[str, Any]] = []
        if state in ("success", "failed") or time.monotonic() > deadline:
            while True:
                page = api.ask("GET", f"{path}/taskInstances?limit=50&offset={len(tasks)}")
                tasks += page["task_instances"]
                if not page["task_instances"] or len(tasks) >= page["total_entries"]:
                    return run, tasks
        time.sleep(0.5)


def judge(tasks: Sequence[Mapping[str, Any]], workers: Mapping[str, str], overlap_wanted: bool) -> float:
    """Judge the task instances of a run.

    :param workers: ``{name: address under which the worker reports}``.
    :returns: seconds during which both middle tasks ran.
    :raises CanaryError: naming the first thing that is not as it should be.
    """
    bad = collections.Counter(str(task["state"]) for task in tasks if task["state"] != "success")
    if bad:
        first = next(task for task in tasks if task["state"] != "success")
        where = first["hostname"] or "no host"
        raise CanaryError(
            f"{sum(bad.values())} of {len(tasks)} tasks did not succeed ({dict(bad)}), first {first['task_id']} "
            f"on {where}; look at its log in the web UI, or see there: journalctl -u 'airflow-*' -n 100"
        )
    retried = [f"{task['task_id']} on {task['hostname']}" for task in tasks if task["try_number"] != 1]
    if retried:
        raise CanaryError(
            f"tasks needed more than one try: {', '.join(retried)}; look at the log of the first try in the web UI, or "
            "see there: journalctl -u 'airflow-*' -n 100"
        )
    if workers and len(tasks) <= ENOUGH:
        where = ", ".join(sorted({task["hostname"] for task in tasks}))
        raise CanaryError(
            f"only {len(tasks)} tasks ran, on {where or 'no host'}; set airflow_canary_tasks so that more than "
            f"{ENOUGH} do, and run site.yml"
        )
    by_name = {task["task_id"]: task for task in tasks}
    for worker, address in workers.items():
        ran = by_name[f"on_{worker}"]["hostname"]
        if ran != address:
            raise CanaryError(f"the task for {worker} ({address}) ran on {ran}: two workers share that name")
    left, right = by_name["left"], by_name["right"]
    starts = [seconds(left["start_date"]), seconds(right["start_date"])]
    overlap = min(seconds(left["end_date"]), seconds(right["end_date"])) - max(starts)
    if overlap_wanted and overlap <= 0:
        raise CanaryError(
            f"the two middle tasks ran one after the other, on {left['hostname']} and {right['hostname']}; see in the "
            "web UI what else ran then, and raise airflow_worker_concurrency if all slots are taken"
        )
    return round(max(overlap, 0.0), 1)


def read_logs(api: Api, run: str, workers: list[str], executors: list[str]) -> None:
    """Require that the log of one task of each worker and of each executor can be read through the API."""
    wanted = {f"on_{worker}": f"canary {number}" for number, worker in enumerate(workers)} or {"many": "canary 0"}
    wanted |= {f"by_{executor}": "canary 0" for executor in executors[1:]}
    for task, text in wanted.items():
        index = "?map_index=0" if task == "many" else ""
        log = api.ask("GET", f"/api/v2/dags/{DAG}/dagRuns/{quote(run)}/taskInstances/{quote(task)}/logs/1{index}")
        if text not in json.dumps(log):
            raise CanaryError(
                f"the log of {task} cannot be read: {json.dumps(log)[:300]}; "
                "does the API server reach that host's log port, and are the clocks equal?"
            )


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **LOGIN_OPTIONS,
            "version": {"type": "str", "required": True},
            "workers": {"type": "dict", "default": {}},
            "executors": {"type": "list", "elements": "str", "default": []},
            "overlap": {"type": "bool", "default": True},
            "broker_url": {"type": "str", "default": "", "no_log": True},
            "python": {"type": "path", "default": "/opt/airflow/current/bin/python"},
            "timeout": {"type": "int", "default": 240},
        },
        supports_check_mode=True,
    )
    option = module.params
    workers: dict[str, str] = option["workers"]
    executors: list[str] = option["executors"]
    names: dict[str, str] = {}
    for worker, address in workers.items():
        names.setdefault(address, worker)  # the first worker of a host has its name
    instances: list[dict[str, Any]] = []
    try:
        api = Api(option["url"], ca_path=option["ca_path"])
        api.login(option["username"], option["password"])
        version = api.ask("GET", "/api/v2/version")["version"]
        if version != option["version"]:
            raise CanaryError(f"the API server runs {version}, not {option['version']}; run site.yml")
        if workers:
            compare_workers(list(workers), live_workers(option["python"], option["broker_url"]))
        if module.check_mode:
            module.exit_json(changed=False, run="", seconds=0.0, overlap=0.0, tasks=[], by_host={})
        start = time.monotonic()
        await_dag(api, list(workers), executors, start + 120)
        start = time.monotonic()
        run, instances = run_dag(api, start + option["timeout"])
        took = round(time.monotonic() - start, 1)
        overlap = judge(instances, workers, option["overlap"])
        read_logs(api, run, list(workers), executors)
    except (CanaryError, ApiError) as problem:
        module.fail_json(msg=f"canary: {problem}", tasks=times(instances, names))
    tasks = times(instances, names)
    by_host = dict(collections.Counter(task["host"] for task in tasks))
    module.exit_json(changed=False, run=run, seconds=took, overlap=overlap, tasks=tasks, by_host=by_host)


if __name__ == "__main__":
    main()
