"""inventory_rules: each rule with an inventory that passes and with ones that do not."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import os
import time
from typing import Any

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.config_rules import (
    CONFIG_BY_VARIABLE,
    CONFIG_SECRETS,
    LEAST,
)
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    SECRETS,
    Catalogue,
    Inventory,
    executor,
    executors,
    local_paths,
    may_wait_for_facts,
)
from ansible_collections.dataops.airflow.plugins.module_utils.inventory_rules import check_inventory
from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import render
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, report
from certificates import make

AWKWARD = "@:/%#'\" $ {p}äß\\;|&"
FERNET = base64.urlsafe_b64encode(bytes(range(100, 132))).decode()
SIGNING_KEY = "k7Qz-" * 13

OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "cluster": {
        "cluster_address": {"type": "str", "default": "{{ inventory_hostname }}"},
        "cluster_ca_certificates": {"type": "list", "elements": "path", "default": []},
        "cluster_database_backend": {"type": "str", "choices": ["postgresql", "sqlite"], "default": "postgresql"},
        "cluster_database_host": {"type": "str", "default": ""},
        "cluster_database_port": {"type": "int", "default": 5432},
        "cluster_database_user": {"type": "str", "default": "airflow"},
        "cluster_database_login": {"type": "str"},
        "cluster_database_password": {"type": "str", "no_log": True},
        "cluster_results_password": {"type": "str", "no_log": True},
        "cluster_redis_host": {"type": "str", "default": ""},
        "cluster_redis_port": {"type": "int", "default": 6379},
        "cluster_redis_password": {"type": "str", "no_log": True},
        "cluster_redis_flower_password": {"type": "str", "no_log": True},
        "cluster_webserver_host": {"type": "str", "default": ""},
        "cluster_tls": {"type": "bool", "default": False},
        "cluster_tls_ca": {"type": "path", "default": ""},
        "cluster_tls_certificate": {"type": "path", "default": ""},
        "cluster_tls_key": {"type": "path", "default": ""},
        "cluster_balancer_port": {"type": "int", "default": 8081},
        "cluster_webserver_port": {"type": "int", "default": 8080},
        "cluster_flower_port": {"type": "int", "default": 5555},
        "cluster_worker_log_port": {"type": "int", "default": 8793},
        "airflow_executor": {"type": "str", "default": ""},
    },
    "certificates": {
        "certificates_days": {"type": "int", "default": 365},
        "certificates_renew_days": {"type": "int", "default": 60},
    },
    "postgresql": {
        "postgresql_max_connections": {"type": "int"},
        "postgresql_parameters": {"type": "dict", "default": {}},
    },
    "firewall": {"firewall_webserver_sources": {"type": "list", "elements": "str", "default": []}},
    "redis": {
        "redis_fsync": {"type": "str", "choices": ["always", "everysec"], "default": "everysec"},
        "redis_maxmemory_percent": {"type": "int", "default": 25},
        "redis_admin_password": {"type": "str", "no_log": True},
    },
    "airflow": {
        "airflow_version": {"type": "str", "default": "3.3.2"},
        "airflow_extras": {"type": "list", "elements": "str"},
        "airflow_requirements": {"type": "list", "elements": "str", "default": []},
        "airflow_lock": {"type": "path"},
        "airflow_dags": {"type": "path", "default": ""},
        "airflow_index_url": {"type": "str", "default": "", "no_log": True},
        "airflow_wheelhouse": {"type": "path", "default": ""},
        "airflow_webserver_config": {"type": "path", "default": ""},
        "airflow_worker_concurrency": {"type": "int", "default": 16},
        "airflow_worker_stop_timeout": {"type": "int", "default": 3600},
        "airflow_worker_check_interval": {"type": "int", "default": 60},
        "airflow_worker_min_free_disk": {"type": "int", "default": 100},
        "airflow_worker_autoscale": {"type": "str", "default": ""},
        "airflow_worker_queues": {"type": "list", "elements": "str"},
        "airflow_worker_instances": {"type": "dict", "default": {}},
        "airflow_worker_memory_max": {"type": "str", "default": ""},
        "airflow_worker_cpu_quota": {"type": "str", "default": ""},
        "airflow_releases_kept": {"type": "int", "default": 3},
        "airflow_debug": {"type": "bool", "default": False},
        "airflow_config": {"type": "dict", "default": {}},
        "airflow_environment": {"type": "dict", "default": {}, "no_log": True},
        "airflow_service_options": {"type": "dict", "default": {}},
        "airflow_kubernetes_kubeconfig": {"type": "path", "default": ""},
        "airflow_kubernetes_worker_container_repository": {"type": "str", "default": ""},
        "airflow_kubernetes_worker_container_tag": {"type": "str"},
        "airflow_kubernetes_pod_template_file": {"type": "path", "default": ""},
        "airflow_fernet_key": {"type": "str", "no_log": True},
        "airflow_jwt_secret": {"type": "str", "no_log": True},
        "airflow_api_secret_key": {"type": "str", "no_log": True},
        "airflow_admin_password": {"type": "str", "no_log": True},
        "airflow_admin_username": {"type": "str", "default": "admin"},
        "airflow_flower_username": {"type": "str", "default": "admin"},
        "airflow_flower_password": {"type": "str", "no_log": True},
        "airflow_pools": {"type": "dict", "default": {}},
        "airflow_variables": {"type": "dict", "default": {}, "no_log": True},
        "airflow_connections": {"type": "dict", "default": {}, "no_log": True},
        "airflow_roles": {"type": "dict", "default": {}},
        "airflow_users": {"type": "dict", "default": {}, "no_log": True},
        "airflow_purge": {
            "type": "list",
            "elements": "str",
            "choices": ["pools", "variables", "connections", "roles", "users", "default_connections"],
            "default": [],
        },
        "airflow_links": {
            "type": "list",
            "elements": "dict",
            "options": {
                "id": {"type": "str", "required": True},
                "port": {"type": "int"},
                "mode": {"type": "str", "choices": ["a", "b"]},
            },
        },
    },
}
CATALOGUE = Catalogue(
    options=OPTIONS,
    constants={"cluster_database_url": "cluster", "__cluster_members": "cluster"},
    defaults={
        "airflow_version": "3.3.2",
        "airflow_executor": "",
        "airflow_worker_stop_timeout": 3600,
        "cluster_database_user": "airflow",
        "airflow_admin_username": "root@example.org",
        "cluster_database_port": 5432,
        "cluster_redis_port": 6379,
        "cluster_balancer_port": 8081,
        "cluster_webserver_port": 8080,
        "cluster_flower_port": 5555,
        "cluster_tls": False,
        "cluster_tls_ca": "",
        "certificates_days": 365,
        "certificates_renew_days": 60,
    },
    locks=("3.2.0", "3.3.2"),
)
GROUPS = {
    "all": ["db", "ctl", "w1", "w2"],
    "postgresql": ["db"],
    "redis": ["db"],
    "schedulers": ["ctl"],
    "webservers": ["ctl"],
    "dag_processors": ["ctl"],
    "triggerers": ["ctl"],
    "flower": ["ctl"],
    "workers": ["w1", "w2"],
}
ADDRESSES = {"db": "10.0.0.1", "ctl": "10.0.0.2", "w1": "10.0.0.3", "w2": "10.0.0.4"}
SECRET_VALUES = {
    **{name: f"{AWKWARD}{name[::-1]}" for name in SECRETS},
    "airflow_fernet_key": FERNET,
    "airflow_jwt_secret": SIGNING_KEY,
    "airflow_api_secret_key": SIGNING_KEY,
    "airflow_flower_password": "@:/%#'\" $HOME ${p}\\;|&,",
}
Variables = dict[str, dict[str, Any]]


def cluster() -> Variables:
    """Variables of a valid cluster of four hosts."""
    return {host: {"ansible_host": address, **SECRET_VALUES} for host, address in ADDRESSES.items()}


def check(
    everywhere: dict[str, Any] | None = None,
    groups: dict[str, list[str]] | None = None,
    without: tuple[str, ...] = (),
    catalogue: Catalogue = CATALOGUE,
    paths: dict[str, str] | None = None,
    lock: tuple[str, str | None] = ("", None),
    wheels: dict[str, str] | None = None,
    kubeconfig: Any = None,
    connections: int | None = None,
    pem: dict[str, bytes] | None = None,
    **hosts: dict[str, Any],
) -> list[Problem]:
    """Problems of the valid cluster with some variables set everywhere or on single hosts, and some removed."""
    variables = cluster()
    for host, values in variables.items():
        values.update(everywhere or {})
        values.update(hosts.get(host, {}))
        for name in without:
            values.pop(name, None)
    path, text = lock
    inventory = Inventory(
        {**GROUPS, **(groups or {})},
        variables,
        paths=paths or {},
        lock=path,
        lock_text=text,
        built_wheels=wheels or {},
        kubeconfig=kubeconfig,
        connections=connections,
        pem=pem or {},
    )
    problems: list[Problem] = check_inventory(inventory, catalogue)
    return problems


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


LOCAL: dict[str, list[str]] = {"workers": [], "redis": [], "flower": []}


def test_a_valid_cluster_has_no_problem() -> None:
    assert check() == []


def test_a_single_host_needs_no_redis_no_workers_and_may_be_localhost() -> None:
    groups = {group: ["box"] for group in ("postgresql", "schedulers", "webservers", "dag_processors", "flower")}
    variables = {"box": {"ansible_host": "localhost", **SECRET_VALUES}}
    for name in ("cluster_results_password", "cluster_redis_password", "redis_admin_password"):
        del variables["box"][name]
    assert check_inventory(Inventory(groups, variables), CATALOGUE) == []


def test_a_problem_reads_as_documented() -> None:
    problem = Problem("x", "a\nb", "c", "d")
    assert str(problem) == "x\n  found:   a\n           b\n  allowed: c\n  remedy:  d"
    assert report("Title.", [problem, problem]).count("\n\nx\n") == 2


# -- names ----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_reported_with_its_scope_and_the_nearest_known_name() -> None:
    problem = only(check(w1={"airflow_worker_concurency": 4}, w2={"airflow_worker_concurency": 4}))
    assert problem.subject == "airflow_worker_concurency"
    assert "the group workers: w1, w2 (2 of 4 hosts)" in problem.found
    assert problem.remedy == "did you mean airflow_worker_concurrency?"


def test_an_unknown_name_far_from_all_known_ones() -> None:
    assert "remove it" in only(check({"redis_zzzzz": 1})).remedy


def test_the_value_of_an_unknown_name_is_not_shown() -> None:
    assert "hunter2" not in report("", check({"airflow_admin_pasword": "hunter2"}))


def test_internal_names_are_refused() -> None:
    problem = only(check({"__airflow_packages": []}))
    assert "internal" in problem.allowed


@pytest.mark.parametrize("name", ["cluster_database_url", "__cluster_members"])
def test_computed_names_are_refused_because_they_would_be_ignored(name: str) -> None:
    problem = only(check({name: "x"}))
    assert "silently ignore" in problem.allowed


@pytest.mark.parametrize("name", ["my_airflow_x", "airflow", "clusters_x", "__other_role_x"])
def test_names_of_others_are_left_alone(name: str) -> None:
    assert check({name: object()}) == []


def test_prefixes_can_be_left_to_others() -> None:
    variables = cluster()
    variables["db"]["redis_exporter_port"] = 9121
    assert check_inventory(Inventory(GROUPS, variables), CATALOGUE)
    assert check_inventory(Inventory(GROUPS, variables, ignored_prefixes=["redis_exporter_"]), CATALOGUE) == []


def test_a_role_without_specs_is_not_checked() -> None:
    options = {role: spec for role, spec in OPTIONS.items() if role != "redis"}
    catalogue = Catalogue(options, CATALOGUE.constants, CATALOGUE.defaults, CATALOGUE.locks)
    assert check({"redis_anything": 1}, catalogue=catalogue) == []


def test_variables_of_hosts_outside_the_cluster_do_not_matter() -> None:
    variables = {**cluster(), "elsewhere": {"airflow_x": 1, "airflow_worker_concurrency": "many"}}
    assert check_inventory(Inventory(GROUPS, variables), CATALOGUE) == []


# -- templates ------------------------------------------------------------------------------------------------------


def test_a_failing_template_names_host_and_variable_once() -> None:
    inventory = Inventory(
        GROUPS,
        cluster(),
        failures={"w1": {"airflow_dags": "'x' is undefined"}, "w2": {"airflow_dags": "'x' is undefined"}},
        origins={"w1": {"airflow_dags": "hosts.yml:7"}},
    )
    problem = only(check_inventory(inventory, CATALOGUE))
    assert problem.subject == "airflow_dags on w1, w2"
    assert problem.found == "'x' is undefined (hosts.yml:7)"


def test_a_secret_whose_template_fails_is_not_reported_as_missing_too() -> None:
    variables = cluster()
    for values in variables.values():
        del values["airflow_jwt_secret"]
    failures = {host: {"airflow_jwt_secret": "vault"} for host in variables}
    problem = only(check_inventory(Inventory(GROUPS, variables, failures), CATALOGUE))
    assert problem.subject == "airflow_jwt_secret on db, ctl, w1, w2"


def test_a_value_that_waits_for_facts_is_no_problem_but_its_name_is_checked() -> None:
    failures = {"w1": {"airflow_releases_kept": "", "airflow_releases_keptt": ""}}
    problem = only(check_inventory(Inventory(GROUPS, cluster(), failures), CATALOGUE))
    assert problem.subject == "airflow_releases_keptt"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("airflow_releases_kept", "{{ ansible_facts.processor_count }}", True),
        ("airflow_releases_kept", "{{ cluster_host_memory // 4 }}", True),
        ("airflow_releases_kept", "{{ cluster_hosts }}", False),
        ("airflow_releases_kept", "{{ nope }}", False),
        ("airflow_worker_concurrency", "{{ ansible_facts.processor_count }}", False),
        ("airflow_worker_memory_max", "{{ ansible_facts.memtotal_mb }}M", False),
        ("cluster_address", "{{ ansible_facts.default_ipv4.address }}", False),
        ("cluster_database_port", "{{ ansible_facts.x }}", False),
        ("airflow_fernet_key", "{{ ansible_facts.x }}", False),
    ],
)
def test_only_values_that_no_other_host_reads_may_wait_for_facts(name: str, text: str, expected: bool) -> None:
    assert may_wait_for_facts(name, text) is expected


# -- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("airflow_worker_concurrency", "many", "an integer"),
        ("airflow_worker_concurrency", 0, "an integer >= 1"),
        ("airflow_worker_concurrency", -1, "an integer >= 1"),
        ("airflow_worker_concurrency", 2.5, "an integer"),
        ("airflow_worker_concurrency", "2.5", "an integer"),
        ("airflow_worker_concurrency", True, "an integer"),
        ("airflow_worker_concurrency", None, "an integer"),
        ("airflow_worker_concurrency", [4], "an integer"),
        *(
            ("airflow_worker_memory_max", value, "a size with K, M, G or T")
            for value in (512, "4g", "4 G", "101%", "0%")
        ),
        *(
            ("airflow_worker_autoscale", value, "the most and the fewest processes")
            for value in (8, "8", "8,0", "0,0", "-8,2", "8,2,1", "2,8")
        ),
        ("airflow_worker_autoscale", {"min": 2, "max": 8}, "text"),
        *(("airflow_worker_cpu_quota", value, "a percentage of one core") for value in (2, "0%", "1.5%", "200")),
        ("cluster_webserver_port", 0, "a port, 1 to 65535"),
        ("cluster_webserver_port", 65536, "a port, 1 to 65535"),
        ("cluster_webserver_port", "http", "an integer"),
        ("airflow_releases_kept", "three", "an integer"),
        ("airflow_debug", "maybe", "true or false"),
        ("redis_fsync", "never", 'one of "always", "everysec"'),
        ("airflow_extras", "celery,fab", "a list, each item text"),
        ("postgresql_parameters", "a=b", "a dictionary"),
        ("postgresql_parameters", [1], "a dictionary"),
        ("airflow_dags", ["a"], "a path"),
        ("airflow_dags", True, "a path"),
        ("cluster_database_user", 1.5, "text"),
    ],
)
def test_wrong_types_are_refused(name: str, value: Any, allowed: str) -> None:
    problems = [problem for problem in check({name: value}) if problem.subject == f"{name} on all hosts"]
    assert only(problems).allowed.startswith(allowed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("airflow_worker_concurrency", 1),
        ("airflow_worker_concurrency", "4"),
        *(("airflow_worker_memory_max", value) for value in ("", "4G", "1.5G", "512M", "80%", "100%")),
        *(("airflow_worker_autoscale", value) for value in ("", "8,2", "4,4")),
        *(("airflow_worker_cpu_quota", value) for value in ("", "50%", "200%")),
        ("cluster_webserver_port", 65535),
        ("airflow_debug", "yes"),
        ("redis_fsync", "always"),
        ("airflow_extras", []),
        ("postgresql_parameters", {"a": 1}),
        ("airflow_links", [{"id": "x", "port": "5"}]),
        ("cluster_database_user", 1),
    ],
)
def test_right_types_pass(name: str, value: Any) -> None:
    assert check({name: value}) == []


def test_swapped_bounds_are_told_the_right_way_round() -> None:
    assert only(check(w1={"airflow_worker_autoscale": "2,8"})).remedy == "write 8,2"


@pytest.mark.parametrize(
    ("instances", "subject", "allowed", "remedy"),
    [
        ({"GPU": {}}, 'name "GPU"', "small letters", "rename it"),
        ({"a-b": {}}, 'name "a-b"', "small letters", "rename it"),
        ({1: {}}, "name 1", "small letters", "rename it"),
        ({"gpu": None}, "gpu", "a dictionary with the keys queues", "write gpu: {}"),
        ({"gpu": {"queue": ["x"]}}, "gpu.queue", "queues, concurrency", "did you mean queues?"),
        ({"gpu": {"queues": "x"}}, "gpu.queues", "a list", "correct the value of gpu.queues"),
        ({"gpu": {"concurrency": 0}}, "gpu.concurrency", "an integer >= 1", "correct the value of gpu.concurrency"),
        ({"gpu": {"autoscale": "2,8"}}, "gpu.autoscale", "the most and the fewest", "write 8,2"),
        (
            {"gpu": {"memory_max": 4}},
            "gpu.memory_max",
            "a size with K, M, G or T",
            "correct the value of gpu.memory_max",
        ),
        (
            {"gpu": {"cpu_quota": "2"}},
            "gpu.cpu_quota",
            "a percentage of one core",
            "correct the value of gpu.cpu_quota",
        ),
    ],
)
def test_wrong_instances_are_refused(instances: dict[Any, Any], subject: str, allowed: str, remedy: str) -> None:
    problem = only(check(w1={"airflow_worker_instances": instances}))
    assert problem.subject.startswith(f"airflow_worker_instances, {subject} on w1")
    assert problem.allowed.startswith(allowed) and problem.remedy.startswith(remedy)


def test_right_instances_pass() -> None:
    entry = {"queues": ["x"], "concurrency": 2, "autoscale": "4,1", "memory_max": "80%", "cpu_quota": "50%"}
    assert check(w1={"airflow_worker_instances": {"gpu": entry, "2": {}, "a_b": {}}}) == []


ADA = {"email": "ada@example.org", "roles": ["Op"], "password": "Kq9-Kq9-mmmA-7"}
STORED: dict[str, Any] = {
    "airflow_pools": {"reports": {"slots": 1, "description": AWKWARD, "include_deferred": True}, "2": {"slots": "64"}},
    "airflow_variables": {"a b/c": AWKWARD, "n": 5, "off": False, "d": {"value": {"x": [1]}, "description": "d"}},
    "airflow_connections": {
        "warehouse": {
            "conn_type": "postgres",
            "host": "db",
            "port": 5432,
            "schema": "dwh",
            "login": "etl",
            "password": AWKWARD,
            "extra": {"sslmode": "require"},
            "description": "d",
        },
        "other.one-2": {"conn_type": "http"},
    },
    "airflow_roles": {"operators": {"permissions": {"Pools": ["can_read", "can_edit"], "DAG:seed": []}}},
    "airflow_users": {
        "ada": {**ADA, "first_name": "Ada", "last_name": "L", "active": False, "roles": ["operators", "Viewer"]}
    },
    "airflow_purge": ["pools", "users"],
}


def test_what_is_kept_in_the_database_passes() -> None:
    assert check(STORED) == []
    assert check({"airflow_purge": ["default_connections"]}) == []
    assert check({"airflow_purge": ["pools"], "airflow_pools": {}}) == []


@pytest.mark.parametrize(
    ("kind", "entries", "subject", "found", "allowed", "remedy"),
    [
        ("pools", {"p": {"slots": 0}}, "p.slots", "0", "an integer >= 1", "correct slots of p"),
        ("pools", {"p": {"slots": -1}}, "p.slots", "-1", "an integer >= 1", "correct slots of p"),
        ("pools", {"p": {"slots": 1.5}}, "p.slots", "1.5", "an integer >= 1", "correct slots of p"),
        ("pools", {"p": {"slots": True}}, "p.slots", "true", "an integer >= 1", "correct slots of p"),
        ("pools", {"p": {"description": "d"}}, "p.slots", "missing", "an integer", "write slots"),
        ("pools", {"p": {"slots": 1, "size": 2}}, "p.size", "no such field", "slots, ", "write slots instead"),
        ("pools", {"p": {"slots": 1, "include_deferred": 1}}, "p.include_deferred", "1", "true or false", "correct"),
        ("pools", {"p": 4}, "p", "a value of type int", "a dictionary with the keys slots", "write p: {...}"),
        ("pools", {4: {"slots": 4}}, "name 4", "a value of type int", "text of at most 256", "rename it"),
        (
            "pools",
            {"default_pool": {"slots": 4}},
            "default_pool",
            "Airflow's own",
            "other pools",
            "remove it; to choose",
        ),
        ("connections", {"c": {"host": "h"}}, "c.conn_type", "missing", "text, such as postgres", "write conn_type"),
        ("connections", {"c": {"conn_type": ""}}, "c.conn_type", '""', "a type of connection", "correct conn_type"),
        ("connections", {"c": {"conn_type": None}}, "c.conn_type", "nothing (null)", "text", "write conn_type"),
        ("connections", {"c d": {"conn_type": "x"}}, 'name "c d"', "text of 3", "letters, digits", "rename it"),
        ("connections", {"c": {"conn_type": "x", "port": 0}}, "c.port", "0", "an integer, 1 to 65535", "correct port"),
        (
            "connections",
            {"c": {"conn_type": "x", "extra": "{}"}},
            "c.extra",
            "text of 2",
            "a dictionary",
            "write it as",
        ),
        (
            "connections",
            {"c": {"conn_type": "x", "user": "u"}},
            "c.user",
            "no such",
            "conn_type",
            "write login instead",
        ),
        (
            "connections",
            {"c": {"conn_type": "x", "passwort": "u"}},
            "c.passwort",
            "no such",
            "conn_type",
            "did you mean",
        ),
        (
            "connections",
            {"c": {"conn_type": "x", "password": 1}},
            "c.password",
            "a value of type int",
            "text",
            "put it",
        ),
        ("variables", {"v": None}, "v", "nothing (null)", "text, a number, true or false", "write {value"),
        ("variables", {"v": ["a"]}, "v", "a list of 1 item", "text, a number", "write {value"),
        (
            "variables",
            {"v": {"val": "x", "value": "y"}},
            "v.val",
            "no such field",
            "value, desc",
            "write value instead",
        ),
        ("variables", {"v": {"a": "x", "value": "y"}}, "v.a", "no such field", "value, description", "remove it"),
        ("roles", {"Op": {"permissions": {}}}, "Op", "a role that Airflow", "other roles than Admin", "give what is"),
        ("roles", {"r": {}}, "r.permissions", "missing", "a dictionary", "write permissions"),
        (
            "roles",
            {"r": {"permissions": {"Pools": "can_read"}}},
            "r.permissions",
            '"Pools"',
            "resources",
            "did you mean",
        ),
        ("roles", {"r": {"permissions": {"Pools": ["read"]}}}, "r.permissions", '"Pools" with "read"', "resources", ""),
        ("users", {"ada": {**ADA, "password": "x" * 11}}, "ada.password", "", "", "choose another one"),
        ("users", {"ada": {**ADA, "password": "changeme-changeme"}}, "ada.password", "a placeholder", "a random", ""),
        ("users", {"ada": {**ADA, "password": 123456789012}}, "ada.password", "a value of type int", "text", "put it"),
        ("users", {"ada": {**ADA, "email": "ada"}}, "ada.email", '"ada"', "an address with one @", "correct email"),
        (
            "users",
            {"ada": {**ADA, "roles": ["Vewer"]}},
            "ada.roles",
            '"Vewer"',
            "a list of roles: Admin",
            "did you mean Vie",
        ),
        ("users", {"ada": {**ADA, "roles": "Op"}}, "ada.roles", '"Op"', "a list of roles", "add the role"),
        ("users", {"ada": {**ADA, "roles": []}}, "ada.roles", "an empty list", "a list of roles", "add the role"),
        ("users", {"Root@example.org": ADA}, "Root@example.org", "the administrator", "other users", "remove it; set"),
    ],
)
def test_what_airflow_would_not_take_is_refused(
    kind: str, entries: dict[Any, Any], subject: str, found: str, allowed: str, remedy: str
) -> None:
    problem = only(check({f"airflow_{kind}": entries}))
    assert problem.subject == f"airflow_{kind}, {subject} on all hosts"
    assert problem.found.startswith(found) and problem.allowed.startswith(allowed), problem
    assert problem.remedy.startswith(remedy), problem


def test_two_users_do_not_share_an_address() -> None:
    problems = check({"airflow_users": {"ada": ADA, "bob": {**ADA, "email": "ADA@example.org"}}})
    assert [problem.found.partition(",")[2] for problem in problems] == [" which another user has"] * 2


def test_two_users_do_not_share_a_name() -> None:
    problem = only(check({"airflow_users": {"ada": ADA, "Ada": {**ADA, "email": "other@example.org"}}}))
    assert "ada and Ada" in problem.subject and "one name to Airflow" in problem.found


def test_what_is_wrong_with_a_secret_is_told_without_it() -> None:
    hidden = "hunter2\nhunter2"
    problems = check(
        {
            "airflow_users": {"ada": {**ADA, "password": hidden}},
            "airflow_connections": {"c": {"conn_type": "x", "password": [hidden], "extra": hidden}},
            "airflow_variables": {"v": [hidden]},
        }
    )
    assert len(problems) == 4
    assert "hunter2" not in report("", problems)


def test_all_of_a_kind_is_purged_only_by_whoever_says_so() -> None:
    problem = only(check({"airflow_purge": ["variables", "default_connections"]}))
    assert "all variables would be removed" in problem.found
    assert problem.remedy == "set airflow_variables, or take variables out of airflow_purge"
    assert "must be one or more of: pools" in only(check({"airflow_purge": ["dags"]})).found


def test_what_is_kept_in_the_database_is_the_same_for_all_hosts() -> None:
    problem = only(check(w1={"airflow_pools": {"p": {"slots": 1}}}))
    assert problem.subject == "airflow_pools" and "group_vars/all" in problem.remedy


def test_a_worker_has_a_name_of_its_own() -> None:
    groups = {"workers": ["w1", "w1-gpu"], "all": ["db", "ctl", "w1", "w1-gpu"]}
    variables = {**cluster(), "w1-gpu": {"ansible_host": "10.0.0.9", **SECRET_VALUES}}
    variables["w1"]["airflow_worker_instances"] = {"gpu": {}}
    problem = only(check_inventory(Inventory({**GROUPS, **groups}, variables), CATALOGUE))
    assert "w1-gpu, which is another host" in problem.found and problem.remedy == "rename it"


def test_null_is_allowed_where_it_is_the_default() -> None:
    more = {"airflow_x": {"type": "str"}, "airflow_y": {"type": "str", "default": ""}}
    options = {**OPTIONS, "airflow": {**OPTIONS["airflow"], **more}}
    catalogue = Catalogue(options=options, locks=["3.3.2"], defaults=CATALOGUE.defaults)
    problem = only(check({"airflow_x": None, "airflow_y": None}, catalogue=catalogue))
    assert problem.subject == "airflow_y on all hosts"
    assert problem.found == "nothing (null)"


def test_nested_values_are_checked_and_not_shown() -> None:
    problem = only(check({"airflow_links": [{"id": "x", "port": "hunter2", "pasword": "hunter2"}]}))
    assert "pasword" in problem.found
    assert "port" in problem.found
    assert "hunter2" not in str(problem)
    problem = only(check({"airflow_links": [{"id": "x", "mode": "hunter2"}]}))
    assert "must be one of: a, b" in problem.found
    assert "hunter2" not in str(problem)


def test_hosts_with_the_same_wrong_value_share_a_problem() -> None:
    problem = only(check(w1={"airflow_worker_concurrency": 0}, w2={"airflow_worker_concurrency": 0}))
    assert problem.subject == "airflow_worker_concurrency on the group workers: w1, w2 (2 of 4 hosts)"
    assert problem.found == "0"


# -- settings of Airflow and systemd --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "variable"), CONFIG_BY_VARIABLE.items())
def test_options_with_a_variable_of_their_own(name: str, variable: str) -> None:
    section, option = name.split(".")
    for value in ("hunter2", None):
        problem = only(check({"airflow_config": {section: {option: value}}}))
        assert problem.subject == f"airflow_config, option {option} of the section {section}"
        assert problem.remedy == f"remove it, and set {variable} instead"
        assert "hunter2" not in str(problem)


@pytest.mark.parametrize("name", CONFIG_SECRETS)
def test_options_that_hold_a_secret(name: str) -> None:
    section, option = name.split(".")
    problem = only(check(w1={"airflow_config": {section: {option: {"password": "hunter2"}}}}))
    assert problem.subject == f"airflow_config, option {option} of the section {section}"
    assert problem.found == "set on w1 (1 of 4 hosts)"
    assert f"airflow_environment as AIRFLOW__{section}__{option};".lower() in problem.remedy.lower()
    assert f"AIRFLOW__{section.upper()}__{option.upper()};" in problem.remedy
    assert "hunter2" not in str(problem)
    assert check({"airflow_config": {section: {option: None}}}) == [], "null leaves it to Airflow"


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("AIRFLOW__CORE__PARALLELISM", "airflow_config"),
        ("AIRFLOW__CELERY__WORKER_CONCURRENCY", "airflow_worker_concurrency"),
        ("AIRFLOW__CORE__FERNET_KEY_CMD", "airflow_fernet_key"),
        ("AIRFLOW__API_AUTH__JWT_SECRET", "airflow_jwt_secret"),
        ("airflow__database__sql_alchemy_conn", "cluster_database_*"),
        ("AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT", "airflow_config"),
    ],
)
def test_the_environment_sets_nothing_that_is_computed_with(name: str, variable: str) -> None:
    problem = only(check(w1={"airflow_environment": {name: "hunter2"}}))
    assert problem.subject == f"airflow_environment, {name}" and problem.remedy.endswith(f"set {variable} instead")
    assert "hunter2" not in str(problem)


def test_the_environment_keeps_what_components_find_their_own_by() -> None:
    problem = only(check({"airflow_environment": {"PYTHONPATH": "/srv"}}))
    assert problem.subject == "airflow_environment, PYTHONPATH" and "airflow_requirements" in problem.remedy
    assert check({"airflow_environment": {"AIRFLOW__SMTP__SMTP_PASSWORD": "x", "CORE__PARALLELISM": "0"}}) == []


def test_numbers_have_a_range() -> None:
    assert only(check({"airflow_worker_check_interval": 0})).allowed == "an integer >= 1"
    assert check({"airflow_worker_check_interval": 1}) == []
    assert only(check({"redis_maxmemory_percent": 101})).allowed == "a share, 1 to 100 percent"
    assert check({"redis_maxmemory_percent": 100}) == []
    assert only(check({"airflow_worker_min_free_disk": -1})).allowed == "an integer >= 0"
    assert check({"airflow_worker_min_free_disk": 0}) == []


@pytest.mark.parametrize(
    ("visible", "longest", "refused"),
    [(7199, 7200, True), (7200, 7200, False), (None, 86400, False), (None, 86401, True), (60, None, True)],
)
def test_a_task_is_not_delivered_twice(visible: int | None, longest: int | None, refused: bool) -> None:
    config = {"airflow_config": {"celery_broker_transport_options": {"visibility_timeout": visible}}}
    stop = {} if longest is None else {"airflow_worker_stop_timeout": longest}
    found = check({**config, **stop})
    assert bool(found) is refused
    for problem in found:
        assert (
            problem.subject
            == "airflow_config, option visibility_timeout of the section celery_broker_transport_options"
        )
        assert problem.found.startswith(f"{visible or 86400} seconds on ") and "started a second time" in problem.found


def test_other_options_are_free() -> None:
    config = {
        "core": {"execution_api_server_url": "x", "hostname_callable": "x", "load_examples": None},
        "dag_processor": {"refresh_interval": 30},
        "smtp": {"smtp_host": "x"},
    }
    assert check({"airflow_config": config}) == []
    assert "airflow_config" in only(check({"airflow_config": ["x"]})).subject, "the rule about types says so, alone"


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("workers", "did you mean worker?"),
        ("webserver", "did you mean api-server?"),
        ("airflow-dag_processor.service", "did you mean dag-processor?"),
        ("zzz", "correct the key, or remove it"),
        (5, "correct the key, or remove it"),
    ],
)
def test_service_options_of_no_component(key: Any, remedy: str) -> None:
    problem = only(check({"airflow_service_options": {key: {"Environment": "hunter2"}, "worker": {}}}))
    assert problem.subject == f'airflow_service_options, key "{key}"'
    assert problem.allowed == "scheduler, api-server, dag-processor, triggerer, flower, worker"
    assert problem.remedy == remedy
    assert "hunter2" not in str(problem)


def test_service_options_of_components() -> None:
    components = ("scheduler", "api-server", "dag-processor", "triggerer", "flower", "worker")
    assert check({"airflow_service_options": {key: {"TasksMax": 4096} for key in components}}) == []
    assert "airflow_service_options" in only(check({"airflow_service_options": ["x"]})).subject


# -- one value for the cluster --------------------------------------------------------------------------------------


def test_host_specific_cluster_variables_are_refused() -> None:
    problem = only(check({"cluster_database_port": 5432}, w1={"cluster_database_port": 5433}))
    assert problem.subject == "cluster_database_port"
    assert problem.found == "db has 5432 and w1 has 5433"


def test_a_value_on_some_hosts_differs_from_the_default_on_the_others() -> None:
    problem = only(check(w1={"airflow_version": "3.2.0"}))
    assert problem.found == 'db has "3.3.2" (the default) and w1 has "3.2.0"'
    assert check(w1={"airflow_version": "3.3.2"}) == []


def test_different_secrets_are_named_but_not_shown() -> None:
    problem = only(check(w1={"airflow_jwt_secret": SIGNING_KEY + "x"}))
    assert problem.found == "db and w1 have different values"
    assert "k7Qz" not in str(problem)


def test_what_is_host_specific_may_differ() -> None:
    assert check(w1={"airflow_worker_concurrency": 2, "cluster_address": "10.0.0.9"}) == []


# -- groups and executor --------------------------------------------------------------------------------------------


def test_a_database_is_needed() -> None:
    problem = only(check(groups={"postgresql": []}))
    assert problem.subject == "group postgresql"
    assert check({"cluster_database_host": "db.example.org"}, groups={"postgresql": []}) == []
    assert only(check({"cluster_database_host": ""}, groups={"postgresql": []})).subject == "group postgresql"


@pytest.mark.parametrize("group", ["postgresql", "redis"])
def test_there_is_one_database_and_one_broker(group: str) -> None:
    assert only(check(groups={group: ["db", "ctl"]})).found == "2 hosts: db, ctl"


def test_a_balancer_is_optional_and_there_is_one() -> None:
    two = {"webservers": ["ctl", "db"]}
    assert check(groups=two) == []
    assert check(groups={**two, "load_balancers": ["db"]}) == []
    assert check({"cluster_webserver_host": "airflow.example.org"}, groups=two) == []
    problem = only(check(groups={"load_balancers": ["db", "ctl"]}))
    assert (problem.subject, problem.found) == ("group load_balancers", "2 hosts: db, ctl")
    assert problem.allowed == "at most one host"
    assert problem.remedy.endswith("HAProxy cluster of your own, leave the group empty and set cluster_webserver_host")


def test_a_balancer_has_something_to_choose_from() -> None:
    problem = only(check(groups={"load_balancers": ["db"], "webservers": []}))
    assert (problem.subject, problem.found) == ("group webservers", "no host")


def test_a_host_that_is_a_balancer_alone_is_one_of_the_cluster() -> None:
    groups = {"postgresql": ["ctl"], "redis": ["ctl"], "load_balancers": ["db"]}
    assert only(check(groups=groups, db={"ansible_host": "10.0.0.2"})).subject == "address 10.0.0.2"


def test_workers_need_redis() -> None:
    problem = only(check(groups={"redis": []}))
    assert problem.subject == "group redis"
    assert check({"cluster_redis_host": "redis.example.org"}, groups={"redis": []}) == []


def test_redis_is_not_needed_without_celery() -> None:
    assert check(groups=LOCAL) == []


@pytest.mark.parametrize("group", ["schedulers", "webservers", "dag_processors"])
def test_required_groups(group: str) -> None:
    assert only(check(groups={group: []})).subject == f"group {group}"


@pytest.mark.parametrize("group", ["triggerers", "flower"])
def test_optional_groups(group: str) -> None:
    assert check(groups={group: []}) == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("worker", "workers"),
        ("scheduler", "schedulers"),
        ("webserver", "webservers"),
        ("dag_processor", "dag_processors"),
        ("dag-processors", "dag_processors"),
        ("triggerer", "triggerers"),
        ("postgres", "postgresql"),
        ("api_server", "webservers"),
    ],
)
def test_groups_with_nearly_the_right_name(wrong: str, right: str) -> None:
    problems = check(groups={wrong: GROUPS[right], right: []})
    assert [problem for problem in problems if problem.subject == f"group {wrong}" and right in problem.remedy]
    assert check(groups={wrong: ["w1"]}) == [], "not while the right group has members"


def test_other_groups_are_nobodys_business() -> None:
    assert check(groups={"control": ["ctl"], "paris": ["w1"], "monitoring": ["x"]}) == []


def test_executors_that_fit() -> None:
    assert check({"airflow_executor": "CeleryExecutor"}) == []
    assert check({"airflow_executor": "LocalExecutor"}, groups=LOCAL) == []


def test_the_executor_is_derived() -> None:
    variables = cluster()
    assert executor(Inventory(GROUPS, variables), CATALOGUE) == "CeleryExecutor"
    assert executor(Inventory({**GROUPS, "workers": []}, variables), CATALOGUE) == "LocalExecutor"


@pytest.mark.parametrize("value", ["SequentialExecutor", "celery", "Celery Executor", " "])
def test_unknown_executors(value: str) -> None:
    problem = only(check({"airflow_executor": value}, groups=LOCAL))
    assert problem.subject == "airflow_executor"
    assert problem.found == json.dumps(value)
    assert problem.allowed.startswith("LocalExecutor, CeleryExecutor, KubernetesExecutor; or several")
    if "elery" in value:
        assert problem.remedy == "write CeleryExecutor, or remove the variable"


@pytest.mark.parametrize(
    "value",
    [
        "CeleryExecutor,LocalExecutor",
        "LocalExecutor, CeleryExecutor",
        "quick:LocalExecutor,CeleryExecutor",
        "my.quick-one:LocalExecutor,big:CeleryExecutor",
    ],
)
def test_several_executors(value: str) -> None:
    assert check({"airflow_executor": value}) == []
    names = executors(Inventory(GROUPS, {"ctl": {"airflow_executor": value}}), CATALOGUE)
    assert sorted(names) == ["CeleryExecutor", "LocalExecutor"]
    assert value.partition(",")[0].endswith(names[0])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("CeleryExecutor,", 'with ""'),
        ("CeleryExecutor,Local", 'with "Local"'),
        ("CeleryExecutor;team1=LocalExecutor", '"CeleryExecutor;team1=LocalExecutor"'),
        (":LocalExecutor,CeleryExecutor", 'with ":LocalExecutor"'),
        ("CeleryExecutor, LocalExecutor, LocalExecutor", "with LocalExecutor twice"),
        ("CeleryExecutor,a:LocalExecutor,b:LocalExecutor", "with LocalExecutor twice"),
        ("CeleryExecutor,LocalExecutor,my.module.MyExecutor", 'with "my.module.MyExecutor"'),
    ],
)
def test_several_executors_that_do_not_fit(value: str, found: str) -> None:
    problem = only(check({"airflow_executor": value}))
    assert (problem.subject, found in problem.found) == ("airflow_executor", True), problem.found
    assert "each once" in problem.allowed


def test_with_both_executors_a_host_serves_its_logs_once() -> None:
    both = {"airflow_executor": "CeleryExecutor,LocalExecutor"}
    assert check(both, groups={"workers": ["ctl"]}) == []
    problem = only(check({**both, "cluster_worker_log_port": 8080}))
    assert "cluster_webserver_port and cluster_worker_log_port" in problem.found


@pytest.mark.parametrize("value", ["CeleryExecutor", "LocalExecutor,CeleryExecutor"])
def test_celery_without_workers(value: str) -> None:
    problem = only(check({"airflow_executor": value}, groups={"workers": []}))
    assert "empty group workers" in problem.found


# -- KubernetesExecutor ---------------------------------------------------------------------------------------------


PODS = {
    "airflow_executor": "LocalExecutor,KubernetesExecutor",
    "airflow_extras": ["celery", "cncf.kubernetes"],
    "airflow_kubernetes_kubeconfig": "/site/kubeconfig",
    "airflow_kubernetes_worker_container_repository": "registry.example.org/airflow",
}
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [
        {"name": "here", "cluster": {"server": "https://10.9.9.9:6443", "certificate-authority-data": "eA=="}}
    ],
    "users": [{"name": "robot", "user": {"token": "s3cr3t-token"}}],
    "contexts": [{"name": "main", "context": {"cluster": "here", "user": "robot"}}],
    "current-context": "main",
}


def pods(config: Any = KUBECONFIG, kind: str = "file", **changed: Any) -> list[Problem]:
    """Problems of a cluster with KubernetesExecutor."""
    return check({**PODS, **changed}, groups=LOCAL, paths={"/site/kubeconfig": kind}, kubeconfig=config)


def test_kubernetes_has_what_it_needs() -> None:
    assert pods() == []
    assert pods(airflow_executor="KubernetesExecutor", airflow_extras=["cncf-kubernetes"]) == []
    assert check({name: "" for name in PODS if "kubernetes" in name}) == [], "without that executor nothing is needed"


@pytest.mark.parametrize(
    ("changed", "subject", "found", "remedy"),
    [
        ({"airflow_extras": ["celery"]}, "airflow_extras", "no cncf.kubernetes", "playbooks/lock.yml"),
        (
            {"airflow_kubernetes_worker_container_repository": ""},
            "airflow_kubernetes_worker_container_repository",
            "no value: pods would have no image",
            "set airflow_kubernetes_worker_container_repository",
        ),
        (
            {"airflow_kubernetes_worker_container_tag": ""},
            "airflow_kubernetes_worker_container_tag",
            "no value: pods would have no image",
            "set airflow_kubernetes_worker_container_tag",
        ),
        ({"airflow_kubernetes_kubeconfig": ""}, "airflow_kubernetes_kubeconfig", "no value", "kubectl config view"),
        (
            {"airflow_kubernetes_pod_template_file": "/site/pod.yml"},
            "airflow_kubernetes_pod_template_file",
            '"/site/pod.yml", which is missing',
            "correct the path",
        ),
    ],
)
def test_what_kubernetes_lacks(changed: dict[str, Any], subject: str, found: str, remedy: str) -> None:
    problem = only(pods(**changed))
    assert (problem.subject, found in problem.found, remedy in problem.remedy) == (subject, True, True), str(problem)


@pytest.mark.parametrize(
    ("config", "kind", "found"),
    [
        (None, "missing", "which is missing on the control node"),
        (None, "directory", "which is a folder"),
        (None, "file", "which cannot be read"),
        ("text", "file", "no clusters"),
        ({**KUBECONFIG, "clusters": None}, "file", "no clusters"),
        ({**KUBECONFIG, "current-context": ""}, "file", "current-context is not among"),
        ({**KUBECONFIG, "users": []}, "file", "names what is not there: user robot"),
        (
            {**KUBECONFIG, "users": [{"name": "robot", "user": {"client-key": "/root/key.pem"}}]},
            "file",
            "names files that the hosts do not have: client-key of users robot",
        ),
    ],
)
def test_a_kubeconfig_that_would_not_work(config: Any, kind: str, found: str) -> None:
    problem = only(pods(config, kind))
    assert problem.subject == "airflow_kubernetes_kubeconfig"
    assert found in problem.found
    assert "s3cr3t" not in str(problem)


def test_only_an_installation_looks_at_the_kubeconfig() -> None:
    variables = {host: {**values, **PODS} for host, values in cluster().items()}
    inventory = Inventory({**GROUPS, **LOCAL}, variables)
    assert check_inventory(inventory, CATALOGUE, "operate") == []
    assert check_inventory(inventory, CATALOGUE, "install") != []


def test_a_lock_without_the_provider_is_refused() -> None:
    problem = only(check(PODS, LOCAL, lock=("/l", LOCK), paths={"/site/kubeconfig": "file"}, kubeconfig=KUBECONFIG))
    assert "apache-airflow[cncf-kubernetes] is wanted" in problem.found


# -- how much runs at once ------------------------------------------------------------------------------------------


def limits(value: Any) -> dict[str, Any]:
    """`airflow_config` with the same value of each limit."""
    config: dict[str, Any] = {}
    for name in LEAST:
        section, option = name.split(".")
        config.setdefault(section, {})[option] = value
    return {"airflow_config": config}


@pytest.mark.parametrize("value", [0, -1, "0", "-5", 1.5, True, "many", [4]])
@pytest.mark.parametrize("name", LEAST)
def test_bounds_that_let_nothing_run_are_refused(name: str, value: Any) -> None:
    section, option = name.split(".")
    found = check({"airflow_config": {section: {option: value}}})
    if str(value) == "0" and LEAST[name] == 0:
        assert found == []
        return
    problem = only(found)
    assert problem.subject.startswith(f"airflow_config, option {option} of the section {section}")
    assert problem.found.endswith("on all hosts") and problem.allowed.startswith(f"an integer >= {LEAST[name]}")


@pytest.mark.parametrize("value", [1, "1", 200, None])
def test_bounds_that_let_something_run(value: Any) -> None:
    assert check(limits(value)) == []


@pytest.mark.parametrize("option", ["sql_alchemy_pool_size", "sql_alchemy_max_overflow"])
def test_what_is_computed_from_an_option_knows_one_value_of_it(option: str) -> None:
    """The budget of connections would not see what one host sets for itself."""
    ours, others = {"airflow_config": {"database": {option: 9}}}, {"airflow_config": {"database": {option: 40}}}
    assert check(ours) == []
    nothing: dict[str, Any] = {"airflow_config": {}}
    for own in (others, nothing):
        problem = only(check(None, {"webservers": ["w1"]}, ctl=ours, w1=own))
        assert problem.found.startswith("9 on ctl; ") and problem.found.endswith(" on w1")
    assert check(None, ctl=ours, w1=others) == [], "a worker does not read it"


QUEUES = "airflow_worker_queues"
ETL = {"airflow_config": {"operators": {"default_queue": "etl"}}}


@pytest.mark.parametrize(
    ("w1", "wanted"),
    [
        ({QUEUES: ["gpu"]}, "default"),
        ({QUEUES: []}, "default"),
        ({QUEUES: ["gpu"], "airflow_worker_instances": {"big": {"queues": ["big"]}}}, "default"),
        ({QUEUES: ["default"], **ETL}, "etl"),
    ],
)
def test_a_worker_serves_the_queue_of_tasks_that_ask_for_none(w1: dict[str, Any], wanted: str) -> None:
    problem = only(check(ETL if wanted == "etl" else None, w1=w1, w2={QUEUES: ["gpu"]}))
    assert problem.subject.startswith(QUEUES) and f'no worker has the queue "{wanted}"' in problem.found
    assert f"add {wanted} to airflow_worker_queues" in problem.remedy


@pytest.mark.parametrize(
    ("everywhere", "w1"),
    [
        (None, {}),
        (None, {QUEUES: ["default"]}),
        (None, {QUEUES: ["gpu"], "airflow_worker_instances": {"small": {}}}),
        (ETL, {}),
        (ETL, {QUEUES: ["etl"]}),
        ({"airflow_config": {"operators": {"default_queue": "w1"}}}, {QUEUES: ["gpu"]}),
        ({"airflow_config": {"operators": {"default_queue": "w1-big"}}}, {"airflow_worker_instances": {"big": {}}}),
    ],
)
def test_queues_that_will_do(everywhere: dict[str, Any] | None, w1: dict[str, Any]) -> None:
    assert check(everywhere, w1=w1, w2={QUEUES: ["gpu"]}) == []


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"core": {"PARALLELISM": 4}}, "option PARALLELISM of the section core"),
        ({"Core": {"parallelism": 4}}, "section Core"),
        ({"Smtp": {}}, "section Smtp"),
    ],
)
def test_options_that_airflow_would_not_find_are_refused(config: Any, name: str) -> None:
    problem = only(check({"airflow_config": config}))
    assert problem.subject == f"airflow_config, {name}"
    assert problem.remedy == f"write {name.split()[1].lower()}"


@pytest.mark.parametrize(
    ("variables", "subject"),
    [
        ({"postgresql_max_connections": 149}, "postgresql_max_connections"),
        ({"postgresql_parameters": {"max_connections": "149"}}, "postgresql_parameters"),
        (
            {"postgresql_max_connections": 500, "postgresql_parameters": {"max_connections": 149}},
            "postgresql_parameters",
        ),
    ],
)
def test_fewer_connections_than_the_components_open(variables: dict[str, Any], subject: str) -> None:
    problem = only(check(variables, connections=150))
    assert problem.subject == subject
    assert problem.found.startswith("149 connections; the components of this inventory may open 150")
    assert problem.allowed.startswith("at least 150")
    assert "remove it" in problem.remedy
    assert check(variables, connections=149) == []
    assert check(variables, connections=None) == []


def test_another_server_s_connections_are_its_own_business() -> None:
    elsewhere = {"cluster_database_host": "db.example.org", "postgresql_max_connections": 10}
    assert check(elsewhere, groups={"postgresql": []}, connections=150) == []


def test_workers_without_celery() -> None:
    problem = only(check({"airflow_executor": "LocalExecutor"}))
    assert "2 hosts in the group workers, which would idle" in problem.found
    assert problem.remedy.startswith("write CeleryExecutor,LocalExecutor or LocalExecutor,CeleryExecutor")


# -- addresses and ports --------------------------------------------------------------------------------------------


def test_addresses_are_unique() -> None:
    problem = only(check(w2={"ansible_host": "10.0.0.3"}))
    assert problem.subject == "address 10.0.0.3"
    assert problem.found == "shared by w1, w2"


def test_names_are_compared_as_names() -> None:
    assert only(check(w1={"cluster_address": "w.example.org"}, w2={"cluster_address": "W.example.org."})).found


def test_the_cluster_address_wins() -> None:
    assert check(w2={"ansible_host": "10.0.0.3", "cluster_address": "10.0.0.9"}) == []


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "127.0.1.1", "LOCALHOST"])
def test_loopback_is_refused_in_a_cluster(address: str) -> None:
    assert "reaches only itself" in only(check(w1={"ansible_host": address})).found


@pytest.mark.parametrize(
    "address",
    ["a b", "a;b", "$(id)", "db:5432", "[fd00::1]", "http://x", "10.0.0.300", "10.0.0", "-x", "a..b",
     "0.0.0.0", "224.0.0.1", "x" * 64, "a\n"],
)  # fmt: skip
def test_malformed_addresses(address: str) -> None:
    assert only(check(w1={"cluster_address": address})).subject == "address of w1"
    problem = only(check({"cluster_redis_host": address}))
    assert problem.subject == "cluster_redis_host"


@pytest.mark.parametrize("address", ["w1", "w_1", "w1.example.org", "w1.example.org.", "10.1.2.3", "1-2.x"])
def test_good_addresses(address: str) -> None:
    assert check(w1={"cluster_address": address}) == []


@pytest.mark.parametrize("address", ["fd00::1", "::1", "::", "fe80::1%eth0", "::ffff:10.0.0.9", "2001:DB8::1"])
def test_ipv6_addresses_are_refused(address: str) -> None:
    problem = only(check(w1={"ansible_host": address}))
    assert problem.subject == "address of w1"
    assert problem.found == f'ansible_host is "{address}": an IPv6 address, which URLs cannot hold as it is'
    assert problem.allowed == "an IPv4 address or a host name that every host of the cluster can reach"
    assert problem.remedy == "set cluster_address on the host to an IPv4 address or a name"
    assert check(w1={"ansible_host": address, "cluster_address": "10.0.0.9"}) == [], "Ansible itself may use it"
    for name in ("cluster_database_host", "cluster_webserver_host"):
        problem = only(check({name: address}))
        assert problem.subject == name
        assert problem.remedy == f"set {name} to an IPv4 address or a name"


def test_a_host_without_address_is_reached_by_its_name() -> None:
    assert check(without=("ansible_host",)) == []


def test_one_host_needs_two_different_ports() -> None:
    problem = only(check({"cluster_flower_port": 8080}))
    assert problem.subject == "port 8080 on ctl"
    assert "cluster_webserver_port and cluster_flower_port" in problem.found
    assert check({"cluster_flower_port": 8080}, groups={"flower": ["db"]}) == []
    assert check({"cluster_flower_port": 8080}, groups={"workers": []}) == [], "no Flower without Celery"


def test_a_balancer_may_share_a_host_and_no_port() -> None:
    balancer = {"load_balancers": ["ctl"]}
    assert check(groups=balancer) == []
    problem = only(check({"cluster_balancer_port": 8080}, groups=balancer))
    assert problem.subject == "port 8080 on ctl"
    assert "cluster_balancer_port and cluster_webserver_port" in problem.found
    assert check({"cluster_balancer_port": 8080}, groups={"load_balancers": ["db"]}) == []


def test_only_with_the_local_executor_a_scheduler_serves_logs() -> None:
    ports = {"cluster_worker_log_port": 8080, "cluster_webserver_port": 8080}
    assert check(ports) == []
    problem = only(check(ports, groups=LOCAL))
    assert "cluster_webserver_port and cluster_worker_log_port" in problem.found


def test_a_malformed_index_is_refused_without_its_password() -> None:
    problem = only(check({"airflow_index_url": ["https://robot:s3cr3t@example.org/simple"]}))
    assert problem.subject.startswith("airflow_index_url") and "s3cr3t" not in str(problem)


# -- version and files ----------------------------------------------------------------------------------------------


LOCK = render(
    {"airflow": "3.3.2", "extras": "celery,postgres", "requirements": '["boto3", "redis[hiredis]"]', "python": "3.10"},
    "".join(
        f"{pin} \\\n    --hash=sha256:{'0' * 64}\n"
        for pin in (
            "apache-airflow==3.3.2",
            "boto3==1.40.1",
            "numpy==2.2.6 ; python_full_version < '3.11'",
            "numpy==2.4.6 ; python_full_version >= '3.11'",
            "redis==6.4.0",
        )
    ),
)
WITH_EXTRAS = dataclasses.replace(
    CATALOGUE, defaults={**CATALOGUE.defaults, "airflow_extras": ["celery", "postgres"], "airflow_requirements": []}
)


def lock_problems(text: str | None, values: dict[str, Any] | None = None, **options: Any) -> list[Problem]:
    """Problems of an inventory whose lock has this text."""
    return check(values, catalogue=WITH_EXTRAS, lock=("/site/airflow-lock.txt", text), **options)


def test_a_version_needs_a_lock() -> None:
    problem = only(lock_problems(None, {"airflow_version": "3.9.9"}))
    assert problem.subject == "airflow_version"
    assert problem.found == '"3.9.9", for which no lock ships, and none lies beside the inventory'
    assert problem.allowed == "a version with a lock; locks ship for 3.2.0, 3.3.2"
    assert "playbooks/lock.yml  (or dataops.airflow.lock)" in problem.remedy


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"airflow_extras": ["postgres", "celery"]},
        {"airflow_extras": ["postgres"]},
        {"airflow_requirements": ["boto3>=1.40,<2", "numpy>=2.2", 'numpy>=2.4; python_version >= "3.11"']},
        {"airflow_requirements": ["redis[hiredis]", 'winreg; sys_platform == "win32"']},
    ],
)
def test_what_the_lock_satisfies(values: dict[str, Any]) -> None:
    assert lock_problems(LOCK, values) == []


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (
            {"airflow_version": "3.2.0"},
            "apache-airflow==3.2.0 is wanted, and it has apache-airflow 3.3.2 for Python 3.10",
        ),
        ({"airflow_extras": ["amazon"]}, "apache-airflow[amazon] is wanted, and it has locked with the extras"),
        ({"airflow_requirements": ["pandas"]}, "pandas is wanted, and it has no pandas"),
        ({"airflow_requirements": ["boto3>=2"]}, "boto3>=2 is wanted, and it has boto3 1.40.1 for Python 3.10"),
        ({"airflow_requirements": ["numpy<2.3"]}, "numpy<2.3 is wanted, and it has numpy 2.4.6 for Python 3.11"),
        (
            {"airflow_requirements": ["boto3[crt]"]},
            "boto3[crt] is wanted, and it has boto3, locked without the extra crt",
        ),
    ],
)
def test_what_the_lock_does_not_satisfy(values: dict[str, Any], found: str) -> None:
    problem = only(lock_problems(LOCK, values))
    assert problem.subject == "lock /site/airflow-lock.txt"
    assert problem.found.startswith(found)
    assert problem.remedy.startswith("ansible-playbook -i INVENTORY playbooks/lock.yml")


def test_only_an_installation_needs_a_lock_and_the_files_that_it_delivers() -> None:
    values = {"airflow_dags": "/missing", "airflow_requirements": ["-r more.txt"], "cluster_database_password": "admin"}
    variables = {host: {**of_host, **values} for host, of_host in cluster().items()}
    inventory = Inventory(GROUPS, variables, lock="/site/airflow-lock.txt", lock_text=None)
    assert len(check_inventory(inventory, WITH_EXTRAS)) == 4
    assert only(check_inventory(inventory, WITH_EXTRAS, "operate")).subject == "cluster_database_password"


def test_requirements_that_no_lock_could_have() -> None:
    wanted = ["boto3", "pandas=>2", "mine @ https://robot:s3cr3t@example.org/mine.whl", "-r more.txt"]
    problems = lock_problems(LOCK, {"airflow_requirements": wanted})
    assert [problem.subject for problem in problems] == ["airflow_requirements"] * 3
    assert problems[0].found.startswith("pandas=>2: not a requirement")
    assert problems[1].found.startswith("mine: a direct URL") and "wheelhouse" in problems[1].remedy
    assert "s3cr3t" not in report("x", problems)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "it pins no package"),
        ("apache-airflow==3.3.2\n", "line 1: apache-airflow==3.3.2 is missing a hash"),
        (LOCK.replace("boto3==1.40.1", "boto3==1.40.2"), "it was edited by hand"),
        (LOCK.replace("0" * 64, "0" * 63, 1), "line 7: apache-airflow==3.3.2 has a malformed hash"),
    ],
)
def test_a_lock_that_is_not_intact(text: str, found: str) -> None:
    problem = only(lock_problems(text))
    assert problem.found.startswith(found)
    assert "makes one, as airflow-lock.txt beside the inventory" in problem.remedy


def test_a_lock_without_our_header_is_checked_as_far_as_it_tells() -> None:
    body = LOCK[LOCK.index("apache-airflow==") :]
    assert lock_problems(body, {"airflow_extras": ["amazon"], "airflow_requirements": ["boto3[crt]"]}) == []
    assert "no pandas" in only(lock_problems(body, {"airflow_requirements": ["pandas"]})).found


def test_wheels_that_were_built_are_beside_the_lock() -> None:
    """They are in no index: the hosts would meet that in the midst of a run."""
    wheel = "boto3-1.40.1-py3-none-any.whl"
    text = render({"airflow": "3.3.2", "extras": "celery,postgres", "wheels": wheel}, LOCK[LOCK.index("apache") :])
    assert lock_problems(text, wheels={wheel: "0" * 64}) == []
    problem = only(lock_problems(text))
    assert problem.subject == "lock /site/airflow-lock.txt, folder .wheels beside it"
    assert problem.found == f"{wheel} is missing" and "as it was built" in problem.allowed
    assert "playbooks/lock.yml" in problem.remedy
    assert "has a hash that the lock does not have" in only(lock_problems(text, wheels={wheel: "1" * 64})).found
    values, paths = {"airflow_wheelhouse": "/wheels"}, {"/wheels": "directory"}
    assert lock_problems(text, values, paths=paths) == [], "the wheelhouse has it, or is refused"


@pytest.mark.parametrize("extras", ["celery", [{"celery": 1}], [["celery"]]])
def test_malformed_extras_are_one_problem(extras: Any) -> None:
    assert "celery" in str(only(lock_problems(LOCK, {"airflow_extras": extras})))


def test_a_lock_of_ones_own() -> None:
    values = {"airflow_lock": "/site/airflow.lock"}
    assert lock_problems(LOCK, values) == []
    for kind, words in (("missing", "is missing"), ("directory", "is a folder")):
        problem = only(lock_problems(None, values, paths={"/site/airflow.lock": kind}))
        assert problem.subject == "airflow_lock"
        assert words in problem.found
        assert "remove airflow_lock to use it" in problem.remedy


def test_dags_must_be_a_folder() -> None:
    assert check({"airflow_dags": ""}) == []
    assert check({"airflow_dags": "/dags"}, paths={"/dags": "directory"}) == []
    assert "is a file" in only(check({"airflow_dags": "/dags"}, paths={"/dags": "file"})).found
    assert "is missing" in only(check({"airflow_dags": "/dags"}, paths={"/dags": "missing"})).found


def test_the_wheelhouse_is_a_folder() -> None:
    assert check({"airflow_wheelhouse": ""}) == []
    assert check({"airflow_wheelhouse": "/wheels"}, paths={"/wheels": "directory"}) == []
    for kind, word in {"file": "is a file", "missing": "is missing"}.items():
        problem = only(check({"airflow_wheelhouse": "/wheels"}, paths={"/wheels": kind}))
        assert problem.subject == "airflow_wheelhouse" and word in problem.found
        assert "playbooks/wheelhouse.yml" in problem.remedy


def test_certificates_must_be_files() -> None:
    values = {"cluster_ca_certificates": ["/a.pem", "/b.pem"]}
    problem = only(check(values, paths={"/a.pem": "file", "/b.pem": "missing"}))
    assert problem.found == '"/b.pem", which is missing on the control node'
    assert check(values, paths=dict.fromkeys(["/a.pem", "/b.pem"], "file")) == []


def test_the_paths_to_look_at() -> None:
    values = {"airflow_lock": "/l", "airflow_dags": "", "cluster_ca_certificates": ["/c", 5]}
    assert local_paths({"a": values, "b": values}) == ["/l", "/c"]


# -- secrets --------------------------------------------------------------------------------------------------------


def test_missing_secrets_are_one_problem() -> None:
    problem = only(check({"airflow_jwt_secret": ""}, without=("cluster_database_password", "redis_admin_password")))
    assert problem.found.replace("\n", " ") == (
        "no value for cluster_database_password, airflow_jwt_secret, redis_admin_password"
    )
    assert "playbooks/secrets.yml" in problem.remedy


def test_a_secret_that_is_missing_on_one_host() -> None:
    assert "airflow_jwt_secret (on w1)" in only(check(w1={"airflow_jwt_secret": None})).found


def test_secrets_are_required_where_they_are_used() -> None:
    names = ("cluster_results_password", "cluster_redis_password", "cluster_redis_flower_password")
    flower = ("cluster_redis_flower_password", "airflow_flower_password")
    assert check(groups=LOCAL, without=(*names, "airflow_flower_password", "redis_admin_password")) == []
    assert all(name in only(check(without=names)).found for name in names)
    assert check(groups={"flower": []}, without=flower) == []
    assert check({"cluster_redis_host": "r"}, groups={"redis": []}, without=("redis_admin_password",)) == []


@pytest.mark.parametrize(
    "value",
    ["changeme", "CHANGE_ME", "changeme123!", "admin", "airflow", "postgres", "password", "Passw0rd!2024", "secret",
     "redis", "flower", "test-1", "example", "TODO", "xxx", "XXXXXXXXXXXX", "airflow_password_12345", "admin:admin",
     "<your-password-here>", "000000000000", "************", "123456789012", "abababababab"],
)  # fmt: skip
def test_placeholders_are_refused_and_not_shown(value: str) -> None:
    problem = only(check({"cluster_database_password": value}))
    assert "a placeholder" in problem.found
    assert json.dumps(value) not in str(problem)


def test_a_users_name_is_no_password() -> None:
    problem = only(check({"airflow_admin_password": "Root@example.org"}))
    assert problem.found == "the name of a user"


@pytest.mark.parametrize(
    "value", [AWKWARD, "correct horse battery", "x3Qt-9a8K_pz2", "{{ not a template", "пароль-пароль-1"]
)
def test_good_passwords(value: str) -> None:
    assert check({"cluster_database_password": value}) == []


def test_short_passwords() -> None:
    problem = only(check({"cluster_redis_password": "x3Qt-9a8K_p"}))
    assert problem.found == "a value of 11 characters"
    assert "x3Qt" not in str(problem)
    assert check({"cluster_redis_password": "x3Qt-9a8K_pz"}) == []


@pytest.mark.parametrize("name", ["airflow_jwt_secret", "airflow_api_secret_key"])
def test_short_signing_keys(name: str) -> None:
    assert only(check({name: SIGNING_KEY[:63]})).found == "a value of 63 bytes"
    assert check({name: SIGNING_KEY[:64]}) == []
    assert check({name: "äöüßéèñç" * 4}) == [], "bytes count, not characters"


RAW = ("airflow_jwt_secret", "airflow_api_secret_key")
"""The secrets that reach Airflow as they are written, where a password's characters may have a meaning."""


@pytest.mark.parametrize("text", ["$HOME", "${HOME}", "$_", "$a", "x$Zx", "${", "$$a"])
@pytest.mark.parametrize("name", RAW)
def test_values_that_airflow_would_expand(name: str, text: str) -> None:
    problem = only(check({name: SIGNING_KEY + text}))
    assert problem.subject == name
    assert "takes for a variable's name" in problem.found
    assert "no $ before a letter, an underscore or {" in problem.allowed
    assert "k7Qz" not in str(problem)


@pytest.mark.parametrize("text", ["$", "$ a", "$1", "$$", "$(id)", "$-a", "$}", '$"', "$é", "~", "x~/y"])
@pytest.mark.parametrize("name", RAW)
def test_values_that_airflow_takes_as_they_are(name: str, text: str) -> None:
    value = SIGNING_KEY + text
    assert check({name: value}) == []
    assert os.path.expanduser(os.path.expandvars(value)) == value  # noqa: PTH111  as Airflow does


@pytest.mark.parametrize("name", RAW)
def test_signing_keys_that_start_as_a_home_folder(name: str) -> None:
    problem = only(check({name: f"~{SIGNING_KEY}"}))
    assert "starts with ~" in problem.found
    assert problem.allowed == "no ~ at the start, no $ before a letter, an underscore or {"
    assert "k7Qz" not in str(problem)


def test_flowers_login_is_ascii_and_anything_else() -> None:
    for value in ('$HOME,~ ${x}: \\ "', "~admin", "a,b"):
        assert check({"airflow_flower_password": f"{value} Z8k2-q4u", "airflow_flower_username": value}) == []
    problem = only(check({"airflow_flower_password": f"{SIGNING_KEY}é"}))
    assert problem.allowed == "ASCII characters"
    assert "k7Qz" not in str(problem)
    problem = only(check({"airflow_flower_username": "josé"}))
    assert problem.subject == "airflow_flower_username on all hosts"
    assert problem.remedy == "correct the value of airflow_flower_username"
    assert check({"airflow_flower_username": 4711}) == []


def test_a_webserver_config_is_a_file() -> None:
    assert check({"airflow_webserver_config": "/x.py"}, paths={"/x.py": "file"}) == []
    problem = only(check({"airflow_webserver_config": "/x.py"}, paths={"/x.py": "directory"}))
    assert "a folder on the control node" in problem.found


@pytest.mark.parametrize("name", [name for name in SECRETS if name not in RAW and name != "airflow_fernet_key"])
def test_secrets_that_are_encoded_may_hold_anything(name: str) -> None:
    assert check({name: "~$HOME, ${HOME}, x3Qt"}) == []


@pytest.mark.parametrize("ending", ["\n", "\r", "\0"])
@pytest.mark.parametrize("name", SECRETS)
def test_line_breaks(name: str, ending: str) -> None:
    problem = only(check({name: SECRET_VALUES[name] + ending}))
    assert "line break" in problem.found
    assert SECRET_VALUES[name] not in str(problem)


def test_numbers_are_no_secrets() -> None:
    problem = only(check({"cluster_redis_password": 9182736455463}))
    assert problem.found == "a value of type int"


@pytest.mark.parametrize(
    "value",
    [FERNET[:-1], FERNET + "=", FERNET[:-1] + "A", f"{FERNET}, {FERNET}", f"{FERNET},", "/" + FERNET[1:], "AbCd"],
)
def test_malformed_fernet_keys(value: str) -> None:
    problem = only(check({"airflow_fernet_key": value}))
    assert "malformed" in problem.found
    assert FERNET[:20] not in str(problem)


def test_several_fernet_keys() -> None:
    other = base64.urlsafe_b64encode(bytes(range(32))).decode()
    assert check({"airflow_fernet_key": f"{other},{FERNET}"}) == []


def test_no_message_shows_a_secret() -> None:
    """Whatever is wrong, the text holds no value of a variable that is a secret."""
    secrets = {name: f"tell-{index}-tale\n" for index, name in enumerate(SECRETS)}
    text = report("", check(secrets, w1={name: f"{value}!" for name, value in secrets.items()}))
    assert len(text) > 1000
    assert "tell-" not in text


def test_ten_hosts_take_little_time() -> None:
    hosts = [f"w{index}" for index in range(10)]
    values: Variables = {
        host: {**copy.deepcopy(SECRET_VALUES), **{name: spec.get("default") for name, spec in OPTIONS["redis"].items()}}
        for host in hosts
    }
    groups = {**GROUPS, "workers": hosts, "all": hosts}
    started = time.perf_counter()
    check_inventory(Inventory(groups, values), CATALOGUE)
    assert time.perf_counter() - started < 0.2


@pytest.mark.parametrize("directive", ["MemoryMax", "CPUQuota"])
def test_a_limit_with_a_variable_of_its_own(directive: str) -> None:
    problem = only(check(w1={"airflow_service_options": {"worker": {directive: "4G"}}}))
    assert directive in problem.subject and "airflow_worker_" in problem.remedy
    assert check(w1={"airflow_service_options": {"scheduler": {directive: "4G"}}}) == []


def test_what_celery_is_told_is_merged_and_so_no_text() -> None:
    problem = only(check({"airflow_config": {"celery": {"extra_celery_config": '{"worker_max_tasks_per_child": 10}'}}}))
    assert "extra_celery_config" in problem.subject and "a dictionary" in problem.allowed
    assert check({"airflow_config": {"celery": {"extra_celery_config": {"worker_max_tasks_per_child": 10}}}}) == []


# -- DAGs -----------------------------------------------------------------------------------------------------------

GIT_OPTIONS = {
    f"airflow_dags_git_{name}": {"type": "str", "default": ""} for name in ("url", "path", "known_hosts", "username")
}
WITH_GIT = dataclasses.replace(
    WITH_EXTRAS,
    options={
        **OPTIONS,
        "airflow": {
            **OPTIONS["airflow"],
            **GIT_OPTIONS,
            "airflow_dags_git_ref": {"type": "str", "default": "HEAD"},
            "airflow_dags_git_key": {"type": "str", "default": "", "no_log": True},
            "airflow_dags_git_password": {"type": "str", "default": "", "no_log": True},
            "airflow_dag_bundles": {"type": "list", "elements": "dict", "default": []},
        },
    },
)
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
SSH, WEB = "git@git.example.org:team/dags.git", "https://git.example.org/team/dags.git"


def git(**values: Any) -> list[Problem]:
    """Problems of an inventory with these variables after airflow_dags_git_."""
    return check({f"airflow_dags_git_{name}": value for name, value in values.items()}, catalogue=WITH_GIT)


@pytest.mark.parametrize(
    "values",
    [
        {"url": SSH, "key": KEY},
        {"url": SSH, "ref": "release/2026.1", "path": "team/dags"},
        {"url": "ssh://git@git.example.org:2222/dags.git", "key": KEY, "known_hosts": "git.example.org ssh-rsa AAAA"},
        {"url": WEB, "password": "t0ken", "username": "deploy"},
        {"url": "https://deploy@git.example.org/dags.git", "password": "t0ken"},
        {"url": "file:///srv/dags.git", "ref": "a" * 40},
        {"url": "/srv/dags.git"},
        {"url": "http://git.example.org/dags.git"},
    ],
)
def test_repositories(values: dict[str, Any]) -> None:
    assert git(**values) == []


@pytest.mark.parametrize(
    ("values", "subject", "words"),
    [
        ({"url": "https://me:t0ken@git.example.org/d.git"}, "airflow_dags_git_url", "with a password in it"),
        ({"url": "https://t0ken@git.example.org/d.git"}, "airflow_dags_git_url", "with a user or a token in it"),
        ({"url": "not a url"}, "airflow_dags_git_url", '"not a url"'),
        ({"url": "ext::sh -c evil"}, "airflow_dags_git_url", "ext::"),
        ({"url": "--upload-pack=evil"}, "airflow_dags_git_url", "--upload"),
        ({"url": WEB, "key": KEY}, "airflow_dags_git_key", "which takes none"),
        ({"url": SSH, "password": "t0ken"}, "airflow_dags_git_password", "which takes none"),
        ({"url": "http://g.example.org/d", "password": "t0ken"}, "airflow_dags_git_password", "show it to the network"),
        (
            {"url": SSH, "key": "~/.ssh/deploy_key"},
            "airflow_dags_git_key",
            "a value of 17 characters that is no private",
        ),
        ({"url": SSH, "ref": "--all"}, "airflow_dags_git_ref", "--all"),
        ({"url": SSH, "ref": "a:b"}, "airflow_dags_git_ref", "a:b"),
        ({"url": SSH, "ref": ""}, "airflow_dags_git_ref", '""'),
        ({"url": SSH, "path": "../etc"}, "airflow_dags_git_path", "../etc"),
        ({"url": SSH, "path": "/etc"}, "airflow_dags_git_path", "/etc"),
    ],
)
def test_repositories_that_are_refused(values: dict[str, Any], subject: str, words: str) -> None:
    problem = only(git(**values))
    assert problem.subject.startswith(subject) and words in problem.found
    assert "t0ken" not in str(problem) and "ssh/deploy" not in str(problem)


def test_a_folder_or_a_repository() -> None:
    values = {"airflow_dags": "/dags", "airflow_dags_git_url": SSH}
    assert "so is airflow_dags" in only(check(values, catalogue=WITH_GIT, paths={"/dags": "directory"})).found


def test_a_delivery_needs_dags_and_nothing_else() -> None:
    def problems(**values: Any) -> list[Problem]:
        variables = {host: {**found, **values} for host, found in cluster().items()}
        inventory = Inventory(GROUPS, variables, paths={"/dags": "directory"}, lock="/site/lock", lock_text=None)
        found: list[Problem] = check_inventory(inventory, WITH_GIT, "deliver")
        return found

    assert only(problems()).found == "none: neither is set"
    assert problems(airflow_dags="/dags") == [] and problems(airflow_dags_git_url=SSH) == []
    assert "is missing" in only(problems(airflow_dags="/none")).found


GIT_BUNDLE = {"name": "team", "classpath": "airflow.providers.git.bundles.git.GitDagBundle"}


def bundles(*entries: Any, lock: str | None = None, **values: Any) -> list[Problem]:
    """Problems of an inventory with these bundles."""
    text = LOCK if lock is None else lock
    values = {"airflow_dag_bundles": list(entries), **values}
    return check(values, catalogue=WITH_GIT, lock=("/site/lock.txt", text))


def test_bundles() -> None:
    local = {
        "name": "local",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": "/x"},
    }
    assert bundles(local) == []
    kwargs = {"repo_url": "https://git.example.org/dags.git", "git_conn_id": "git_dags", "refresh_interval": 30}
    pin = f"apache-airflow-providers-git==0.5.0 \\\n    --hash=sha256:{'0' * 64}\n"
    # Of the lock, only that it has a pin too many is a problem.
    assert only(bundles({**GIT_BUNDLE, "kwargs": kwargs}, local, lock=LOCK + pin)).subject == "lock /site/lock.txt"


def test_a_bundle_needs_its_provider() -> None:
    problem = only(bundles(GIT_BUNDLE))
    assert problem.subject == "airflow_dag_bundles, team"
    assert "the lock /site/lock.txt has no apache-airflow-providers-git" in problem.found
    assert "add git to airflow_extras" in problem.remedy and "playbooks/lock.yml" in problem.remedy


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "x"}, "no classpath"),
        ({"classpath": "a.B"}, "no name"),
        ({"name": "x", "classpath": "a.B", "kwarg": {}}, "the key kwarg"),
        ({"name": "canary", "classpath": "a.B"}, "the collection has taken"),
        ({"name": "x", "classpath": "a.B", "kwargs": {"repo_url": "https://me:t0ken@h/r"}}, "a URL with a password"),
    ],
)
def test_bundles_that_are_refused(entry: dict[str, Any], words: str) -> None:
    problem = only(bundles(entry))
    assert words in problem.found and "t0ken" not in str(problem)


def test_two_bundles_of_a_name() -> None:
    entry = {"name": "x", "classpath": "a.B"}
    assert "another entry has" in only(bundles(entry, entry)).found


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        (["0.0.0.0/0", "::/0", "10.0.0.1", "fd00::1/128"], ""),
        (["10.0.0.0/8", "office.example.org"], "office.example.org"),
        (["10.0.0.1/8"], "has host bits set"),
        (["10.0.0.0/33"], "10.0.0.0/33"),
    ],
)
def test_sources_are_networks(sources: list[str], found: str) -> None:
    problems = check(db={"firewall_webserver_sources": sources})
    assert bool(problems) is bool(found)
    assert not found or found in only(problems).found


# -- TLS -------------------------------------------------------------------------------------------------------------

CA = make("authority", authority=True)
DATABASE = make("db", ("10.0.0.1",), CA)
PEM = {"/pki/ca.pem": CA.pem, "/pki/db.pem": DATABASE.pem, "/pki/db.key": DATABASE.key_pem()}
FILES = dict.fromkeys(PEM, "file")
OWN = {"cluster_tls_certificate": "/pki/db.pem", "cluster_tls_key": "/pki/db.key"}
TLS = {"cluster_tls": True}


def test_tls_with_the_authority_of_the_collection() -> None:
    assert check(TLS) == []
    assert check({"cluster_tls": "true"}) == []


def test_a_certificate_of_the_sites_own() -> None:
    ca = {**TLS, "cluster_tls_ca": "/pki/ca.pem"}
    assert check(ca, paths=FILES, pem=PEM, db=OWN) == []
    problem = only(check(ca, paths=FILES, pem=PEM, ctl=OWN))
    assert problem.subject == "cluster_tls_certificate of ctl, /pki/db.pem"
    assert problem.found == "it is for 10.0.0.1, and not for 10.0.0.2"
    # One that serves nothing may have the same one as the others.
    assert check(ca, paths=FILES, pem=PEM, db=OWN, w1=OWN) == []
    named = {**ca, "cluster_database_host": "database.example.org"}
    assert "not for database.example.org" in only(check(named, paths=FILES, pem=PEM, db=OWN)).found


def test_what_is_not_used_is_not_looked_at() -> None:
    assert check({"cluster_tls_ca": "/pki/ca.pem"}, db=OWN) == []


@pytest.mark.parametrize("lacking", ["cluster_tls_ca", "cluster_tls_certificate", "cluster_tls_key"])
def test_a_certificate_needs_key_and_authority(lacking: str) -> None:
    everywhere, own = {**TLS, "cluster_tls_ca": "/pki/ca.pem"}, dict(OWN)
    everywhere.pop(lacking, None)
    own.pop(lacking, None)
    problem = only(check(everywhere, paths=FILES, pem=PEM, db=own))
    assert (problem.subject, problem.found) == ("certificate of db", f"{lacking} not set")


def test_files_that_are_not_there() -> None:
    problem = only(check({**TLS, "cluster_tls_ca": "/pki/none.pem"}, paths={"/pki/none.pem": "missing"}))
    assert "/pki/none.pem" in problem.found and "missing" in problem.found
    problem = only(check({**TLS, "cluster_tls_ca": "/pki/db.key"}, paths=FILES, pem=PEM))
    assert "holds no certificate" in problem.found


@pytest.mark.parametrize("name", ["cluster_database_host", "cluster_redis_host", "cluster_webserver_host"])
def test_servers_of_ones_own_need_their_authority(name: str) -> None:
    group = {"cluster_database_host": "postgresql", "cluster_redis_host": "redis"}.get(name, "triggerers")
    everywhere = {**TLS, name: "10.1.1.1"}
    problem = only(check(everywhere, {group: []}))
    assert name in problem.subject and "cluster_tls_ca is empty" in problem.found
    assert check({**everywhere, "cluster_tls_ca": "/pki/ca.pem"}, {group: []}, paths=FILES, pem=PEM) == []


def test_a_balancer_needs_a_certificate_for_its_address() -> None:
    ca = {**TLS, "cluster_tls_ca": "/pki/ca.pem"}
    assert check(ca, {"load_balancers": ["db"]}, paths=FILES, pem=PEM, db=OWN) == []
    other = {**OWN, "cluster_address": "10.0.0.9"}
    problem = only(check(ca, {"load_balancers": ["db"]}, paths=FILES, pem=PEM, db=other))
    assert "not for 10.0.0.9" in problem.found


def test_a_renewal_by_every_run() -> None:
    problem = only(check({**TLS, "certificates_renew_days": 365}))
    assert "every run would renew" in problem.found
    assert check({**TLS, "certificates_renew_days": 365, "certificates_days": 366}) == []


def test_who_logs_in_to_a_database() -> None:
    roles = {"cluster_database_user": "owner", "cluster_database_login": "owner_2"}
    assert check(roles) == []
    assert check({**roles, "cluster_database_login": "owner"}) == []
    problem = only(check({**roles, "cluster_database_login": "owner_3"}))
    assert problem.subject == "cluster_database_login"
    assert (problem.found, "owner_2" in problem.allowed) == ('"owner_3"', True)
    own = {"cluster_database_host": "pg.example.org"}
    assert check({**roles, **own, "cluster_database_login": "somebody"}, groups={"postgresql": []}) == []
