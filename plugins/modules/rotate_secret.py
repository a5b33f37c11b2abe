#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name, which does all the work on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rotate_secret
short_description: Bring a secret of a site's vault file to a new value, phase by phase
version_added: 0.1.0
description:
  - Changes one key of a YAML file on the control node, and keeps what is needed to go on after a break-off in a key of
    its own, C(cluster_rotation). All else stays as it is, byte for byte.
  - The first phase generates the new value. A file that has come to O(phase) already, or further, is left alone.
  - Refuses a secret that is not in the file, that is an expression there, or that another place of the inventory
    overrides.
  - What was encrypted, the file or the value in it, is encrypted again with the password that opened it. The file gets
    the mode 0600. Values are neither returned nor shown, at any verbosity.
options:
  path:
    description: The file. Relative to the playbook; a symbolic link is followed.
    type: str
    required: true
  secret:
    description: Name of the variable.
    type: str
    required: true
  kind:
    description: What the new value is, as in M(dataops.airflow.secrets_file).
    type: str
    choices: [password, key, fernet]
    required: true
  phases:
    description: The phases of this secret, in their order.
    type: list
    elements: str
    choices: [accept, use, refuse]
    required: true
  phase:
    description:
      - The phase to come to, from the one before it.
      - V(accept) keeps the new value beside the old one. V(use) puts the new one in its place and keeps the old one.
        V(refuse) forgets the old one. V(done) forgets that there was a rotation.
    type: str
    choices: [accept, use, refuse, done]
    required: true
  with_new:
    description: Further variables that the file gets with the new value, such as the role that has it.
    type: dict
    default: {}
attributes:
  action:
    description: Runs on the control node only; nothing is sent to a host.
    support: full
  check_mode:
    description: Gives the same answer without writing.
    support: full
  diff_mode:
    description: A secret has no diff.
    support: none
notes:
  - Read the file with M(ansible.builtin.include_vars) afterwards; Ansible does not read the inventory again.
seealso:
  - module: dataops.airflow.secrets_file
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Keep a new password beside the old one, in use
  dataops.airflow.rotate_secret:
    path: "{{ inventory_dir }}/group_vars/all/vault.yml"
    secret: cluster_redis_password
    kind: password
    phases: [use, refuse]
    phase: use
  run_once: true
"""

RETURN = r"""
phase:
  description: The phase of the file; V(done) where no rotation is in the middle.
  type: str
  returned: success
"""
