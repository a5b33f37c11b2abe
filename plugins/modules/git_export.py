#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name, which does the work on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: git_export
short_description: Export the files of a commit on the control node
version_added: 0.1.0
description:
  - Looks up which commit a branch or a tag is now, fetches that commit alone, and writes its files to a folder that
    Ansible removes at the end of the run. Hosts need neither git nor a key.
  - Fetched commits are kept in O(cache), so that the next run fetches what is new. A commit that is there is not asked
    for again.
  - Git runs with the settings of the user that runs the playbook (proxies, agents, credential helpers), and asks for
    nothing. A key is in a file for the time of the call; a password only in git's environment.
options:
  url:
    description: The repository, as C(git clone) takes it, without a password.
    type: str
    required: true
  ref:
    description: A branch, a tag, or the full number of a commit; V(HEAD) is the server's default branch.
    type: str
    default: HEAD
  path:
    description: Folder of the repository to export; empty for all of it.
    type: str
    default: ""
  key:
    description: Private SSH key as text, without a passphrase. Then no other key is tried.
    type: str
    default: ""
  known_hosts:
    description: Lines of C(known_hosts) with the server's keys. Empty for those that the user knows.
    type: str
    default: ""
  username:
    description: Name for O(password). Empty for C(git), which suits most tokens.
    type: str
    default: ""
  password:
    description: Password or token for HTTPS.
    type: str
    default: ""
  variables:
    description: What the names of the options above start with in messages, as variables of an inventory.
    type: str
    default: ""
  cache:
    description: Folder on the control node for what was fetched.
    type: str
    default: ~/.cache/dataops-airflow/git
  timeout:
    description: Seconds for each call of git.
    type: int
    default: 300
attributes:
  action:
    description: Runs on the control node; connects to no host.
    support: full
  check_mode:
    description: Exports as well; nothing but O(cache) and Ansible's own temporary folder is written.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
notes:
  - The control node needs git 2.31 or newer. Files of Git LFS and submodules are not fetched; a commit with submodules
    is refused.
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Get the DAGs of the branch main
  dataops.airflow.git_export:
    url: git@git.example.org:team/dags.git
    ref: main
    key: "{{ vault_deploy_key }}"
  run_once: true
  register: source

- name: Deliver them
  dataops.airflow.tree:
    src: "{{ source.path }}"
    dest: /opt/airflow/dags
    revision: "{{ source.commit }}"
"""

RETURN = r"""
commit:
  description: The full number of the commit.
  returned: success
  type: str
path:
  description: Folder on the control node with its files, until the end of the run.
  returned: success
  type: str
"""
