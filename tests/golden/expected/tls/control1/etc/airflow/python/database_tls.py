"""Airflow's [database] sql_alchemy_connect_args_async: asyncpg's URL cannot say how to verify PostgreSQL."""

import ssl

connect_args = {"ssl": ssl.create_default_context(cafile="/etc/airflow/tls/ca.pem")}
