"""What the tests of several workers on one host run: a task of a queue that only one of them serves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

with DAG("large", schedule=None, params={"seconds": 1}):

    @task(queue="large")
    def rest(params: dict[str, Any] | None = None) -> None:
        """Say which unit it runs in, and be there for a while."""
        assert params is not None
        print("rests in", Path("/proc/self/cgroup").read_text())
        time.sleep(params["seconds"])

    rest()
