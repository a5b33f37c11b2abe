"""A task for each of two executors."""

from __future__ import annotations

from airflow.sdk import DAG, task

with DAG("both", schedule=None):

    @task
    def say(word: str) -> None:
        """Leave a line in the log."""
        print(f"by {word}")

    say.override(task_id="celery", queue="worker1", executor="CeleryExecutor")("celery")
    say.override(task_id="local", executor="quick")("local")
