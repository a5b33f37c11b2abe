"""The canary of verify.yml: a task on every worker and for every executor, two that overlap, and many for leaks."""

from __future__ import annotations

import json
import time
from pathlib import Path

from airflow.sdk import DAG, task

SETTINGS = json.loads(Path(__file__).with_name("canary.json").read_text())
FIRST, *OTHERS = SETTINGS["executors"] or [None]

with DAG(
    "dataops_canary",
    schedule=None,
    is_paused_upon_creation=False,
    max_active_tasks=len(SETTINGS["workers"]) + len(OTHERS) + SETTINGS["tasks"],
    default_args={"executor": FIRST} if FIRST else {},
    tags=["dataops.airflow"],
):

    @task
    def rest(seconds: float) -> None:
        """Take a while."""
        time.sleep(seconds)

    @task
    def say(number: int) -> None:
        """Leave a line in the log."""
        print(f"canary {number}")

    for number, worker in enumerate(SETTINGS["workers"]):
        say.override(task_id=f"on_{worker}", queue=worker)(number)
    for executor in OTHERS:
        say.override(task_id=f"by_{executor}", executor=executor)(0)

    middle = [rest.override(task_id=name)(3) for name in ("left", "right")]
    (
        rest.override(task_id="begin")(0)
        >> middle
        >> say.override(task_id="many").expand(number=list(range(SETTINGS["tasks"])))
    )
