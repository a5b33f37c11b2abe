"""A task that worker3 runs when it is to leave."""

import time

from airflow.sdk import DAG, task

with DAG("leaving", schedule=None, is_paused_upon_creation=False):

    @task(queue="worker3", retries=0)
    def rest() -> None:
        """Outlast the beginning of a run."""
        time.sleep(60)
        print("rested on worker3")

    rest()
