#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Keeps pools, variables, connections, roles and users in Airflow's metadata database as they are wanted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: settings
short_description: Keep Airflow's pools, variables, connections, roles and users as they are wanted
version_added: 0.1.0
description:
  - Compares what is wanted with the metadata database, in one call of Airflow's interpreter, and writes what differs.
    The API shows no passwords, so that it cannot tell whether one is as wanted.
  - An entry is the whole object. What it leaves out is empty, or has Airflow's default.
  - Nothing is written when anything is refused. All is one transaction, but for passwords of users, which Airflow sets
    itself afterwards.
options:
  settings:
    description:
      - Pools, variables, connections, roles and users, in a JSON object with these keys, each an object by name. The
        fields are those of the variables C(airflow_pools), C(airflow_variables), C(airflow_connections),
        C(airflow_roles) and C(airflow_users).
      - A text and not a dictionary, so that Ansible hides it as a whole, and not each word of it wherever that occurs.
    type: str
    required: true
  purge:
    description:
      - Kinds whose objects are removed where they are not wanted.
      - The pool C(default_pool), the roles that Airflow comes with, O(administrator) and Airflow's own example
        connections stay; V(default_connections) removes the latter.
    type: list
    elements: str
    choices: [pools, variables, connections, roles, users, default_connections]
    default: []
  administrator:
    description: User that is never removed.
    type: str
    required: true
  environment:
    description: File with the environment that the C(airflow) command has on this host.
    type: path
    required: true
  python:
    description: Airflow's interpreter.
    type: path
    required: true
  user:
    description: User that the interpreter runs as.
    type: str
    required: true
  home:
    description: Folder that it runs in.
    type: path
    required: true
attributes:
  check_mode:
    description: Compares, and writes nothing. Where Airflow is not installed yet, everything would be created.
    support: full
  diff_mode:
    description: Shows each field that differs. Values of variables, passwords and C(extra) are hidden.
    support: full
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Keep a pool and a connection
  dataops.airflow.settings:
    settings: "{{ wanted | to_json }}"
    administrator: admin
    environment: /etc/airflow/cli.env
    python: /opt/airflow/current/bin/python
    user: airflow
    home: /etc/airflow
  vars:
    wanted:
      pools: {reports: {slots: 4}}
      variables: {}
      connections: {warehouse: {conn_type: postgres, host: db, password: "{{ warehouse_password }}"}}
      roles: {}
      users: {}
"""

RETURN = r"""
changes:
  description: What was changed; in check mode, what would be.
  type: list
  elements: dict
  returned: success
  sample: [{kind: pools, name: reports, action: created, fields: [slots, description, include_deferred]}]
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils import stored_settings

# Loads the environment, becomes the user, and runs what follows; secrets come on standard input.
START = 'set -a; . "$1"; set +a; umask 0027; cd "$2"; user=$3; shift 3; exec setpriv --reuid="$user" --regid="$user" '
START += '--init-groups -- "$@"'


class SettingsError(Exception):
    """Airflow's interpreter did not answer."""


def source() -> str:
    """The text of `stored_settings`, from a file or from the archive that Ansible sends."""
    name = stored_settings.__name__
    loader: Any = stored_settings.__spec__.loader if stored_settings.__spec__ else None
    text: str | None = loader.get_source(name)
    if text is None:
        raise SettingsError(f"{name} has no text")
    return text


def ask(option: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Let Airflow's interpreter do the work.

    :raises SettingsError: when it does not answer.
    """
    program = [option["python"], "-c", source()]
    done = subprocess.run(
        ["/bin/sh", "-euc", START, "sh", option["environment"], option["home"], option["user"], *program],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    except ValueError:
        said = stored_settings.hide(done.stderr.strip()[-1000:], told["settings"])
        raise SettingsError(f"Airflow's interpreter ended with {done.returncode}: {said}") from None
    return answer


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "str", "required": True, "no_log": True},
            "purge": {"type": "list", "elements": "str", "default": [], "choices": list(stored_settings.PURGEABLE)},
            "administrator": {"type": "str", "required": True},
            "environment": {"type": "path", "required": True},
            "python": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    option = module.params
    installed = Path(option["python"]).exists() and Path(option["environment"]).exists()
    told = {
        "settings": json.loads(option["settings"]),
        "purge": option["purge"],
        "administrator": option["administrator"],
        "check": module.check_mode,
    }
    try:
        if installed or not module.check_mode:
            answer = ask(option, told)
        else:
            answer = stored_settings.report(stored_settings.beginning(told))
    except (SettingsError, OSError) as problem:
        answer = {"failed": str(problem)}
    if "refused" in answer:
        module.fail_json(msg=f"Nothing was changed.\n\n{answer['refused']}")
    if "failed" in answer:
        module.fail_json(msg=f"settings in the database: {answer['failed']}")
    module.exit_json(changed=bool(answer["changes"]), **answer)


if __name__ == "__main__":
    main()
