# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validate_inventory
short_description: Check that the inventory describes a valid Airflow cluster
version_added: 0.1.0
description:
  - Checks groups, names and types of variables, what must be equal on all hosts, addresses, the lock, secrets,
    and the files on the control node that the inventory names.
  - Refuses more than one executor; options in V(airflow_config) that have a variable of their own, or that may hold a
    secret; and keys of V(airflow_service_options) that are no component.
  - Fails with one message that lists all problems, each with what was found, what is allowed, and what to do.
    The value of a secret is never printed.
  - Runs on the control node, connects to no host, changes nothing, and looks at the whole inventory even with
    C(--limit).
options:
  purpose:
    description:
      - Kind of run. V(operate), for one that installs nothing, leaves out the rules about the lock and about files
        on the control node, and so does V(go_back). V(deliver), for one that delivers DAGs, looks for these alone, and
        wants some.
        V(plan), for one that only reckons, leaves out the secrets, and whether PostgreSQL has connections enough,
        besides.
    type: str
    choices: [install, operate, deliver, go_back, plan]
    default: install
  exclude_prefixes:
    description:
      - Variables whose names start with one of these belong to another collection, although they start like this
        collection's own; for example V(redis_exporter_).
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Can run in check mode and does the same there.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Validate the inventory
  dataops.airflow.validate_inventory:
  run_once: true
"""

RETURN = r"""
msg:
  description: What the cluster is, on one line; or all problems, one below the other.
  returned: always
  type: str
"""
