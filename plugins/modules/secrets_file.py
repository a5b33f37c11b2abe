#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name, which does all the work on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secrets_file
short_description: Generate the missing secrets of a site into its vault file
version_added: 0.1.0
description:
  - Adds the keys that a YAML file on the control node lacks, with random values. What is there already, keys, comments
    and layout, stays as it is, byte for byte; a value is never replaced.
  - Leaves out what the site defines elsewhere, for example in another file of C(group_vars) or by a lookup, as the new
    value would override that. A variable that is not empty counts, and one whose template fails counts, too.
  - The file gets the mode 0600. It is encrypted with ansible-vault when a vault password is given to the run.
  - Values are neither returned nor shown, at any verbosity.
options:
  path:
    description:
      - The file, usually C(group_vars/all/vault.yml) of an inventory. Relative to the playbook.
      - Missing parent folders are made, with the mode 0755. A symbolic link is followed.
    type: str
    required: true
  secrets:
    description:
      - The keys that the file must have, unless they are defined elsewhere, in the order in which missing ones are
        added.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the variable.
        type: str
        required: true
      kind:
        description:
          - V(password) consists of O(secrets[].length) letters and digits.
          - V(key) is URL-safe text with O(secrets[].length) random bytes in it, and so longer than that.
          - V(fernet) is 32 random bytes in URL-safe Base64, as C(cryptography.fernet) wants them.
        type: str
        choices: [password, key, fernet]
        required: true
      length:
        description:
          - At least 16. Not for V(fernet).
          - The default is 32 for V(password) and 64 for V(key).
        type: int
      comment:
        description: Comment to write above the key.
        type: str
attributes:
  action:
    description: Runs on the control node only; nothing is sent to a host.
    support: full
  check_mode:
    description: Gives the same answer without writing.
    support: full
  diff_mode:
    description: Names of the keys, encryption and mode; never a value.
    support: full
notes:
  - A key whose value is empty is an error, as it is neither a secret nor missing. Delete its line to have one
    generated.
  - A vault-encrypted file is decrypted with the vault passwords of the run and encrypted again under its vault ID. A
    plain file gets the ID of C(--encrypt-vault-id), else of the first vault password.
  - Runs against several hosts at once take turns; one run is enough. Use C(run_once=true) or a play on localhost.
  - Ansible has read the inventory's variables before, and C(meta=refresh_inventory) does not read them again. To use
    new keys in the same run of ansible-playbook, load the file with M(ansible.builtin.include_vars).
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Generate the site's missing secrets
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Generate the missing secrets
      dataops.airflow.secrets_file:
        path: "{{ inventory_dir }}/group_vars/all/vault.yml"
        secrets:
          - name: airflow_fernet_key
            kind: fernet
            comment: Encrypts connections and variables in the database; without it they are lost.
          - name: airflow_jwt_secret
            kind: key
          - name: postgresql_airflow_password
            kind: password
            length: 40
"""

RETURN = r"""
created:
  description: Names of the keys that were generated (in check mode, would be), in the order given.
  returned: success
  type: list
  elements: str
  sample: [airflow_fernet_key]
path:
  description: The file, absolute.
  returned: success
  type: str
encrypted:
  description: Whether the file is encrypted with ansible-vault, after this task.
  returned: success
  type: bool
"""
