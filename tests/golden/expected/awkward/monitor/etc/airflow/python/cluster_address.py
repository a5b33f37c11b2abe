"""Airflow's hostname_callable: the address that the inventory gives this host."""

import os


def get() -> str:
    """Address at which the other hosts reach this one."""
    return os.environ["AIRFLOW_CLUSTER_ADDRESS"]
