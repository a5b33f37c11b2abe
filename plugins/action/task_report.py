# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Draws tasks on time lines: see plugins/modules/task_report.py for the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils.timeline import (
    NoPlotterError,
    page,
    picture,
    require_plotter,
)

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "title": {"type": "str", "required": True},
    "text": {"type": "str", "default": ""},
    "tasks": {"type": "list", "elements": "dict"},
    "slots": {"type": "dict", "default": {}},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs on the control node."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the page and the picture.

        :returns: ``changed``, and ``files`` that were written.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENT_SPEC)
        path, tasks = Path(arguments["path"]), arguments["tasks"]
        result.update(changed=False, files=[])
        try:
            if path.suffix != ".html":
                raise ValueError(f"{path} is no name of a report; end it with .html")
            if not path.parent.is_dir():
                raise ValueError(f"there is no folder {path.parent} for a report; make it, or name another one")
            require_plotter()
            if tasks is None or self._task.check_mode:
                return result
            said = arguments["title"], tasks, arguments["slots"]
            for file, content in (
                (path, page(arguments["title"], arguments["text"], *said[1:])),
                (path.with_suffix(".svg"), picture(*said)),
            ):
                file.write_text(content)
                result["files"].append(str(file))
            result["changed"] = True
        except (NoPlotterError, ValueError, OSError) as problem:
            result.update(failed=True, msg=f"task_report: {problem}")
        return result
