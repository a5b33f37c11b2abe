#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Makes sure that the administrator can log in with the password of the inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: admin_user
short_description: Make sure that Airflow's administrator can log in with the given password
version_added: 0.1.0
description:
  - Asks the API for a token with the given name and password. Only when it is refused, the user is created, or its
    password set, with C(airflow users), which reads the password from standard input and never from its arguments.
options:
  command:
    description: The C(airflow) command that loads the environment of this host.
    type: path
    required: true
  fresh:
    description: The database is new. Creates the user at once, while the API server may still be starting.
    type: bool
    default: false
  email:
    description: Address of the user; Airflow wants one.
    type: str
    required: true
attributes:
  check_mode:
    description: Tells whether the login is refused; changes nothing.
    support: full
  diff_mode:
    description: A password has no diff.
    support: none
extends_documentation_fragment: dataops.airflow.api
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Let the administrator log in
  dataops.airflow.admin_user:
    url: http://control1:8080
    command: /usr/local/bin/airflow
    username: admin
    password: "{{ airflow_admin_password }}"
    email: admin@example.org
"""

RETURN = r"""
action:
  description: What was done.
  type: str
  returned: always
  sample: [none, created, password set]
"""

import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import LOGIN, LOGIN_OPTIONS, Api, ApiError

TRIES = 3
"""How often a user is created: components that start on a new database write the same roles and permissions, and of two
that insert one row at the same time, the second fails."""


class LoginError(Exception):
    """Something that an operator has to look at."""


def login(url: str, username: str, password: str, ca_path: str) -> bool:
    """Tell whether the API grants a token.

    :raises LoginError: when the API cannot be reached or answers with anything but a grant or a refusal.
    """
    try:
        Api(url, ca_path=ca_path).login(username, password)
    except ApiError as problem:
        if problem.status in (401, 403):
            return False
        # What the API says about a login may repeat the password.
        message = f"{url}{LOGIN} answered {problem.status}" if problem.status else str(problem)
        raise LoginError(message) from problem
    return True


def users(command: str, arguments: list[str], password: str) -> subprocess.CompletedProcess[str]:
    """Run ``airflow users`` and answer its two password prompts.

    Without a controlling terminal the prompt reads standard input.
    """
    return subprocess.run(
        [command, "users", *arguments],
        input=f"{password}\n{password}\n",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **LOGIN_OPTIONS,
            "command": {"type": "path", "required": True},
            "email": {"type": "str", "required": True},
            "fresh": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    option = module.params
    name, password = option["username"], option["password"]
    try:
        if not option["fresh"] and login(option["url"], name, password, option["ca_path"]):
            module.exit_json(changed=False, action="none")
        if module.check_mode:
            module.exit_json(changed=True, action="login refused")
        create = ["create", "--username", name, "--role", "Admin", "--email", option["email"]]
        for _ in range(TRIES):
            done = users(option["command"], [*create, "--firstname", name, "--lastname", "Airflow"], password)
            if done.returncode == 0:
                break
        action = "created"
        # The database says "already exists" of the row of another.
        if f"{name} already exist" in done.stdout:
            done = users(option["command"], ["reset-password", "--username", name], password)
            action = "password set"
        if done.returncode:
            raise LoginError(f"airflow users failed ({done.returncode}): {done.stderr.strip()[-2000:]}")
        if not option["fresh"] and not login(option["url"], name, password, option["ca_path"]):
            raise LoginError(f"the login of {name} is still refused after: {action}")
        module.exit_json(changed=True, action=action)
    except LoginError as problem:
        module.fail_json(msg=f"administrator {name}: {problem}")


if __name__ == "__main__":
    main()
