"""What runs while a control host is away: each of these tasks is counted."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import DAG, task

with DAG("stream", schedule=None, max_active_runs=100):

    @task
    def blink(number: int) -> int:
        """Be short."""
        time.sleep(1)
        return number

    blink.expand(number=list(range(2)))

with DAG("patient", schedule=None, params={"seconds": 60}):

    @task
    def rest(params: dict[str, Any] | None = None) -> None:
        """Outlast what is broken."""
        assert params is not None
        time.sleep(params["seconds"])

    rest()
