#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Builds the wheel of one package that has none, from its hash-checked source."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wheel_build
short_description: Build a wheel from hash-checked source
version_added: 0.1.0
description:
  - Fetches the source of one package in one version, checks it against its hashes, and builds its wheel with the
    interpreter that Airflow's environment is made from.
  - As root, the build runs as the user V(nobody), in a temporary folder that is removed.
  - What a build itself needs (such as setuptools) comes from the index without a hash, as a lock does not name it.
  - Builds each time it is called. M(dataops.airflow.lock) calls it where a package has no wheel yet.
options:
  name:
    description: The package.
    type: str
    required: true
  version:
    description: Its version.
    type: str
    required: true
  hashes:
    description: Hashes that its source may have, as V(sha256:HEX).
    type: list
    elements: str
    required: true
  dest:
    description: An existing folder, into which the wheel is put.
    type: path
    required: true
  python:
    description: The interpreter; needs the standard library's C(venv) and C(ensurepip).
    type: path
    default: /usr/bin/python3
  index_url:
    description: Package index, credentials included. Empty means pip's own default.
    type: str
    default: ""
  ca_bundle:
    description: PEM file with the authorities that the index's certificate is checked against.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
attributes:
  check_mode:
    description: Says that a wheel would be built; builds nothing.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Build a wheel of docopt
  dataops.airflow.wheel_build:
    name: docopt
    version: 0.6.2
    hashes: ["sha256:49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491"]
    dest: /var/tmp
"""

RETURN = r"""
path:
  description: The wheel.
  type: str
  returned: when it was built
sha256:
  description: Its hash.
  type: str
  returned: when it was built
"""

import hashlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.credentials import scrub, secrets_in
from ansible_collections.dataops.airflow.plugins.module_utils.installer import BuildError, environment_for

BUILDER = "nobody"


def builder() -> dict[str, Any]:
    """Arguments of `subprocess.run` that make the code of a package run as a user without rights."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(BUILDER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def run(argv: list[str], scratch: Path, environment: dict[str, str]) -> None:
    """Run a command in the temporary folder.

    :raises BuildError: with the end of what it printed, when it does not exit with 0.
    """
    done = subprocess.run(
        argv, cwd=scratch, env=environment, capture_output=True, text=True, check=False, umask=0o022, **builder()
    )
    if done.returncode:
        output = f"{done.stdout}\n{done.stderr}".strip()
        raise BuildError(f"{Path(argv[0]).name} {' '.join(argv[1:3])} failed ({done.returncode}): {output[-3000:]}")


def build(parameters: dict[str, Any], scratch: Path) -> Path:
    """Build the wheel and return its path, in the temporary folder.

    :raises BuildError: when a step fails, or does not leave exactly one wheel of the package.
    """
    name, version = parameters["name"], parameters["version"]
    environment = environment_for(parameters["index_url"], parameters["ca_bundle"], str(scratch / "cache"))
    environment.update({"HOME": str(scratch), "TMPDIR": str(scratch), "PIP_NO_CACHE_DIR": "1"})
    requirements = scratch / "requirements.txt"
    requirements.write_text(" ".join([f"{name}=={version}", *(f"--hash={h}" for h in parameters["hashes"])]) + "\n")
    requirements.chmod(0o644)
    run([parameters["python"], "-m", "venv", str(scratch / "venv")], scratch, environment)
    run(
        [
            str(scratch / "venv/bin/python"),
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            # Without it, an old setup.py needs a `wheel` beside it, which is not installed.
            "--use-pep517",
            "--require-hashes",
            f"--no-binary={name}",
            "--wheel-dir",
            str(scratch / "wheels"),
            "--requirement",
            str(requirements),
        ],
        scratch,
        environment,
    )
    wheels = [path for path in (scratch / "wheels").glob("*.whl") if path.is_file() and not path.is_symlink()]
    if len(wheels) != 1 or normalized(wheels[0].name.partition("-")[0]) != normalized(name):
        raise BuildError(f"the build left {', '.join(path.name for path in wheels) or 'no wheel'}")
    return wheels[0]


def normalized(name: str) -> str:
    """A package's name in the one form that all its spellings have."""
    return re.sub(r"[-_.]+", "-", name).lower()


def keep(wheel: Path, folder: Path) -> tuple[Path, str]:
    """Copy the wheel to where it stays; its path and SHA-256. Never follows a link that a build may have left."""
    descriptor = os.open(wheel, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read()
    kept = folder / wheel.name
    kept.write_bytes(content)
    kept.chmod(0o644)
    return kept, hashlib.sha256(content).hexdigest()


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "hashes": {"type": "list", "elements": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "index_url": {"type": "str", "default": "", "no_log": True},
            "ca_bundle": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    # Not below Ansible's own temporary folder, which another user cannot enter.
    scratch = Path(tempfile.mkdtemp(prefix="airflow-wheel-"))
    try:
        user = builder()
        if user:
            os.chown(scratch, user["user"], user["group"])
        path, digest = keep(build(module.params, scratch), Path(module.params["dest"]))
        module.exit_json(changed=True, path=str(path), sha256=digest)
    except (BuildError, OSError, KeyError) as problem:
        text = scrub(str(problem), secrets_in([module.params["index_url"]]))
        module.fail_json(msg=f"{module.params['name']} {module.params['version']}: {text}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
