"""What differs between the operating systems that preflight admits: the real variables and templates of the roles."""

from __future__ import annotations

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.host_rules import SYSTEMS
from expressions import CHECKOUT, evaluate

SHIPPED = {"12": 15, "13": 17, "22.04": 14, "24.04": 16}


@pytest.mark.parametrize("version", [version for versions in SYSTEMS.values() for version in versions])
def test_each_system_has_its_database_and_broker(version: str) -> None:
    known = {
        "cluster_host": {"os": {"version_id": version}},
        "cluster_host_memory": 4096,
        "cluster_address": "192.0.2.1",
        "__cluster_tls": False,
        "cluster_redis_port": 6379,
        "redis_config": {},
        "redis_maxmemory_percent": 50,
        "redis_admin_password": "a",
        "cluster_redis_user": "airflow",
        "cluster_redis_password": "b",
        "cluster_redis_flower_password": "",
        "ansible_managed": "",
    }
    roles = ("postgresql", "redis")
    postgresql, redis = evaluate("{{ [__postgresql_version, __redis_config] }}", roles, known)
    text = evaluate((CHECKOUT / "roles/redis/templates/users.acl.j2").read_text(), roles, known)
    assert int(postgresql) == SHIPPED[version]
    # Redis 6.0 knows neither.
    assert ("disable-thp" in redis, " ~* &* +@all" in text) == ((False, False) if version == "22.04" else (True, True))
    assert text.count(" ~*") == 2 and text.count(" +@all") == 2
