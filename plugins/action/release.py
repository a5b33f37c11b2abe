# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Hands the lock, and wheels where the site has some, to the host: only where the release is not yet there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import LockError
from ansible_collections.dataops.airflow.plugins.module_utils.wheelhouse import WheelhouseError, bundle, targets_of


class ActionModule(ActionBase):  # type: ignore[misc,unused-ignore]
    """Controller side of :mod:`dataops.airflow.release`."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        lock, wheels, probe = (args.pop(name, None) for name in ("lock", "wheels", "probe"))
        result: dict[str, Any] = self._execute_module("dataops.airflow.release", module_args=args, task_vars=task_vars)
        if not result.pop("lock_wanted", False):
            return result
        if not lock:
            raise AnsibleActionFail("release: the option lock is missing")
        lock = self._loader.path_dwim(lock)
        try:
            sent = {"lock_file": self._send(str(self._loader.get_real_file(lock)), "lock.txt")}
            folder = Path(self._loader.path_dwim(wheels)) if wheels else None
            if folder and folder.is_dir():
                packed = self._bundle(folder, Path(lock), args, probe)
                sent["wheels_file"] = self._send(str(packed), "wheels.tar")
            module_args = {**args, **sent}
            return self._execute_module("dataops.airflow.release", module_args=module_args, task_vars=task_vars)
        except (LockError, WheelhouseError, OSError) as problem:
            raise AnsibleActionFail(f"release {args['name']}: {problem}") from problem
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir, force=True)

    def _bundle(self, wheels: Path, lock: Path, args: dict[str, Any], probe: dict[str, Any] | None) -> Path:
        """Pack the wheels that this host needs; written once for all hosts of a run."""
        if not probe:
            raise AnsibleActionFail("release: with wheels, the option probe is needed")
        targets = targets_of([probe])
        if not targets:
            raise AnsibleActionFail(
                "release: no wheels can be chosen for the Python, machine and C library of this host"
            )
        into = Path(constants.DEFAULT_LOCAL_TMP)
        return bundle(wheels, lock, args["uv"], targets[0], into, complete=bool(args.get("no_index")))

    def _send(self, local: str, name: str) -> str:
        """Transfer a file; its path on the host."""
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        remote = str(shell.join_path(shell.tmpdir, name))
        self._transfer_file(local, remote)
        return remote
