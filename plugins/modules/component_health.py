#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Waits until each component of a host does its work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: component_health
short_description: Wait until each Airflow component of a host does its work
version_added: 0.1.0
description:
  - An active unit is not a healthy one. A worker with a wrong broker password stays active for ever.
  - Each component is asked in its own way, all of them at once, until it answers well or the time is up.
  - When the unit of one that does not answer well has failed, nothing is waited for any longer.
options:
  checks:
    description: What to ask.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the component, for the result.
        type: str
        required: true
      unit:
        description: Unit of the component. A heartbeat counts only if it is younger than the start of this unit.
        type: str
        required: true
      kind:
        description:
          - V(http) wants status 200 from O(checks[].url).
          - V(heartbeat) wants O(checks[].component) healthy in the JSON that the API server's monitor gives at
            O(checks[].url). The monitor tells of one host only, that with the youngest heartbeat.
          - V(job) wants a heartbeat of O(checks[].job) on O(checks[].host) in the metadata database.
          - V(celery) wants an answer to a ping from O(checks[].worker).
        type: str
        choices: [http, heartbeat, job, celery]
        required: true
      url:
        description: URL to ask; for V(http) and V(heartbeat).
        type: str
        default: ""
      component:
        description: Key in the answer of the monitor; for V(heartbeat).
        type: str
        default: ""
      job:
        description: Airflow's name of the component's job, such as C(TriggererJob); for V(job).
        type: str
        default: ""
      host:
        description: Address of the host, as Airflow knows it; for V(job).
        type: str
        default: ""
      worker:
        description: Celery's name of the worker, such as C(celery@worker1); for V(celery).
        type: str
        default: ""
  broker_url:
    description: Celery's broker; for V(celery).
    type: str
    default: ""
  database_url:
    description: Metadata database; for V(job).
    type: str
    default: ""
  ca_path:
    description: PEM file with the authorities that C(https) is verified with. Empty for those that the host trusts.
    type: path
    default: ""
  python:
    description: Interpreter that can import Celery and psycopg2; for V(celery) and V(job).
    type: path
    default: /opt/airflow/current/bin/python
  record:
    description: File that is made once all of them answered well. Empty for none.
    type: path
  timeout:
    description: Seconds until the wait is given up.
    type: int
    default: 120
attributes:
  check_mode:
    description: Waits as well, and makes no O(record).
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Wait for the scheduler
  dataops.airflow.component_health:
    checks:
      - name: scheduler
        unit: airflow-scheduler.service
        kind: http
        url: http://127.0.0.1:8974/health
"""

RETURN = r"""
healthy:
  description: Seconds that each component took to answer well.
  type: dict
  returned: always
unhealthy:
  description:
    - Last answer of each component that did not.
    - Where its unit has failed, this is said instead, with the last lines of its journal.
  type: dict
  returned: always
"""

import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import opener, seconds
from ansible_collections.dataops.airflow.plugins.module_utils.celery_worker import BrokerError, ping

JOURNAL_LINES = 8
ALIVE = 30
"""Seconds for which Airflow takes a silent job for alive."""

PATIENCE = 15
"""Seconds for one question to the database."""

# Runs in Airflow's interpreter, which has the driver. The URL holds a password: no argument.
NEWEST = """
import json, os, psycopg2, sys
url = os.environ['DATABASE_URL'].replace('postgresql+psycopg2://', 'postgresql://', 1)
with psycopg2.connect(url, connect_timeout=5) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT state, extract(epoch FROM latest_heartbeat)::float FROM job WHERE job_type = %s"
                   " AND hostname = %s ORDER BY latest_heartbeat DESC NULLS LAST LIMIT 1", sys.argv[1:])
    print(json.dumps(cursor.fetchone()))
"""


def ask_http(check: dict[str, Any]) -> str:
    """Ask for status 200. Returns the trouble, or nothing."""
    with opener(check["ca_path"]).open(check["url"], timeout=5) as answer:
        return "" if answer.status == 200 else f"status {answer.status}"


def printed(*argv: str) -> str:
    """What a command prints; nothing where it cannot be run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def unit_started(unit: str) -> float:
    """Seconds since the epoch at which a unit became active; 0 when systemd does not say."""
    moment = printed("systemctl", "show", "--timestamp=unix", "--property=ActiveEnterTimestamp", "--value", unit)
    return float(moment.lstrip("@") or 0) if moment.startswith("@") else 0.0


def unit_trouble(unit: str) -> str:
    """Tell whether a unit has failed: that, and the end of its journal, or nothing."""
    if printed("systemctl", "show", "--property=ActiveState", "--value", unit) != "failed":
        return ""
    journal = printed("journalctl", "--quiet", "-u", unit, "-n", str(JOURNAL_LINES), "-o", "cat")
    return "\n".join(["its unit has failed", *journal.splitlines()])


def heartbeat_trouble(monitor: dict[str, Any], component: str, started: float) -> str:
    """Judge one component in the monitor's answer. Returns the trouble, or nothing.

    :param started: seconds since the epoch; an older heartbeat is that of the process before.
    """
    state = monitor.get(component) or {}
    if state.get("status") != "healthy":
        return f"the API server's monitor says {state.get('status')}"
    beat = state.get(f"latest_{component}_heartbeat")
    if not beat or seconds(beat) < started:
        return "no heartbeat since its start"
    return ""


def ask_heartbeat(check: dict[str, Any]) -> str:
    """Ask the API server's monitor. Returns the trouble, or nothing."""
    with opener(check["ca_path"]).open(check["url"], timeout=5) as answer:
        return heartbeat_trouble(json.load(answer), check["component"], unit_started(check["unit"]))


def job_trouble(newest: tuple[str, float] | None, started: float, now: float) -> str:
    """Judge the newest job of a host. Returns the trouble, or nothing.

    :param newest: its state, and the time of its last heartbeat in seconds since the epoch.
    :param started: an older heartbeat is that of the process before.
    """
    state, beat = newest or ("", 0.0)
    if not beat or beat < started:
        return "no heartbeat since its start"
    if state != "running":
        return f"its job is in the state {state}"
    return f"no heartbeat for {now - beat:.0f} s" if now - beat > ALIVE else ""


def job_asker(python: str, database_url: str) -> Callable[[dict[str, Any]], str]:
    """Make the function that asks the metadata database for the job of one host."""

    def ask(check: dict[str, Any]) -> str:
        try:
            done = subprocess.run(
                [python, "-c", NEWEST, check["job"], check["host"]],
                env={**os.environ, "DATABASE_URL": database_url},
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return f"the metadata database says nothing for {PATIENCE} s"
        if done.returncode:
            return f"the metadata database cannot be asked: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"
        return job_trouble(json.loads(done.stdout), unit_started(check["unit"]), time.time())

    return ask


def celery_asker(python: str, broker_url: str) -> Callable[[dict[str, Any]], str]:
    """Make the function that pings a worker through the broker."""

    def ask(check: dict[str, Any]) -> str:
        try:
            return "" if ping(python, broker_url, check["worker"]) else "no answer to a ping"
        except BrokerError as problem:
            return str(problem)

    return ask


def wait(
    ask: Callable[[dict[str, Any]], str], check: dict[str, Any], deadline: float, given_up: threading.Event
) -> str:
    """Ask until the answer is good or nothing is to be waited for. Returns the last trouble, or nothing.

    :param given_up: set, here or by the wait for another component, when a unit has failed.
    """
    look = 0.0
    while True:
        try:
            trouble = ask(check)
        except (OSError, ValueError, http.client.HTTPException) as problem:
            # Some have no text, and no text would mean healthy.
            trouble = str(getattr(problem, "reason", "") or problem) or type(problem).__name__
        if not trouble:
            return ""
        now = time.monotonic()
        last = now >= deadline or given_up.is_set()
        # A unit is looked at once a second, not with each question: the components need the processors to start.
        if last or now >= look:
            look = now + 1
            failure = unit_trouble(check["unit"])
            if failure:
                given_up.set()
                return failure
        if last:
            return trouble
        given_up.wait(0.25)


def report(unhealthy: dict[str, str], units: dict[str, str], reason: str) -> str:
    """Say what is not healthy, where to look further, and below it the end of a failed unit's journal."""
    lines = [f"not healthy {reason}:"]
    for name, trouble in unhealthy.items():
        first, *journal = trouble.splitlines()
        lines.append(f"  {name}: {first}; see: journalctl -u {units[name]} -n 50")
        lines += [f"    {line}" for line in journal]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "checks": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "unit": {"type": "str", "required": True},
                    "kind": {"type": "str", "choices": ["http", "heartbeat", "job", "celery"], "required": True},
                    "url": {"type": "str", "default": ""},
                    "component": {"type": "str", "default": ""},
                    "job": {"type": "str", "default": ""},
                    "host": {"type": "str", "default": ""},
                    "worker": {"type": "str", "default": ""},
                },
            },
            "broker_url": {"type": "str", "default": "", "no_log": True},
            "database_url": {"type": "str", "default": "", "no_log": True},
            "ca_path": {"type": "path", "default": ""},
            "python": {"type": "path", "default": "/opt/airflow/current/bin/python"},
            "record": {"type": "path"},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    ask = {
        "http": ask_http,
        "heartbeat": ask_heartbeat,
        "job": job_asker(module.params["python"], module.params["database_url"]),
        "celery": celery_asker(module.params["python"], module.params["broker_url"]),
    }
    timeout = module.params["timeout"]
    given_up = threading.Event()
    start = time.monotonic()

    def judge(check: dict[str, Any]) -> tuple[str, str, float]:
        trouble = wait(ask[check["kind"]], check, start + timeout, given_up)
        return check["name"], trouble, round(time.monotonic() - start, 1)

    with ThreadPoolExecutor(max_workers=8) as pool:
        checks = [{**check, "ca_path": module.params["ca_path"]} for check in module.params["checks"]]
        verdicts = list(pool.map(judge, checks))
    healthy = {name: took for name, trouble, took in verdicts if not trouble}
    unhealthy = {name: trouble for name, trouble, _took in verdicts if trouble}
    if unhealthy:
        units = {check["name"]: check["unit"] for check in module.params["checks"]}
        took = max(took for _name, _trouble, took in verdicts)
        reason = f"after {took} s, given up because a unit has failed" if given_up.is_set() else f"after {timeout} s"
        module.fail_json(msg=report(unhealthy, units, reason), healthy=healthy, unhealthy=unhealthy)
    if module.params["record"] and not module.check_mode:
        try:
            Path(module.params["record"]).touch()
        except OSError as problem:
            module.fail_json(msg=f"healthy, but that cannot be written down: {problem}", healthy=healthy, unhealthy={})
    module.exit_json(changed=False, healthy=healthy, unhealthy={})


if __name__ == "__main__":
    main()
