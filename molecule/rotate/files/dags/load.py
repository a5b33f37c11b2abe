"""What runs while a secret gets a new value: a stream of short tasks, long ones, and what reads an encrypted value."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, BaseHook, Variable, task

WORKERS = ("worker1", "worker2")

with DAG("stream", schedule=None, max_active_runs=100):

    @task
    def read() -> None:
        """Need what only the right key decrypts."""
        found = {BaseHook.get_connection("guarded").password, Variable.get("guarded")}
        assert found == {"kept"}
        time.sleep(1)

    for worker in WORKERS:
        read.override(task_id=f"read_{worker}", queue=worker)()

with DAG("patient", schedule=None, params={"seconds": 60}):

    @task
    def rest(params: dict[str, Any] | None = None) -> None:
        """Outlast a phase, with the token of the start."""
        assert params is not None
        time.sleep(params["seconds"])

    for worker in WORKERS:
        rest.override(task_id=f"rest_{worker}", queue=worker)()

with DAG("deferred", schedule=None):
    # What the triggerer is to wait for is encrypted, too.
    TimeDeltaSensor(task_id="wait", delta=timedelta(seconds=45), deferrable=True)
