#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Parses a folder of DAGs as the DAG processor would, before anything is switched to it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dags_parse
short_description: Parse a folder of DAGs as the DAG processor would
version_added: 0.1.0
description:
  - Runs O(program) with a release's interpreter in a transient unit of systemd, as the user and in the sandbox of the
    DAG processor, and fails with the files that cannot be imported and why.
  - Each file is parsed in a process of its own. A DAG that two files have is an error as well.
  - The files are parsed without O(secrets). Where one fails, they are parsed once more with them, as a file may read a
    variable or a connection where it is imported.
  - Changes nothing.
options:
  folder:
    description: Folder on the host with the DAGs.
    type: path
    required: true
  bundle:
    description: Name of the bundle that they are in.
    type: str
    default: dags-folder
  python:
    description: Interpreter of the release.
    type: path
    required: true
  program:
    description: Text of the Python program that parses, and answers with JSON.
    type: str
    required: true
  config:
    description: Text of C(airflow.cfg).
    type: str
    required: true
  environment:
    description: Environment variables, as text of a file of C(EnvironmentFile=).
    type: str
    required: true
  secrets:
    description: The same with secrets, for the second look; empty for none.
    type: str
    default: ""
  service:
    description: Directives of the unit, as in its C([Service]) section.
    type: dict
    default: {}
  force:
    description: Whether errors are told, and not fatal.
    type: bool
    default: false
  timeout:
    description: Seconds for all files.
    type: int
    default: 600
attributes:
  check_mode:
    description: Does nothing, as the folder is not there yet.
    support: none
  diff_mode:
    description: There is nothing to show.
    support: none
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Parse the DAGs
  dataops.airflow.dags_parse:
    folder: /opt/airflow/dags/3f0c6a1d9b52e874
    python: /opt/airflow/current/bin/python
    program: "{{ lookup('ansible.builtin.file', 'dags_parse.py') }}"
    config: "{{ lookup('ansible.builtin.file', 'airflow.cfg') }}"
    environment: "AIRFLOW_HOME=/var/lib/airflow\n"
    service: {User: airflow, ProtectSystem: strict}
"""

RETURN = r"""
dags:
  description: IDs of the DAGs in files without an error.
  returned: success
  type: list
  elements: str
files:
  description: How many files may have DAGs.
  returned: success
  type: int
errors:
  description: Path in O(folder) to what is wrong, with the line; empty where nothing is.
  returned: success and failure
  type: dict
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.directives import directive_lines

SCREEN = 20
"""Most errors that are shown."""


class ParseError(Exception):
    """The folder could not be parsed at all."""


def properties(service: Mapping[str, Any]) -> list[str]:
    """Directives as arguments of systemd-run."""
    return [f"--property={line}" for line in directive_lines(service)]


@contextmanager
def settings(config: str, environment: str) -> Iterator[Path]:
    """A folder with the configuration, for the user of the services, and the environment, which only root may read."""
    folder = Path(tempfile.mkdtemp(prefix="airflow-dags-", dir="/run" if os.access("/run", os.W_OK) else None))
    try:
        folder.chmod(0o755)
        (folder / "airflow.cfg").write_text(config, encoding="utf-8")
        (folder / "airflow.cfg").chmod(0o644)
        secret = folder / "environment"
        secret.touch(0o600)
        # Over what is there: no log of this is kept, and nothing is written down.
        own = {"AIRFLOW_CONFIG": folder / "airflow.cfg", "PYTHONDONTWRITEBYTECODE": 1}
        # An error is often raised far below the line of the DAG file that is wrong.
        own["AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH"] = 50
        logs = ("BASE_LOG_FOLDER", "DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY")
        own |= {f"AIRFLOW__LOGGING__{name}": "/tmp/logs" for name in logs}  # noqa: S108  the unit's own /tmp
        secret.write_text(environment + "".join(f"{name}={value}\n" for name, value in own.items()), encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder)


def parse(option: Mapping[str, Any], environment: str) -> dict[str, Any]:
    """Run the program.

    :raises ParseError: it gave no answer.
    """
    with settings(option["config"], environment) as folder:
        argv = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--unit={folder.name}"]
        argv += properties({**option["service"], "EnvironmentFile": folder / "environment"})
        argv += [f"--property=RuntimeMaxSec={option['timeout']}", "--"]
        argv += [option["python"], "-", option["folder"], option["bundle"]]
        done = subprocess.run(argv, input=option["program"], capture_output=True, text=True, check=False)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise ParseError(f"the parser ended with status {done.returncode}: {said or 'it said nothing'}") from None
    return answer


def look(option: Mapping[str, Any]) -> dict[str, Any]:
    """Parse all files, and those that fail once more with the secrets."""
    answer = parse(option, option["environment"])
    if answer["errors"] and option["secrets"]:
        again = parse(option, option["secrets"])
        answer = again if len(again["errors"]) <= len(answer["errors"]) else answer
    return answer


def shown(errors: Mapping[str, str]) -> str:
    """The errors on one screen."""
    lines = [text if text.startswith(f"{path}:") else f"{path}: {text}" for path, text in sorted(errors.items())]
    more = [f"and {len(lines) - SCREEN} more"] if len(lines) > SCREEN else []
    return "\n           ".join(line[:300] for line in [*lines[:SCREEN], *more])


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "bundle": {"type": "str", "default": "dags-folder"},
            "python": {"type": "path", "required": True},
            "program": {"type": "str", "required": True, "no_log": True},
            "config": {"type": "str", "required": True, "no_log": True},
            "environment": {"type": "str", "required": True, "no_log": True},
            "secrets": {"type": "str", "default": "", "no_log": True},
            "service": {"type": "dict", "default": {}},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 600},
        },
    )
    option = module.params
    try:
        answer = look(option)
    except (ParseError, OSError) as problem:
        module.fail_json(msg=f"The DAGs were not switched: {problem}", errors={})
    errors = answer["errors"]
    found = f"{len(errors)} of {answer['files']} files cannot be imported" if errors else ""
    if errors and not option["force"]:
        module.fail_json(
            msg=f"The DAGs were not switched, because {found}.\n"
            f"  found:   {shown(errors)}\n"
            "  allowed: files that Airflow imports, with the packages of the lock\n"
            "  remedy:  mend them, add a missing package to airflow_requirements, or switch nevertheless, with\n"
            "           -e airflow_dags_force=true; the DAGs of these files are then not there",
            errors=errors,
        )
    if errors:
        module.warn(f"Switched by force, although {found}:\n{shown(errors)}")
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
