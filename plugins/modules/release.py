#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Installs a hashed lock into a release folder of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Install a hashed lock into a release folder of its own
version_added: 0.1.0
description:
  - Builds C(<root>/releases/<name>), a virtual environment with exactly the packages of a lock, each checked against
    its hash, wheels only, bytecode compiled.
  - The folder appears with its final name only when it is complete, so an interrupted run leaves the running
    release alone and the next one starts over.
  - An environment whose fingerprint is no longer the one it was built with is built again.
  - C(<root>/uv) keeps the installer, checked against its hash as well.
  - Does not switch C(<root>/current).
options:
  name:
    description: Name of the release folder; derive it from the lock, so that another lock gets another folder.
    type: str
    required: true
  root:
    description: Folder that holds C(releases) and C(uv).
    type: path
    required: true
  lock:
    description: The lock on the control node, as C(uv pip compile --generate-hashes) writes it.
    type: path
    required: true
  lock_file:
    description: The lock on the host. Set by the action plugin, not by a playbook.
    type: path
  uv:
    description: Requirement lines, with hashes, of the one package C(uv).
    type: str
    required: true
  python:
    description: Interpreter of the environment; needs the standard library's C(venv) and C(ensurepip).
    type: path
    default: /usr/bin/python3
  index_url:
    description: Package index, credentials included. Empty means the installer's own default.
    type: str
    default: ""
  ca_bundle:
    description: PEM file with the authorities that the index's certificate is checked against.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
  keep:
    description: Number of releases to keep, the one that C(<root>/current) points at always among them.
    type: int
    default: 3
attributes:
  check_mode:
    description: Tells whether the release would be built; builds nothing.
    support: full
  diff_mode:
    description: Shows the fingerprint before and after.
    support: full
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Install the packages of the lock
  dataops.airflow.release:
    name: 3.3.2-0d6b1ab6c1f4
    root: /opt/airflow
    lock: files/locks/airflow-3.3.2.txt
    uv: "uv==0.13.9 --hash=sha256:0000"
"""

RETURN = r"""
path:
  description: The release folder.
  type: str
  returned: always
fingerprint:
  description: Digest over interpreter, platform and every installed distribution. Empty in check mode before the build.
  type: str
  returned: always
packages:
  description: Number of installed distributions.
  type: int
  returned: always
"""

import json
import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.fingerprint import distributions, fingerprint
from ansible_collections.dataops.airflow.plugins.module_utils.installer import (
    BuildError,
    environment_for,
    install_uv,
    run,
)

MANIFEST = "release.json"


def python_version(python: str) -> str:
    """Version of an interpreter as ``major.minor``."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return run([python, "-c", code], dict(os.environ)).strip()


def site_packages(release: Path, version: str) -> Path:
    """Folder of the installed distributions of a release."""
    return release / "lib" / f"python{version}" / "site-packages"


def built_with(release: Path) -> str:
    """Fingerprint that a release had when it was built; empty when its manifest cannot be read."""
    try:
        return str(json.loads((release / MANIFEST).read_text())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def build(release: Path, module: AnsibleModule, version: str) -> None:
    """Build the release under a temporary name and rename it when it is complete.

    :raises BuildError: when a step fails; nothing of the attempt is left then.
    """
    root = Path(module.params["root"])
    partial = release.parent / f".{release.name}.partial"
    cache = root / ".cache.partial"
    for leftover in (partial, cache):
        shutil.rmtree(leftover, ignore_errors=True)
    release.parent.mkdir(parents=True, exist_ok=True)
    environment = environment_for(module.params["index_url"], module.params["ca_bundle"], str(cache))
    try:
        uv = str(install_uv(root / "uv", module.params["uv"], module.params["python"], environment))
        run([uv, "venv", "--quiet", "--relocatable", "--python", module.params["python"], str(partial)], environment)
        run(
            [
                uv,
                "pip",
                "sync",
                "--quiet",
                "--python",
                str(partial),
                "--require-hashes",
                "--only-binary=:all:",
                "--compile-bytecode",
                module.params["lock_file"],
            ],
            environment,
        )
        # uv leaves its lock behind, writable by everybody.
        (partial / ".lock").unlink(missing_ok=True)
        manifest = {
            "name": release.name,
            "python": version,
            "fingerprint": fingerprint(site_packages(partial, version), version),
        }
        shutil.copyfile(module.params["lock_file"], partial / "lock.txt")
        (partial / "lock.txt").chmod(0o644)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        replaced = release.parent / f".{release.name}.replaced"
        if release.exists():
            # One may be left of a run that ended between the renames.
            shutil.rmtree(replaced, ignore_errors=True)
            release.rename(replaced)
        partial.rename(release)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)


def prune(release: Path, keep: int) -> None:
    """Remove the oldest releases beyond ``keep``, never this one nor the one that ``current`` points at."""
    current = release.parent.parent / "current"
    protected = {release.resolve()} | ({current.resolve()} if current.is_symlink() else set())
    others = [path for path in release.parent.glob("[!.]*") if path.resolve() not in protected]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[max(0, keep - len(protected)) :]:
        shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "lock": {"type": "path"},
            "lock_file": {"type": "path"},
            "uv": {"type": "str", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "index_url": {"type": "str", "default": "", "no_log": True},
            "ca_bundle": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
            "keep": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    release = Path(module.params["root"], "releases", module.params["name"])
    os.umask(0o022)
    try:
        version = python_version(module.params["python"])
        before = ""
        if (release / MANIFEST).is_file():
            before = fingerprint(site_packages(release, version), version)
            if before != built_with(release):
                before += " (not the one it was built with)"
        changed = len(before) != 64
        if changed and not module.check_mode:
            if not module.params["lock_file"]:
                module.exit_json(changed=False, lock_wanted=True)
            build(release, module, version)
            prune(release, module.params["keep"])
        present = not changed or not module.check_mode
        after = fingerprint(site_packages(release, version), version) if present else ""
        module.exit_json(
            changed=changed,
            path=str(release),
            fingerprint=after,
            packages=len(distributions(site_packages(release, version))) if present else 0,
            diff={"before": f"fingerprint {before}\n", "after": f"fingerprint {after or 'of a new build'}\n"}
            if changed
            else {},
        )
    except (BuildError, OSError) as problem:
        module.fail_json(msg=f"release {release.name}: {problem}")


if __name__ == "__main__":
    main()
