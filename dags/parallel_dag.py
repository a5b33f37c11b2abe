"""Two tasks that may run side by side: the example of every Airflow tutorial."""

from __future__ import annotations

from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("parallel_dag", schedule="@daily", start_date=datetime(2020, 1, 1), catchup=False):
    task_1, task_2, task_3, task_4 = (
        BashOperator(task_id=f"task_{number}", bash_command="sleep 3") for number in range(1, 5)
    )

    task_1 >> [task_2, task_3] >> task_4
