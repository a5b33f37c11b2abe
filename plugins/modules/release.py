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
  - An environment whose fingerprint is no longer the one it was built with, or that was built with another interpreter,
    is built again, and put in the place of the old one in one step. O(deep) says how closely that is looked at.
  - C(sbom.cdx.json) in it is a bill of materials in CycloneDX's format, with the licences that the packages name.
  - C(<root>/uv) keeps the installer, checked against its hash as well.
  - Switches neither C(<root>/current) nor C(<root>/previous), the way back.
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
  wheels:
    description: Folder on the control node with wheels that are taken instead of those of the index.
    type: path
  probe:
    description: What M(dataops.airflow.host_probe) learned of this host; with O(wheels), it tells which of them fit.
    type: dict
  no_index:
    description: Take every package, and uv itself, from O(wheels); the host asks no package index.
    type: bool
    default: false
  wheels_file:
    description: The wheels on the host, as one C(tar). Set by the action plugin, not by a playbook.
    type: path
  index_url:
    description: Package index, credentials included. Empty means the installer's own default.
    type: str
    default: ""
  ca_bundle:
    description: PEM file with the authorities that the index's certificate is checked against.
    type: path
    default: /etc/ssl/certs/ca-certificates.crt
  deep:
    description:
      - Also hash every installed file of a release that is there. Finds files that were edited without a trace in their
        size and time, and files of no package inside the folder of one; takes seconds.
    type: bool
    default: false
  keep:
    description: Number of releases to keep, the current and the previous one always among them.
    type: int
    default: 3
attributes:
  check_mode:
    description: Tells whether the release would be built; builds nothing.
    support: full
  diff_mode:
    description: Shows the fingerprint before and after, and which packages were not those of the lock.
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
previous:
  description: What C(<root>/previous) shall point at once this release is the current one. Empty for the first.
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
import tarfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.exchange import replace
from ansible_collections.dataops.airflow.plugins.module_utils.fingerprint import (
    MANIFEST,
    describe,
    digest,
    distributions,
    inspect,
    site_packages,
    top_names,
)
from ansible_collections.dataops.airflow.plugins.module_utils.installer import (
    BuildError,
    environment_for,
    identify,
    install_uv,
    run,
)
from ansible_collections.dataops.airflow.plugins.module_utils.sbom import NAME as BILL
from ansible_collections.dataops.airflow.plugins.module_utils.sbom import bill
from ansible_collections.dataops.airflow.plugins.module_utils.turn import turn


def unpack(wheels_file: str | None, folder: Path) -> list[str]:
    """Unpack the wheels that came from the control node.

    :returns: options that make pip and uv look there; none where nothing came.
    """
    if not wheels_file:
        return []
    folder.mkdir(parents=True)
    with tarfile.open(wheels_file) as tar:
        for member in tar:
            source = tar.extractfile(member)
            if source and "/" not in member.name:
                with source, (folder / member.name).open("wb") as file:
                    shutil.copyfileobj(source, file)
    return ["--find-links", str(folder)]


def fill(partial: Path, options: dict[str, Any], version: str, interpreter: str, cache: Path) -> None:
    """Build the whole release in a new folder.

    :param partial: the folder.
    :param options: the module's.
    :param version: the interpreter's version.
    :param interpreter: its file.
    :param cache: folder for downloads, removed by the caller.
    :raises BuildError: when a step fails.
    """
    environment = environment_for(options["index_url"], options["ca_bundle"], str(cache))
    links = unpack(options["wheels_file"], cache / "wheels") + (["--no-index"] if options["no_index"] else [])
    uv = str(install_uv(Path(options["root"], "uv"), options["uv"], options["python"], environment, links))
    run([uv, "venv", "--quiet", "--relocatable", "--python", options["python"], str(partial)], environment)
    sync = [uv, "pip", "sync", "--quiet", "--python", str(partial), "--require-hashes", "--only-binary=:all:"]
    run([*sync, "--compile-bytecode", *links, options["lock_file"]], environment)
    # uv leaves its lock behind, writable by everybody.
    (partial / ".lock").unlink(missing_ok=True)
    installed = distributions(site_packages(partial, version))
    manifest: dict[str, Any] = {
        "name": options["name"],
        # A release that was built again is another one: what runs with it is restarted.
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": version,
        "interpreter": interpreter,
        "fingerprint": digest(installed, version),
        "distributions": installed,
        "top": top_names(site_packages(partial, version)),
    }
    # Of no package, and outside site-packages: the fingerprint does not know it.
    (partial / BILL).write_text(bill(site_packages(partial, version), options["name"], manifest["fingerprint"]))
    shutil.copyfile(options["lock_file"], partial / "lock.txt")
    (partial / "lock.txt").chmod(0o644)
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def build(release: Path, options: dict[str, Any], version: str, interpreter: str) -> None:
    """Build the release under a temporary name, and give it its own when it is complete.

    :raises BuildError: when a step fails; nothing of the attempt is left then.
    """
    root = Path(options["root"])
    partial, cache = release.parent / f".{release.name}.partial", root / ".cache.partial"
    leftovers = [*release.parent.glob(".*.partial"), *release.parent.glob(".*.old"), *(root / "uv").glob(".partial-*")]
    for leftover in (*leftovers, cache):
        shutil.rmtree(leftover, ignore_errors=True)
    release.parent.mkdir(parents=True, exist_ok=True)
    try:
        fill(partial, options, version, interpreter, cache)
        replace(partial, release)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)


def link(path: Path) -> str:
    """What a symbolic link says; empty where there is none."""
    return str(path.readlink()) if path.is_symlink() else ""


def way_back(root: Path, name: str) -> str:
    """What ``previous`` must point at when ``current`` points at this release; empty where there was none before."""
    current = link(root / "current")
    return link(root / "previous") if current in ("", f"releases/{name}") else current


def prune(release: Path, keep: int) -> None:
    """Remove the oldest releases beyond ``keep``, never this one, the current or the previous one."""
    root = release.parent.parent
    protected = {release.resolve()} | {path.resolve() for name in ("current", "previous") if link(path := root / name)}
    others = [path for path in release.parent.glob("[!.]*") if path.resolve() not in protected]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[max(0, keep - len(protected)) :]:
        shutil.rmtree(old, ignore_errors=True)


def converge(module: AnsibleModule, release: Path, version: str, interpreter: str) -> None:
    """Build the release where it is not what it shall be, and end the module.

    :raises BuildError: when a step fails; nothing of the attempt is left then.
    """
    state: dict[str, Any] = {"fingerprint": "", "packages": 0, "intact": False}
    before = ""
    if (release / MANIFEST).is_file():
        state = inspect(release, version, module.params["deep"], interpreter)
        before = f"fingerprint {state['fingerprint']} {describe(state['drift'])}".rstrip() + "\n"
    changed = not state["intact"]
    if changed and not module.check_mode:
        if not module.params["lock_file"]:
            module.exit_json(changed=False, lock_wanted=True)
        build(release, module.params, version, interpreter)
        state = inspect(release, version, interpreter=interpreter)
        prune(release, module.params["keep"])
    after = f"fingerprint {state['fingerprint'] if state['intact'] else 'of a new build'}\n"
    module.exit_json(
        changed=changed,
        path=str(release),
        previous=way_back(Path(module.params["root"]), release.name),
        fingerprint=state["fingerprint"] if state["intact"] else "",
        packages=state["packages"] if state["intact"] else 0,
        diff={"before": before, "after": after} if changed else {},
    )


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
            "wheels": {"type": "path"},
            "probe": {"type": "dict"},
            "wheels_file": {"type": "path"},
            "no_index": {"type": "bool", "default": False},
            "index_url": {"type": "str", "default": "", "no_log": True},
            "ca_bundle": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
            "deep": {"type": "bool", "default": False},
            "keep": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    release = root / "releases" / module.params["name"]
    os.umask(0o022)
    try:
        version, interpreter = identify(module.params["python"])
        if not module.check_mode:
            root.mkdir(parents=True, exist_ok=True)
        # What a run that was broken off left behind may still be building: it is waited for.
        with turn(root):
            converge(module, release, version, interpreter)
    except (BuildError, OSError) as problem:
        module.fail_json(msg=f"release {release.name}: {problem}")


if __name__ == "__main__":
    main()
