# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Runs the module of the same name, and adds how far the host's clock is off."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils.host_rules import clock_offset


class ActionModule(ActionBase):  # type: ignore[misc]
    """Controller side of :mod:`dataops.airflow.host_probe`."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Probe the host.

        :returns: what the module returns, with ``clock_offset`` and ``clock_uncertainty`` in ``probe``, in seconds.
        """
        super().run(tmp, task_vars)
        started, clock = time.time(), time.monotonic()
        result: dict[str, Any] = self._execute_module("dataops.airflow.host_probe", task_vars=task_vars)
        ended = started + time.monotonic() - clock
        probe = result.get("probe")
        if probe:
            offset, uncertainty = clock_offset(started, ended, probe["time"], probe["time"] + probe["elapsed"])
            probe.update(clock_offset=round(offset, 3), clock_uncertainty=round(uncertainty, 3))
        return result
