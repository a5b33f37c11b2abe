"""Writes how long each task took on each host that did not skip it, and how the run ended, to the file TASK_TIMES.

profile_tasks charges a task with the time until the next one starts on any host: that is meaningless where
hosts run at their own pace (`strategy: free`).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Measures from the moment a task is handed to a host's worker process to the arrival of its result."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_times"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.started: dict[tuple[str, str], float] = {}
        self.tasks: list[dict[str, Any]] = []

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Note the start."""
        self.started[task._uuid, host.name] = time.monotonic()

    def _ended(self, result: Any) -> None:
        task, host = result.task, result.host.name
        took = time.monotonic() - self.started.pop((task._uuid, host), time.monotonic())
        self.tasks.append({"task": task.get_name(), "host": host, "seconds": round(took, 2)})

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note the end of a task that went well."""
        self._ended(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note the end of a task that failed."""
        self._ended(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note the end of a task whose host was not reached."""
        self._ended(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the file."""
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        Path(os.environ["TASK_TIMES"]).write_text(json.dumps({"tasks": self.tasks, "hosts": hosts}, indent=1) + "\n")
