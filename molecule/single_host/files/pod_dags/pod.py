"""A task for a pod."""

from __future__ import annotations

import os

from airflow.sdk import DAG, task

with DAG("pod", schedule=None):

    @task(executor="KubernetesExecutor")
    def say() -> str:
        """Tell what a pod knows."""
        print("said in a pod")
        return " ".join(sorted(os.environ))

    say()
