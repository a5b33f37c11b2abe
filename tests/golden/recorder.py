"""Stands in for the collection's modules that touch a host: writes down what it was asked for, gives fixed answers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Connects to no host.

    ``$GOLDEN_ANSWERS`` holds each module's result as JSON, ``$GOLDEN_RECORDS`` is the folder for the files of file_set.
    """

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        name = self._task.action.rpartition(".")[2]
        host = (task_vars or {})["inventory_hostname"]
        with Path(os.environ["GOLDEN_RECORDS"], f"{host}.jsonl").open("a", encoding="utf-8") as records:
            for entry in self._task.args["files"] if name == "file_set" else []:
                records.write(json.dumps(dict(entry), default=str) + "\n")
        return {**result, "changed": False, **json.loads(os.environ["GOLDEN_ANSWERS"])[name]}
