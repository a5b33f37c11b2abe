# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Tells what an inventory gives: see plugins/modules/concurrency_plan.py for the documentation."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils.capacity import growth, plan, table

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "executor": {"type": "str", "required": True},
    "celery": {"type": "bool", "required": True},
    "local": {"type": "int", "required": True},
    "schedulers": {"type": "int", "required": True},
    "config": {"type": "dict", "required": True},
    "workers": {"type": "list", "elements": "dict", "required": True},
    "hosts": {"type": "list", "elements": "dict", "required": True},
    "api_workers": {"type": "int", "required": True},
    "task_memory": {"type": "int", "required": True},
    "connections": {"type": "dict", "required": True},
    "before": {"type": "dict"},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs on the control node."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compute the plan, or, with ``before``, complete that one with what this one has more.

        :returns: ``changed`` (false), ``plan`` and ``table``.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENT_SPEC)
        found, before = plan(arguments), arguments["before"]
        more = growth(before, found) if before else None
        shown = {**before, "one_more_worker": more} if before else found
        result.update(changed=False, plan=shown, table=table(shown, more))
        return result
