"""Whom the health checks of a host ask: the real expressions of the roles."""

from __future__ import annotations

from typing import Any

import pytest
from expressions import CHECKOUT, evaluate, loader

DEFAULTS = {
    name: value
    for role in ("cluster", "airflow")
    for name, value in loader()
    .load_from_file(str(CHECKOUT / f"roles/{role}/defaults/main.yml"), trusted_as_template=True)
    .items()
}
HEARTBEAT = {"dag-processor": "heartbeat", "triggerer": "heartbeat"}
JOB = {"dag-processor": "job", "triggerer": "job"}


def asked(control: list[str], host: str, config: dict[str, Any] | None = None) -> tuple[dict[str, str], str]:
    """Kind of the check of each component on a host, and the database that is asked."""
    addresses = {name: {"cluster_address": f"{name}.example.org"} for name in [*control, "worker1", "db1"]}
    members = {
        **dict.fromkeys(("schedulers", "webservers", "dag_processors", "triggerers"), control),
        **{"workers": ["worker1"], "postgresql": ["db1"], "redis": ["db1"]},
    }
    variables = {
        **DEFAULTS,
        "airflow_config": config or {},
        "groups": {"all": list(addresses), **members},
        "group_names": [group for group, hosts in members.items() if host in hosts],
        "hostvars": addresses,
        "inventory_hostname": host,
        "cluster_address": f"{host}.example.org",
    }
    checks, database = evaluate(
        "{{ [__airflow_health_checks, __airflow_health_database] }}", ("cluster", "airflow"), variables
    )
    assert all(check["host"] == f"{host}.example.org" for check in checks if check["kind"] == "job")
    return {check["name"]: check["kind"] for check in checks}, database


@pytest.mark.parametrize(
    ("control", "config", "expected"),
    [
        (["control1"], {}, HEARTBEAT),
        (["control1", "control2"], {}, JOB),
        (["control1", "control2"], {"core": {"hostname_callable": "socket.gethostname"}}, HEARTBEAT),
    ],
)
def test_each_of_several_hosts_has_its_own_heartbeat(
    control: list[str], config: dict[str, Any], expected: dict[str, str]
) -> None:
    kinds, database = asked(control, "control1", config)
    assert kinds == {"scheduler": "http", "api-server": "http", **expected}
    assert ("postgresql" in database) is (expected == JOB)


def test_a_worker_is_told_no_database() -> None:
    assert asked(["control1", "control2"], "worker1") == ({"worker": "celery"}, "")
