"""Has Airflow send a task again whose sending failed.

Airflow tries again what did not get through within its ``operation_timeout``, and fails a task for whatever else its
sending ends in: a broker that refuses the connection or ends it, or an error of Python's where that timeout, an alarm,
struck within a library. Celery loads this class by its name, which ``task_annotations`` of ``[celery]
extra_celery_config`` gives, and has :func:`again` around each sending.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from airflow.sdk.exceptions import AirflowTaskTimeout

log = logging.getLogger(__name__)


def again(apply_async: Callable[..., Any]) -> Callable[..., Any]:
    """Celery's method that sends a task, whose errors become the one that Airflow tries again.

    :param apply_async: the method of a task.
    :returns: the method, which raises ``AirflowTaskTimeout`` for every error.
    """

    def send(task: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return apply_async(task, *args, **kwargs)
        except Exception as error:
            log.warning("a task was not sent, and is sent again: %r", error)
            raise AirflowTaskTimeout(f"not sent: {error!r}") from error

    return send


class SendAgain:
    """Celery's annotation for each task by itself: of those for every task it takes one, which is ``DiskGuard``."""

    def annotate(self, task: Any) -> dict[str, Any]:
        """What goes around a method of a task."""
        return {"@apply_async": again}

    def annotate_any(self) -> None:
        """Nothing for every task."""
