#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Waits until the task instances that are queued or running now are over."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tasks_over
short_description: Wait until the tasks that are queued or running now are over
version_added: 0.1.0
description:
  - Asks the API which tries of tasks are queued or running, and waits until none of these is any more. Those that begin
    later do not count.
  - After O(timeout) it ends without an error, whether or not some of them still run.
options:
  timeout:
    description: Seconds to wait.
    type: int
    required: true
attributes:
  check_mode:
    description: Changes nothing anyway.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
extends_documentation_fragment: dataops.airflow.api
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Wait until no task has a token of before
  dataops.airflow.tasks_over:
    url: http://control1:8080
    username: admin
    password: "{{ airflow_admin_password }}"
    timeout: 610
"""

RETURN = r"""
awaited:
  description: Tries that were queued or running.
  type: int
  returned: success
left:
  description: Those of them that still are, after O(timeout).
  type: int
  returned: success
"""

import time
from collections.abc import Callable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import LOGIN_OPTIONS, Api, ApiError

UNDERWAY = "/api/v2/dags/~/dagRuns/~/taskInstances?state=queued&state=running&state=restarting&order_by=id"
PAGE = 100
"""The most that Airflow answers at once, whatever is asked for."""
OVERLAP = 50
"""How far the next page begins after this one: what ends between the two moves others back."""
INTERVAL = 2.0


def underway(api: Api) -> set[str]:
    """IDs of the tries that are queued or running: a next try has another one.

    :raises ApiError: when the API does not answer.
    """
    found: set[str] = set()
    offset = 0
    while True:
        page = api.ask("GET", f"{UNDERWAY}&limit={PAGE}&offset={offset}")["task_instances"]
        found.update(task["id"] for task in page)
        if len(page) < PAGE:
            return found
        offset += OVERLAP


def outlast(
    api: Api,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[int, int]:
    """Wait until what is under way is over. The number of tries that were, and of those that still are.

    :raises ApiError: when the API does not answer in the end.
    """
    deadline = clock() + timeout
    first = left = underway(api)
    while left and clock() < deadline:
        sleep(INTERVAL)
        left = first & underway(api)
    return len(first), len(left)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **LOGIN_OPTIONS,
            "timeout": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    option = module.params
    try:
        api = Api(option["url"], ca_path=option["ca_path"])
        api.login(option["username"], option["password"])
        awaited, left = outlast(api, option["timeout"])
    except ApiError as problem:
        module.fail_json(msg=f"tasks cannot be asked for: {problem}")
    module.exit_json(changed=False, awaited=awaited, left=left)


if __name__ == "__main__":
    main()
