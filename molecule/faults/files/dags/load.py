"""What runs while the tests break something: each of these tasks is counted."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

WORKERS = ("worker1", "worker2")

for suffix, retries in (("", 0), ("_retried", 2)):
    tried = {"retries": retries, "retry_delay": timedelta(seconds=1)}

    with DAG(f"stream{suffix}", schedule=None, max_active_runs=100, default_args=tried):

        @task
        def blink(number: int) -> int:
            """Be short."""
            time.sleep(1)
            return number

        blink.expand(number=list(range(4)))

    with DAG(f"patient{suffix}", schedule=None, params={"seconds": 60}, default_args=tried):

        @task
        def rest(params: dict[str, Any] | None = None) -> None:
            """Outlast what is broken."""
            assert params is not None
            time.sleep(params["seconds"])

        for worker in WORKERS:
            rest.override(task_id=f"rest_{worker}", queue=worker)()

with DAG("probe", schedule=None):

    @task
    def answer() -> None:
        """Show that this worker takes tasks again."""

    for worker in WORKERS:
        answer.override(task_id=f"answer_{worker}", queue=worker)()
