# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validate_hosts
short_description: Check that the probed hosts are fit for an Airflow cluster
version_added: 0.1.0
description:
  - Checks operating systems (Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04), systemd, that all Airflow hosts have
    the same supported Python, that the lock is for it and for their machine, clocks, ports that others listen on, names
    that do not resolve, names by which PostgreSQL would not know its clients, nftables where they are wanted, and free
    space.
  - Reads what M(dataops.airflow.host_probe) found on the hosts of this play, registered as C(__cluster_probe). Hosts
    without such a result, and hosts in none of the collection's groups, are left out.
  - A host whose probe failed, or that could not be reached, is a problem. A host that is a worker and nothing else may
    be out of reach, but with O(purpose=operate).
  - Fails with one message that lists all problems, each with what was found, what is allowed, and what to do.
  - Runs on the control node, connects to no host, changes nothing.
options:
  purpose:
    description:
      - Kind of run. V(operate), for one that installs nothing, leaves out the rules about free space, the lock and the
        wheelhouse, and needs every host of the run. V(deliver) and V(go_back) leave them out as well.
    type: str
    choices: [install, operate, deliver, go_back]
    default: install
  minimum_free:
    description:
      - Path to bytes that must be free there, checked on each host whose probe has the path or a parent of it.
      - If not set, 2 GiB for C(/opt/airflow/releases), on hosts that get an Airflow environment.
    type: dict
  database_backend:
    description:
      - Kind of the metadata database that the inventory wants. Where V(postgresql) takes the place of SQLite, a warning
        says what is carried over and what is not.
    type: str
    choices: [postgresql, sqlite]
    default: postgresql
  workers:
    description:
      - C(host), C(instance), C(concurrency), C(autoscale) and C(memory_max) of each Celery worker. An installation is
        refused where a host has less memory than its workers take with a task of C(airflow_task_memory) in each slot,
        or C(memory_max) is less than its worker takes.
    type: list
    elements: dict
    default: []
  local:
    description: Tasks that each scheduler runs itself, with LocalExecutor; 0 without it.
    type: int
    default: 0
  hosts:
    description:
      - C(name), C(components) and C(memory), in MB or null where it is not known, of each host. An installation warns
        where a host has less memory than all that runs there takes with a task of C(airflow_task_memory) in each slot.
    type: list
    elements: dict
    default: []
  api_workers:
    description: Processes of each API server.
    type: int
    default: 1
  connections:
    description: Connections to PostgreSQL that all components together may open.
    type: int
    default: 0
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
- name: Validate the hosts
  dataops.airflow.validate_hosts:
  run_once: true
"""

RETURN = r"""
msg:
  description: How many hosts were probed; or all problems, one below the other.
  returned: always
  type: str
"""
