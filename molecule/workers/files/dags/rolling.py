"""What runs while the tests restart everything."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

with DAG("patient", schedule=None, params={"seconds": 120}):

    @task(queue="worker2")
    def rest(params: dict[str, Any] | None = None) -> None:
        """Outlast what is done to the cluster: until a test says that it is done, or for so many seconds."""
        assert params is not None
        end = time.monotonic() + params["seconds"]
        while time.monotonic() < end and not Path("/var/lib/airflow/enough").exists():
            time.sleep(1)

    rest()

with DAG("stream", schedule=None, max_active_runs=100):

    @task
    def blink(number: int) -> int:
        """Be short."""
        return number

    blink.expand(number=list(range(10)))
