"""A task that runs while its worker leaves the cluster."""

from __future__ import annotations

import time

from airflow.sdk import DAG, task

with DAG("patient", schedule=None):

    @task(queue="worker1")
    def rest() -> None:
        """Outlast the first part of a run."""
        time.sleep(100)
        print("well rested")

    rest()
