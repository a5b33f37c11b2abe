"""What the tests of a removal run on the worker that leaves."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import DAG, task

with DAG("on_worker3", schedule=None, params={"seconds": 1}):

    @task(queue="worker3")
    def rest(params: dict[str, Any] | None = None) -> None:
        """Be there while the worker is told to leave."""
        assert params is not None
        time.sleep(params["seconds"])
        print("rested on worker3")

    rest()

with DAG("anywhere", schedule=None):

    @task
    def pause(seconds: float) -> None:
        """Take one of the slots."""
        time.sleep(seconds)

    pause.expand(seconds=[1] * 8)
