# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Hands the lock to the host only where the release is not yet there."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Controller side of :mod:`dataops.airflow.release`."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        lock = args.pop("lock", None)
        result = self._execute_module("dataops.airflow.release", module_args=args, task_vars=task_vars)
        if not result.pop("lock_wanted", False):
            return result
        if not lock:
            raise AnsibleActionFail("release: the option lock is missing")
        self._connection._shell.tmpdir or self._make_tmp_path()
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, "lock.txt")
        self._transfer_file(self._loader.get_real_file(lock), remote)
        try:
            return self._execute_module(
                "dataops.airflow.release", module_args={**args, "lock_file": remote}, task_vars=task_vars
            )
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir, force=True)
