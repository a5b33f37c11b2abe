#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Has delivered DAGs parsed at once, and waits until the API shows them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dags_shown
short_description: Have delivered DAGs parsed at once, and wait until the API shows them
version_added: 0.1.0
description:
  - Asks the DAG processors, by way of the API, to parse a known file of the bundle before all others. They then look
    for new files as well, instead of at the next C(refresh_interval).
  - Waits until the API shows all O(dags). One that it does not show in time is told of, and so is an API that does not
    answer; neither is a failure.
options:
  bundle:
    description: Name of the bundle.
    type: str
    default: dags-folder
  dags:
    description: IDs of the DAGs to wait for.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds to wait.
    type: int
    default: 60
attributes:
  check_mode:
    description: Does nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
extends_documentation_fragment: dataops.airflow.api
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Show the new DAGs
  dataops.airflow.dags_shown:
    url: http://control1:8080
    username: admin
    password: "{{ airflow_admin_password }}"
    dags: [seed, report]
"""

RETURN = r"""
missing:
  description: Those of O(dags) that the API did not show in time.
  returned: success
  type: list
  elements: str
seconds:
  description: How long it took.
  returned: success
  type: float
"""

import time
import urllib.parse
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import LOGIN_OPTIONS, Api, ApiError

PAGE = 100


def known(api: Api, bundle: str) -> dict[str, str]:
    """ID of each DAG of a bundle that the API shows, and the token of its file."""
    found: dict[str, str] = {}
    offset = 0
    while True:
        query = urllib.parse.urlencode({"bundle_name": bundle, "limit": PAGE, "offset": offset, "order_by": "dag_id"})
        page: dict[str, Any] = api.ask("GET", f"/api/v2/dags?{query}")
        found |= {dag["dag_id"]: dag["file_token"] for dag in page["dags"]}
        offset += len(page["dags"])
        if not page["dags"] or offset >= page["total_entries"]:
            return found


def show(api: Api, bundle: str, dags: list[str], deadline: float) -> list[str]:
    """Have them parsed, wait for them, and return those that are missing at the deadline."""
    asked = False
    while True:
        there = known(api, bundle)
        missing = sorted(set(dags) - there.keys())
        if there and not asked:
            token = next(iter(there.values()))
            try:
                api.ask("PUT", f"/api/v2/parseDagFile/{urllib.parse.quote(token, safe='')}")
            except ApiError as problem:
                if problem.status not in (404, 409):  # removed meanwhile; asked for already
                    raise
            asked = True
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **LOGIN_OPTIONS,
            "bundle": {"type": "str", "default": "dags-folder"},
            "dags": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    option = module.params
    if module.check_mode:
        module.exit_json(changed=False, missing=[], seconds=0.0)
    start = time.monotonic()
    try:
        api = Api(option["url"], ca_path=option["ca_path"])
        api.login(option["username"], option["password"])
        missing = show(api, option["bundle"], option["dags"], start + option["timeout"])
    except ApiError as problem:
        missing = option["dags"]
        module.warn(f"The DAGs are delivered. The API cannot be asked whether it shows them: {problem}")
    else:
        if missing:
            names = ", ".join(missing[:10])
            module.warn(
                f"After {option['timeout']} s the API does not show {names}; see: "
                "journalctl -u airflow-dag-processor -n 50; site.yml, where the bundle is a new one"
            )
    module.exit_json(changed=False, missing=missing, seconds=round(time.monotonic() - start, 1))


if __name__ == "__main__":
    main()
