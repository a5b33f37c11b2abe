#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name, which works on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lock
short_description: Resolve the packages of a site once, into a lock with hashes
version_added: 0.1.0
description:
  - Resolves Airflow, its extras and further requirements on the control node with uv, into a file that names every
    package with its version and hashes for all supported Pythons. The hosts install that file and nothing else.
  - Keeps the versions of the lock that is there, and of the one that ships with the collection, unless told to upgrade.
  - Hosts install wheels only. A package without one is refused, unless O(build) names it; then its wheel is built once,
    on the host of this task, and kept beside the lock in the folder C(.wheels).
  - A lock for which a wheel exists for some Pythons only says in its header which ones it is for.
  - Refuses what cannot be resolved with uv's own explanation, and leaves the lock as it is.
  - Credentials are neither returned nor shown, at any verbosity.
options:
  path:
    description: The lock, on the control node. Relative to the playbook. Its folder must exist.
    type: str
    required: true
  seed:
    description: A lock whose versions are preferred where the one at O(path) does not tell. Empty means none.
    type: str
    default: ""
  version:
    description: Version of Airflow.
    type: str
    required: true
  extras:
    description: Airflow's extras.
    type: list
    elements: str
    default: []
  requirements:
    description: Further packages, such as V(boto3) or V(pandas>=2,<3).
    type: list
    elements: str
    default: []
  constraints:
    description: Files on the control node, or URLs, with constraints. Empty ones are left out.
    type: list
    elements: str
    default: []
  cutoff:
    description: Date, or time, after which uploads are not looked at. Empty means today.
    type: str
    default: ""
  python:
    description: Oldest minor version of Python that the lock is for.
    type: str
    default: "3.10"
  upgrade:
    description: V(true) for the newest version of everything, or a list of packages to upgrade.
    type: raw
    default: false
  build:
    description: Packages that may be built from source, and are.
    type: list
    elements: str
    default: []
  index_url:
    description: Package index, credentials included. Empty means uv's own settings on the control node.
    type: str
    default: ""
  ca_certificates:
    description: PEM files on the control node, with authorities to trust beside those that it trusts already.
    type: list
    elements: str
    default: []
  uv:
    description: Requirement lines, with hashes, of the one package C(uv).
    type: str
    required: true
  tools:
    description: Folder on the control node that uv is kept in, unless it is installed in this version already.
    type: str
    default: ~/.cache/dataops-airflow/uv
  interpreter:
    description: Interpreter on the host, for the packages of O(build).
    type: str
    default: /usr/bin/python3
attributes:
  action:
    description: Runs on the control node. The host is connected to only where something must be built.
    support: full
  check_mode:
    description: Resolves and gives the same answer; writes and builds nothing.
    support: full
  diff_mode:
    description: Shows which versions change.
    support: full
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Resolve the site's packages
  dataops.airflow.lock:
    path: "{{ inventory_dir }}/airflow-lock.txt"
    version: 3.3.2
    extras: [celery, postgres, redis]
    requirements: [boto3, "pandas>=2,<3"]
    uv: "{{ lookup('ansible.builtin.file', 'locks/uv.txt') }}"
"""

RETURN = r"""
path:
  description: The lock, absolute.
  returned: success
  type: str
changes:
  description: What differs in versions, from the lock that was at O(path); where there was none, from O(seed).
  returned: success
  type: list
  elements: str
  sample: ["+ boto3 1.44.8", "~ celery 5.6.2 -> 5.6.3"]
packages:
  description: Number of packages.
  returned: success
  type: int
built:
  description: Names of the packages whose wheels were built (in check mode, would be).
  returned: success
  type: list
  elements: str
"""
