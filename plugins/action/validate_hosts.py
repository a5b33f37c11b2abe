# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Checks what `dataops.airflow.host_probe` found, and fails with one message that lists all problems."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils.host_rules import check_hosts
from ansible_collections.dataops.airflow.plugins.module_utils.inventory_rules import report

REGISTERED = "__cluster_probe"
"""The variable that the result of `dataops.airflow.host_probe` is registered in."""


class ActionModule(ActionBase):  # type: ignore[misc]
    """See plugins/modules/validate_hosts.py for the documentation."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Validate the probed hosts of this play.

        :returns: ``changed`` (false) and ``msg``.
        :raises AnsibleActionFail: no host was probed, or there are problems; the message lists all of them.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec({"minimum_free": {"type": "dict"}})
        variables = task_vars or {}
        probes: dict[str, dict[str, Any]] = {}
        for host in variables["ansible_play_hosts_all"]:
            of_host = variables["hostvars"][host]
            if REGISTERED in of_host and "probe" in of_host[REGISTERED]:
                probes[host] = of_host[REGISTERED]["probe"]
        if not probes:
            raise AnsibleActionFail(
                f"No host was probed: run dataops.airflow.host_probe first, registered as {REGISTERED}."
            )
        minimum = arguments["minimum_free"]
        problems = check_hosts(
            probes,
            variables["groups"],
            None if minimum is None else {path: int(size) for path, size in minimum.items()},
        )
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise AnsibleActionFail(
                report(f"The hosts have {count}. Nothing was changed.", problems), result={"changed": False}
            )
        result.update(changed=False, msg=f"The hosts are fit for the cluster: {len(probes)} probed.")
        return result
