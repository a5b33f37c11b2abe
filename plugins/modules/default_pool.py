#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Lets Airflow's default pool follow the size of the cluster, unless somebody set it by hand."""

from __future__ import annotations

DOCUMENTATION = r"""
module: default_pool
short_description: Let Airflow's default pool follow the size of the cluster
version_added: 0.1.0
description:
  - Airflow reads C([core] default_pool_task_slot_count) only when it makes the pool, with a new database. After that,
    this module sets the slots through the API.
  - What it set is written down in O(record). As long as that is what is wanted, the API is not asked, but with
    O(chosen).
  - A number that is neither the one that it set nor Airflow's own default was set by hand; it is kept, with a warning,
    but with O(chosen).
options:
  slots:
    description: Slots that the pool shall have.
    type: int
    required: true
  record:
    description: File with the number that was set last.
    type: path
    required: true
  chosen:
    description: >-
      Whether the number was chosen, and does not follow from the size of the cluster. It wins over one set by hand.
    type: bool
    default: false
attributes:
  check_mode:
    description: Tells whether the pool would be changed; changes nothing.
    support: full
  diff_mode:
    description: Shows the slots before and after.
    support: full
extends_documentation_fragment: dataops.airflow.api
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Let the default pool follow the workers
  dataops.airflow.default_pool:
    url: http://control1:8080
    username: admin
    password: "{{ airflow_admin_password }}"
    slots: 48
    record: /opt/airflow/default_pool
"""

RETURN = r"""
slots:
  description: Slots that the pool has. In check mode, those that it would have.
  type: int
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import LOGIN_OPTIONS, Api, ApiError

POOL = "/api/v2/pools/default_pool"
UNTOUCHED = 128
"""What Airflow gives the pool of a new database where nothing else is configured."""


def recorded(record: Path) -> int:
    """The number that was set last; Airflow's own where none was."""
    try:
        return int(record.read_text())
    except (OSError, ValueError):
        return UNTOUCHED


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **LOGIN_OPTIONS,
            "slots": {"type": "int", "required": True},
            "record": {"type": "path", "required": True},
            "chosen": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    option = module.params
    slots, record = option["slots"], Path(option["record"])
    last = recorded(record)
    known = record.is_file() and last == slots
    if known and not option["chosen"]:
        module.exit_json(changed=False, slots=slots)
    try:
        api = Api(option["url"], ca_path=option["ca_path"])
        api.login(option["username"], option["password"])
        found = api.ask("GET", POOL)["slots"]
        if found not in (slots, last) and not option["chosen"]:
            module.warn(
                f"default_pool has {found} slots, set by hand; it is left so, and {slots} would fit the cluster. "
                f"To let it follow the cluster again, set it to {slots} in the web UI. To choose a number, set "
                "airflow_config.core.default_pool_task_slot_count, where null means that nobody but you sets it."
            )
            module.exit_json(changed=False, slots=found)
        if not module.check_mode:
            if found != slots:
                api.ask("PATCH", f"{POOL}?update_mask=slots", {"slots": slots})
            if not known:
                record.write_text(f"{slots}\n")
    except (ApiError, OSError) as problem:
        module.fail_json(msg=f"default_pool: {problem}")
    diff = {"before": f"{found} slots\n", "after": f"{slots} slots\n"}
    module.exit_json(changed=found != slots, slots=slots, diff=diff)


if __name__ == "__main__":
    main()
