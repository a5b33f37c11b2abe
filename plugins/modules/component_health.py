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
            O(checks[].url).
          - V(celery) wants an answer to a ping from O(checks[].worker).
        type: str
        choices: [http, heartbeat, celery]
        required: true
      url:
        description: URL to ask; not for V(celery).
        type: str
        default: ""
      component:
        description: Key in the answer of the monitor; for V(heartbeat).
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
  python:
    description: Interpreter that can import Celery; for V(celery).
    type: path
    default: /opt/airflow/current/bin/python
  timeout:
    description: Seconds until the wait is given up.
    type: int
    default: 120
attributes:
  check_mode:
    description: Reads only, but waits as well.
    support: full
  diff_mode:
    description: Reads only.
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
  description: Last answer of each component that did not.
  type: dict
  returned: always
"""

import datetime
import http.client
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PING = """
import os, sys
from celery import Celery
app = Celery(broker=os.environ['BROKER_URL'])
app.conf.broker_connection_retry = False
app.conf.broker_transport_options = {'socket_timeout': 5, 'socket_connect_timeout': 5}
answers = app.control.ping(destination=[sys.argv[1]], timeout=3, limit=1)
sys.exit(0 if answers else 'no answer to a ping')
"""

# The hosts of a cluster speak to each other directly, whatever proxy the environment names.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask_http(check: dict[str, Any]) -> str:
    """Ask for status 200. Returns the trouble, or nothing."""
    with DIRECT.open(check["url"], timeout=5) as answer:
        return "" if answer.status == 200 else f"status {answer.status}"


def unit_started(unit: str) -> float:
    """Seconds since the epoch at which a unit became active; 0 when systemd does not say."""
    argv = ["systemctl", "show", "--timestamp=unix", "--property=ActiveEnterTimestamp", "--value", unit]
    output = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    return float(output.lstrip("@") or 0) if output.startswith("@") else 0.0


def heartbeat_trouble(monitor: dict[str, Any], component: str, started: float) -> str:
    """Judge one component in the monitor's answer. Returns the trouble, or nothing.

    :param started: seconds since the epoch; an older heartbeat is that of the process before.
    """
    state = monitor.get(component) or {}
    if state.get("status") != "healthy":
        return f"the API server's monitor says {state.get('status')}"
    beat = state.get(f"latest_{component}_heartbeat")
    if not beat or datetime.datetime.fromisoformat(beat.replace("Z", "+00:00")).timestamp() < started:
        return "no heartbeat since its start"
    return ""


def ask_heartbeat(check: dict[str, Any]) -> str:
    """Ask the API server's monitor. Returns the trouble, or nothing."""
    with DIRECT.open(check["url"], timeout=5) as answer:
        return heartbeat_trouble(json.load(answer), check["component"], unit_started(check["unit"]))


def celery_asker(python: str, broker_url: str) -> Callable[[dict[str, Any]], str]:
    """Make the function that pings a worker through the broker."""

    def ask(check: dict[str, Any]) -> str:
        done = subprocess.run(
            [python, "-c", PING, check["worker"]],
            env={**os.environ, "BROKER_URL": broker_url},
            capture_output=True,
            text=True,
            check=False,
        )
        return (
            ""
            if done.returncode == 0
            else done.stderr.strip().splitlines()[-1:][0]
            if done.stderr.strip()
            else "no answer"
        )

    return ask


def wait(ask: Callable[[dict[str, Any]], str], check: dict[str, Any], deadline: float) -> str:
    """Ask until the answer is good or the deadline has passed. Returns the last trouble, or nothing."""
    while True:
        try:
            trouble = ask(check)
        except (OSError, ValueError, http.client.HTTPException) as problem:
            # Some have no text, and no text would mean healthy.
            trouble = str(getattr(problem, "reason", "") or problem) or type(problem).__name__
        if not trouble or time.monotonic() >= deadline:
            return trouble
        time.sleep(0.25)


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
                    "kind": {"type": "str", "choices": ["http", "heartbeat", "celery"], "required": True},
                    "url": {"type": "str", "default": ""},
                    "component": {"type": "str", "default": ""},
                    "worker": {"type": "str", "default": ""},
                },
            },
            "broker_url": {"type": "str", "default": "", "no_log": True},
            "python": {"type": "path", "default": "/opt/airflow/current/bin/python"},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    ask = {
        "http": ask_http,
        "heartbeat": ask_heartbeat,
        "celery": celery_asker(module.params["python"], module.params["broker_url"]),
    }
    start = time.monotonic()

    def judge(check: dict[str, Any]) -> tuple[str, str, float]:
        trouble = wait(ask[check["kind"]], check, start + module.params["timeout"])
        return check["name"], trouble, round(time.monotonic() - start, 1)

    with ThreadPoolExecutor(max_workers=8) as pool:
        verdicts = list(pool.map(judge, module.params["checks"]))
    healthy = {name: seconds for name, trouble, seconds in verdicts if not trouble}
    unhealthy = {name: trouble for name, trouble, _seconds in verdicts if trouble}
    if unhealthy:
        units = {check["name"]: check["unit"] for check in module.params["checks"]}
        lines = [f"  {name}: {trouble}; see: journalctl -u {units[name]} -n 50" for name, trouble in unhealthy.items()]
        message = f"not healthy after {module.params['timeout']} s:\n" + "\n".join(lines)
        module.fail_json(msg=message, healthy=healthy, unhealthy=unhealthy)
    module.exit_json(changed=False, healthy=healthy, unhealthy={})


if __name__ == "__main__":
    main()
