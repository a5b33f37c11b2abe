"""Hands a task back to its queue where this worker's disk has no room for the task's log.

Airflow starts such a task all the same, and it fails. Celery loads this class by its name, which task_annotations of
``[celery] extra_celery_config`` gives, and calls :func:`before_start` in the process that is to run a task.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from airflow.configuration import conf
from celery.exceptions import Reject

PAUSE = 2
"""Seconds before the task goes back, in which other workers take what waits: this one would have it again at once."""

log = logging.getLogger(__name__)


def free_megabytes(folder: str) -> int:
    """MB that are free in the file system of a folder; none where it can hold no more files."""
    state = os.statvfs(folder)
    if state.f_files and not state.f_favail:
        return 0
    return state.f_bavail * state.f_frsize // 1_000_000


def before_start(task: Any, task_id: str, args: Any, kwargs: Any) -> None:
    """Celery's handler, as a method of every task.

    :raises Reject: the task is for another worker, or for later.
    """
    folder, wanted = conf.get("logging", "base_log_folder"), conf.getint("dataops", "worker_min_free_disk")
    free = free_megabytes(folder)
    if free >= wanted:
        return
    log.warning("%s has %d MB of free disk and needs %d: task %s goes back to its queue", folder, free, wanted, task_id)
    time.sleep(PAUSE)
    raise Reject("no room on disk", requeue=True)


class DiskGuard:
    """Celery's annotation for every task."""

    def annotate(self, task: Any) -> None:
        """Nothing for single tasks."""

    def annotate_any(self) -> dict[str, Any]:
        """Attributes that every task gets."""
        return {"before_start": before_start}
