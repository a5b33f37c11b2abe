"""What runs while the tests restart everything."""

from __future__ import annotations

import time

from airflow.sdk import DAG, task

with DAG("patient", schedule=None):

    @task(queue="worker2")
    def rest() -> None:
        """Outlast the restart of everything else."""
        time.sleep(120)

    rest()

with DAG("stream", schedule=None, max_active_runs=100):

    @task
    def blink(number: int) -> int:
        """Be short."""
        return number

    blink.expand(number=list(range(10)))
