#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name, which does all the work on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wheelhouse
short_description: Fill a folder on the control node with the wheels of a lock
version_added: 0.1.0
description:
  - Downloads every wheel that a lock names for the given targets, and that of C(uv), each checked against the hashes of
    the lock. Hosts that reach no package index are installed from the folder.
  - A wheel that is there with a right hash is not fetched again; when all are, no network is used. A file with a wrong
    hash is replaced.
  - A wheel appears under its name only when it is complete, so an interrupted run leaves no half of one.
  - Files that the lock does not name are left alone.
options:
  path:
    description:
      - The folder. Relative to the playbook.
      - Made if it is missing, with its parents.
    type: path
    required: true
  lock:
    description: The lock, as C(uv pip compile --generate-hashes) writes it.
    type: path
    required: true
  uv:
    description: Requirement lines, with hashes, of the one package C(uv).
    type: str
    required: true
  targets:
    description: What the hosts are, each kind of host once; C(probe) of M(dataops.airflow.host_probe) tells it.
    type: list
    elements: dict
    required: true
    suboptions:
      python:
        description: Full version of the interpreter, such as V(3.11.2).
        type: str
        required: true
      machine:
        description: Architecture, such as V(x86_64).
        type: str
        required: true
      glibc:
        description: Version of the C library, such as V(2.36). A wheel that needs a newer one is not taken.
        type: str
        required: true
  wheels:
    description:
      - Folder with wheels that were built from source. Those that the lock names are copied from there.
      - May be missing.
    type: path
  index_url:
    description: Package index, credentials included. Empty means the installer's own default.
    type: str
    default: ""
  ca_bundle:
    description: PEM file with the authorities that the index's certificate is checked against.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
  ca_certificates:
    description: PEM files on the control node, with authorities to trust beside those of O(ca_bundle).
    type: list
    elements: str
    default: []
attributes:
  action:
    description: Runs on the control node only; nothing is sent to a host.
    support: full
  check_mode:
    description: Gives the same answer for what is added, without the network and without writing.
    support: full
  diff_mode:
    description: Names and versions of the packages that are added.
    support: full
requirements:
  - on the control node, the standard library's C(venv) and C(ensurepip) (on Debian, the package C(python3-venv))
notes:
  - Runs against several hosts at once take turns; one run is enough.
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Fill the wheelhouse
  dataops.airflow.wheelhouse:
    path: "{{ inventory_dir }}/wheelhouse"
    lock: "{{ inventory_dir }}/airflow-lock.txt"
    uv: "uv==0.13.9 --hash=sha256:0000"
    targets:
      - {python: 3.11.2, machine: x86_64, glibc: "2.36"}
  run_once: true
"""

RETURN = r"""
path:
  description: The folder, absolute.
  returned: success
  type: str
added:
  description: Packages that had no usable wheel (in check mode, have none), with their versions.
  returned: success
  type: list
  elements: str
  sample: [celery==5.6.2]
surplus:
  description: Files in the folder that no line of the lock names.
  returned: success
  type: list
  elements: str
packages:
  description: Number of wheels in the folder that the targets use.
  returned: success
  type: int
size:
  description: Bytes that these wheels take.
  returned: success
  type: int
"""
