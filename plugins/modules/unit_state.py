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
  - A unit writes, when it starts, a digest of everything it is started with into its runtime directory. This module
    compares that digest with the wanted one, so that a restart is never forgotten, however the run that changed the
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
      digest:
        description: Digest of what it shall have been started with.
        type: str
        required: true
      digest_file:
        description: Where the unit wrote the digest of what it was started with.
        type: path
        required: true
  owned:
    description: Glob over names in C(/etc/systemd/system); a regular file there that is not in O(units) is reported as unexpected.
    type: str
    default: ""
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
        digest: "{{ digest }}"
        digest_file: /run/airflow-scheduler/digest
    owned: airflow-*.service
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

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = ["Id", "ActiveState", "UnitFileState", "LoadState", "NeedDaemonReload"]


def parse_show(output: str) -> list[dict[str, str]]:
    """Parse ``systemctl show`` of several units: blocks of ``Property=value`` in the order asked."""
    blocks = [block for block in output.split("\n\n") if block.strip()]
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def started_with(path: str) -> str:
    """Digest that a unit wrote when it started; empty when it wrote none."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


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
                    "digest": {"type": "str", "required": True},
                    "digest_file": {"type": "path", "required": True},
                },
            },
            "owned": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    wanted: dict[str, dict[str, str]] = {unit["name"]: unit for unit in module.params["units"]}
    known: dict[str, dict[str, str]] = {}
    if wanted:
        argv = ["systemctl", "show", "--property=" + ",".join(PROPERTIES), "--", *wanted]
        _rc, output, _err = module.run_command(argv, check_rc=True)
        known = dict(zip(wanted, parse_show(output)))
    stopped = [name for name in wanted if known[name].get("ActiveState") not in ("active", "reloading")]
    stale = [
        name
        for name, unit in wanted.items()
        if name not in stopped and started_with(unit["digest_file"]) != unit["digest"]
    ]
    disabled = [name for name in wanted if known[name].get("UnitFileState") not in ("enabled", "alias")]
    owned = Path("/etc/systemd/system").glob(module.params["owned"]) if module.params["owned"] else []
    files = sorted(path.name for path in owned if path.is_file() and not path.is_symlink())
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
