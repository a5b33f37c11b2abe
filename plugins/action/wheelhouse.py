# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Fills a folder on the control node with the wheels of a lock; see plugins/modules/wheelhouse.py."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils.credentials import scrub, secrets_in
from ansible_collections.dataops.airflow.plugins.module_utils.installer import (
    BuildError,
    bundle_of,
    environment_for,
    run,
)
from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import Lock, LockError, Pin, parse
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, report
from ansible_collections.dataops.airflow.plugins.module_utils.turn import turn
from ansible_collections.dataops.airflow.plugins.module_utils.wheelhouse import (
    Target,
    WheelhouseError,
    choose,
    find_gaps,
    find_surplus,
    hash_folder,
    missing,
    pins_of,
)

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "lock": {"type": "path", "required": True},
    "uv": {"type": "str", "required": True},
    "targets": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {name: {"type": "str", "required": True} for name in ("python", "machine", "glibc")},
    },
    "wheels": {"type": "path"},
    "index_url": {"type": "str", "default": "", "no_log": True},
    "ca_bundle": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
    "ca_certificates": {"type": "list", "elements": "str", "default": []},
}
PARTIAL = ".partial-"

Fetch = Callable[[Sequence[Pin], Target, Path], None]
"""Puts wheels of some pins for a target into a folder."""


class Pip:
    """A pip of our own, made when it is first needed: the control node need not have one."""

    def __init__(self, environment: dict[str, str], scratch: Path) -> None:
        self.environment = environment
        self.scratch = scratch

    def __call__(self, pins: Sequence[Pin], target: Target, folder: Path) -> None:
        """Download one wheel of each pin, checked against its hashes.

        :raises BuildError: pip's words.
        """
        pip = self.scratch / "venv/bin/pip"
        if not pip.exists():
            if importlib.util.find_spec("ensurepip") is None:
                raise BuildError(f"{sys.executable} has no module ensurepip (on Debian: apt install python3-venv)")
            run([sys.executable, "-m", "venv", str(self.scratch / "venv")], self.environment)
        # Without markers, which pip would evaluate for its own interpreter instead of the target's.
        lines = [f"{replace(pin, marker='')}\n" for pin in pins]
        requirements = self.scratch / "requirements.txt"
        requirements.write_text("".join(lines), encoding="utf-8")
        major, minor = target.minor
        run(
            [
                str(pip),
                "download",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "--only-binary=:all:",
                f"--python-version={major}.{minor}",
                "--implementation=cp",
                f"--abi=cp{major}{minor}",  # abi3 and none follow from it
                *(f"--platform={platform}" for platform in target.platforms),
                f"--requirement={requirements}",
                f"--dest={folder}",
            ],
            self.environment,
        )


def fill(folder: Path, lock: Lock, uv_lines: str, targets: Sequence[Target], wheels: Path | None, fetch: Fetch) -> None:
    """Add the wheels that a folder lacks; each appears under its name when it is complete.

    :param wheels: folder with wheels that were built from source, taken before anything is fetched.
    """
    for leftover in folder.glob(f"{PARTIAL}*"):  # of a run that was killed
        shutil.rmtree(leftover)
    files = hash_folder(folder)
    built = hash_folder(wheels) if wheels else {}
    for target in targets:
        pins = [gap.pin for gap in find_gaps(files, lock, [target], uv_lines)]
        if not pins:
            continue
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as scratch:
            partial = Path(scratch)
            chosen, gaps = choose(built, pins, target)
            for name in chosen:
                shutil.copyfile(Path(wheels or "", name), partial / name)
            if gaps:
                fetch([gap.pin for gap in gaps], target, partial)
            arrived = hash_folder(partial)
            good, _ = choose(arrived, pins, target)
            for name in good:
                (partial / name).chmod(0o644)
                (partial / name).replace(folder / name)
            files.update(good)


class ActionModule(ActionBase):  # type: ignore[misc,unused-ignore]
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENT_SPEC)
        folder = Path(os.path.realpath(self._loader.path_dwim(args["path"])))
        try:
            result.update(self._converge(folder, args))
        except (WheelhouseError, LockError, BuildError, OSError, UnicodeError) as error:
            problem = Problem(
                f"wheelhouse {folder}",
                scrub(shorten(str(error)), secrets_in([args["index_url"]])),
                "every wheel of the lock, from an index that can be reached, or built beside the lock",
                "mend what is said there, and run again; the files that are there are kept",
            )
            raise AnsibleActionFail(report("The wheelhouse was not filled.", [problem])) from None
        return result

    def _converge(self, folder: Path, args: dict[str, Any]) -> dict[str, Any]:
        targets = list(dict.fromkeys(Target(**target) for target in args["targets"]))
        lock = parse(Path(self._loader.path_dwim(args["lock"])).read_text(encoding="utf-8"))
        wheels = Path(self._loader.path_dwim(args["wheels"])) if args["wheels"] else None
        if not self._task.check_mode:
            folder.mkdir(parents=True, exist_ok=True)
        with turn(folder):
            files = hash_folder(folder)
            gaps = find_gaps(files, lock, targets, args["uv"])
            if gaps and not self._task.check_mode:
                with tempfile.TemporaryDirectory(dir=constants.DEFAULT_LOCAL_TMP) as scratch:
                    certificates = [self._loader.path_dwim(file) for file in args["ca_certificates"]]
                    authorities = bundle_of(certificates, Path(scratch), args["ca_bundle"])
                    environment = environment_for(args["index_url"], authorities, scratch)
                    fill(folder, lock, args["uv"], targets, wheels, Pip(environment, Path(scratch)))
                files = hash_folder(folder)
                left = missing(files, lock, targets, args["uv"])
                if left:
                    raise WheelhouseError(f"still without a usable wheel: {', '.join(left)}")
            used = {name for target in targets for name in choose(files, pins_of(lock, args["uv"], target), target)[0]}
            added = list(dict.fromkeys(f"{gap.pin.name}=={gap.pin.version}" for gap in gaps))
            answer = {
                "changed": bool(gaps),
                "path": str(folder),
                "added": added,
                "surplus": find_surplus(files, lock, args["uv"]),
                "packages": len(used),
                "size": sum((folder / name).stat().st_size for name in used),
            }
        if self._task.diff and gaps:
            after = "".join(f"{name}\n" for name in added)
            answer["diff"] = {"before": "", "after": after, "before_header": str(folder), "after_header": str(folder)}
        return answer


def shorten(text: str) -> str:
    """Pip's words without counters and addresses of objects, so that its retries are one line instead of five."""
    text = re.sub(r"Retrying \(Retry\([^)]*\)\) after ", "", text)
    text = re.sub(r"<\S+ object at \w+>: ", "", text)
    return "\n".join(dict.fromkeys(text.splitlines()))
