"""What waits for its worker."""

from __future__ import annotations

from airflow.sdk import DAG, task

with DAG("short_on_worker2", schedule=None):

    @task(queue="worker2")
    def blink() -> None:
        """Be short."""

    blink()
