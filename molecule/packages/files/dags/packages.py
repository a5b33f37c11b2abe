"""What the tests of packages run on each worker."""

from __future__ import annotations

import time

from airflow.sdk import DAG, task

WORKERS = ("worker1", "worker2")

with DAG("imports", schedule=None):

    @task
    def version() -> str:
        """Use what the site added."""
        import boto3

        return str(boto3.__version__)

    for worker in WORKERS:
        version.override(task_id=f"on_{worker}", queue=worker)()

with DAG("long", schedule=None):

    @task
    def rest(seconds: float) -> None:
        """Be there while the worker is told to stop."""
        time.sleep(seconds)

    for worker in WORKERS:
        rest.override(task_id=f"on_{worker}", queue=worker)(20)
