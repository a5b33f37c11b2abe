#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Tells which units run with something else than their files say."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit_state
short_description: Tell which systemd units run with something else than their files say
version_added: 0.1.0
description:
  - A unit writes, when it starts, the C(sha256sum) of everything it is started with into its runtime directory. This
    module compares that with the files of now, so that a restart is never forgotten, however the run that changed the
    files ended, and never done twice.
  - Reads only. One call answers for all units of a host.
options:
  units:
    description: The units that shall run.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the unit, with its suffix.
        type: str
        required: true
      files:
        description: What it is started with, in the order of its C(sha256sum).
        type: list
        elements: path
        required: true
      record:
        description: Where it wrote that C(sha256sum) when it started.
        type: path
        required: true
  restart:
    description: Whether every running unit counts as stale.
    type: bool
    default: false
  pending:
    description: Paths that a run in check mode would change; a unit started with one of them is reported as stale.
    type: list
    elements: path
    default: []
  owned:
    description:
      - All units that may be ours, as names or shell patterns; one that has a file and is not in O(units) is reported
        as unexpected.
    type: list
    elements: str
    default: []
  watched:
    description: Further units whose files count for RV(reload_needed).
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Reads only.
    support: none
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Compare the running components with their files
  dataops.airflow.unit_state:
    units:
      - name: airflow-scheduler.service
        files: [/etc/airflow/scheduler.cfg, /etc/airflow/scheduler.env]
        record: /run/airflow-scheduler/started-with
    owned: [airflow-scheduler.service, airflow-worker.service, "airflow-worker@*.service"]
  register: __airflow_state
"""

RETURN = r"""
stale:
  description: Running units that were started with something else.
  type: list
  elements: str
  returned: always
stopped:
  description: Units that are not active.
  type: list
  elements: str
  returned: always
disabled:
  description: Units that do not start at boot.
  type: list
  elements: str
  returned: always
attention:
  description: All of these, each once, in the order given.
  type: list
  elements: str
  returned: always
unexpected:
  description: Unit files that match O(owned) and are not wanted.
  type: list
  elements: str
  returned: always
missing:
  description: Units that systemd knows no file of.
  type: list
  elements: str
  returned: always
reload_needed:
  description: Whether systemd has not read the newest unit files.
  type: bool
  returned: always
"""

import hashlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = ["Id", "ActiveState", "UnitFileState", "LoadState", "NeedDaemonReload"]


def parse_show(output: str) -> list[dict[str, str]]:
    """Parse ``systemctl show`` of several units: blocks of ``Property=value`` in the order asked."""
    blocks = [block for block in output.split("\n\n") if block.strip()]
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def checksums(files: list[str]) -> str:
    """What ``sha256sum`` prints for these files; a missing one is left out, as there."""
    lines = []
    for name in files:
        try:
            lines.append(f"{hashlib.sha256(Path(name).read_bytes()).hexdigest()}  {name}")
        except OSError:
            continue
    return "\n".join(lines)


def recorded(path: str) -> str:
    """What a unit wrote when it started; empty when it wrote nothing."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def is_stale(unit: dict[str, Any], pending: list[str]) -> bool:
    """Whether a running unit was started with something else than its files of now, or of soon."""
    soon = any(file == path or file.startswith(f"{path}/") for file in unit["files"] for path in pending)
    return soon or recorded(unit["record"]) != checksums(unit["files"])


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "units": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "files": {"type": "list", "elements": "path", "required": True},
                    "record": {"type": "path", "required": True},
                },
            },
            "restart": {"type": "bool", "default": False},
            "pending": {"type": "list", "elements": "path", "default": []},
            "owned": {"type": "list", "elements": "str", "default": []},
            "watched": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    wanted: dict[str, dict[str, Any]] = {unit["name"]: unit for unit in module.params["units"]}
    known: dict[str, dict[str, str]] = {}
    watched = [*wanted, *module.params["watched"]]
    if watched:
        argv = ["systemctl", "show", "--property=" + ",".join(PROPERTIES), "--", *watched]
        _rc, output, _err = module.run_command(argv, check_rc=True)
        known = dict(zip(watched, parse_show(output), strict=True))
    stopped = [name for name in wanted if known[name].get("ActiveState") not in ("active", "reloading")]
    pending, restart = module.params["pending"], module.params["restart"]
    stale = [name for name, unit in wanted.items() if name not in stopped and (restart or is_stale(unit, pending))]
    disabled = [name for name in wanted if known[name].get("UnitFileState") not in ("enabled", "alias")]
    folder = Path("/etc/systemd/system")
    files = [path.name for name in module.params["owned"] for path in sorted(folder.glob(name)) if path.is_file()]
    module.exit_json(
        changed=False,
        stale=stale,
        stopped=stopped,
        disabled=disabled,
        attention=[name for name in wanted if name in stale or name in stopped or name in disabled],
        unexpected=[name for name in files if name not in wanted],
        missing=[name for name in wanted if known[name].get("LoadState") == "not-found"],
        reload_needed=any(unit.get("NeedDaemonReload") == "yes" for unit in known.values()),
    )


if __name__ == "__main__":
    main()
