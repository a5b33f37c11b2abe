#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Compares the packages of a release with those that it was built with."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fingerprint
short_description: Compare the packages of a release with those that it was built with
version_added: 0.1.0
description:
  - Takes the fingerprint of an environment, a digest over the interpreter's version, the platform and every installed
    distribution with its list of files, and names what differs from the build.
  - Reads only.
options:
  release:
    description: The release folder, or a link to it.
    type: path
    required: true
  python:
    description: The interpreter that the release was made from.
    type: path
    default: /usr/bin/python3
  same_interpreter:
    description:
      - Whether a release counts as changed that was built with another interpreter than O(python), of the same version.
      - Such a release runs, and a component starts with it; M(dataops.airflow.release) builds it anew.
    type: bool
    default: false
  deep:
    description: Also hash every installed file again. Finds files that were edited in place; takes seconds.
    type: bool
    default: false
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
- name: Compare the packages with those of the lock
  dataops.airflow.fingerprint:
    release: /opt/airflow/current
    deep: true
  register: found
"""

RETURN = r"""
path:
  description: The release folder. Empty where there is none.
  type: str
  returned: always
fingerprint:
  description: Digest of what is installed now, 64 hexadecimal digits. Empty where there is no release.
  type: str
  returned: always
packages:
  description: Number of installed distributions.
  type: int
  returned: always
intact:
  description: Whether it is what was built.
  type: bool
  returned: always
hidden:
  description: Whether only O(deep) tells that it is not, so that M(dataops.airflow.release) sees it with O(deep) only.
  type: bool
  returned: always
drift:
  description: >-
    Lists of C(added), C(removed), C(changed) distributions, of C(edited) files and, with O(same_interpreter), what is
    another C(interpreter).
  type: dict
  returned: always
told:
  description: The drift as text.
  type: str
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.fingerprint import MANIFEST, describe, inspect
from ansible_collections.dataops.airflow.plugins.module_utils.installer import BuildError, identify


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "same_interpreter": {"type": "bool", "default": False},
            "deep": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    release = Path(module.params["release"]).resolve()
    if not (release / MANIFEST).is_file():
        told = f"no release at {module.params['release']}"
        module.exit_json(
            changed=False, path="", fingerprint="", packages=0, intact=False, hidden=False, drift={}, told=told
        )
    try:
        version, interpreter = identify(module.params["python"])
        wanted = interpreter if module.params["same_interpreter"] else ""
        found = inspect(release, version, module.params["deep"], wanted)
    except (BuildError, OSError) as problem:
        module.fail_json(msg=f"{release}: {problem}")
    drift = found["drift"]
    told = describe(drift) if isinstance(drift, dict) else ""
    module.exit_json(changed=False, path=str(release), told=told, **found)


if __name__ == "__main__":
    main()
