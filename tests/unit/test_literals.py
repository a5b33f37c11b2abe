"""literals: what of an inventory's text may go into a file of a host, for every public variable of every role."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import Catalogue, Inventory
from ansible_collections.dataops.airflow.plugins.module_utils.inventory_rules import check_inventory
from ansible_collections.dataops.airflow.plugins.module_utils.literals import HOST, QUEUE, misread
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem
from ansible_collections.dataops.airflow.plugins.module_utils.secret_rules import check_redis_users

from tests.contract.collection import ROLES, specs

OPTIONS = {name: specs(name)["main"]["options"] for name in ROLES}
EVERY = {name: spec for options in OPTIONS.values() for name, spec in options.items()}
HOSTILE = "x\n[Service]\nExecStartPre=/bin/touch /tmp/pwned"
# They carry text of several lines to where it is read: into files with quotes, which the golden tests read back; into
# the metadata database; to git on the control node.
OF_SEVERAL_LINES = {"airflow_environment", "airflow_variables", "airflow_dags_git_key", "airflow_dags_git_known_hosts"}


def shaped(name: str, spec: dict[str, Any], text: str) -> list[Any]:
    """Values of a variable's type with a text in them, as a value and as a name."""
    kind = spec.get("type", "str")
    if name in ("airflow_config", "airflow_service_options"):
        part = {"airflow_config": "core", "airflow_service_options": "worker"}[name]
        return [{part: {"Option": text}}, {part: {text: "x"}}, {text: {"Option": "x"}}]
    if kind == "dict":
        return [{"name": text}, {text: "x"}, {"name": [text]}]
    if kind == "list" and "options" in spec:
        item = dict.fromkeys(spec["options"], "x")
        return [[{**item, key: text}] for key in item]
    return [[text]] if kind == "list" else [text]


def problems(name: str, value: Any) -> list[Problem]:
    """Problems of an inventory that sets one variable, those that are about it."""
    hosts = {group: ["box"] for group in ("postgresql", "schedulers", "webservers", "dag_processors")}
    inventory = Inventory(hosts, {"box": {name: value}})
    found = check_inventory(inventory, Catalogue(options=OPTIONS))
    return [problem for problem in found if name in problem.subject or "address of box" in problem.subject]


@pytest.mark.parametrize("name", sorted(set(EVERY) - OF_SEVERAL_LINES))
def test_a_line_break_is_refused_in_every_variable(name: str) -> None:
    for value in shaped(name, EVERY[name], HOSTILE):
        found = problems(name, value)
        assert found, value
        assert not any("\nExecStartPre" in str(problem) for problem in found), "the report keeps its own lines"


@pytest.mark.parametrize("name", sorted(name for name, spec in EVERY.items() if spec.get("type") == "int"))
@pytest.mark.parametrize("text", ["1\n", " 1", "1e3", "1_000", "0x10", "1;", "{{ 1 }}"])
def test_a_number_is_digits(name: str, text: str) -> None:
    assert problems(name, text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("airflow_environment", {"A\nB": "x"}),
        ("airflow_environment", {"A; touch /tmp/x; B": "x"}),
        ("airflow_environment", {"A-B": "x"}),
        ("airflow_environment", {"A": "\0"}),
        ("airflow_config", {"core]\n[x": {"a": 1}}),
        ("airflow_config", {"core": {"a = 1\nb": 1}}),
        ("airflow_config", {"core": {"a=b": 1}}),
        ("airflow_config", {"core": {"#a": 1}}),
        ("airflow_config", {"core": {"a": "1\rb = 2"}}),
        ("airflow_config", {"core": 1}),
        ("airflow_service_options", {"worker": {"A=b\nC": "x"}}),
        ("airflow_service_options", {"worker": {"A": ["x", "y\nExecStart=/bin/false"]}}),
        ("airflow_service_options", {"worker": {"A": "x\\"}}),
        ("airflow_service_options", {"worker": ["A=b"]}),
        ("postgresql_service_options", {"A": "x\\"}),
        ("redis_service_options", {"A B": "x"}),
        ("postgresql_parameters", {"a = 'x'\nb": 1}),
        ("postgresql_parameters", {"a": "x\nb"}),
        ("postgresql_hba_entries", [{"type": "host", "database": 'a" all all trust', "user": "x", "method": "md5"}]),
        ("postgresql_hba_entries", [{"type": "host", "database": "a", "user": "x\nhost all", "method": "md5"}]),
        ("postgresql_hba_entries", [{"type": "host", "database": "a", "user": "x", "address": "all t", "method": "x"}]),
        ("postgresql_hba_entries", [{"type": "local", "database": "a", "user": "x", "method": "md5\\"}]),
        ("redis_config", {"timeout": ["1", "2\nrequirepass x"]}),
        ("redis_config", {"timeout 1\nsave": "x"}),
        ("airflow_worker_queues", ["a", "b --pid /tmp/x"]),
        ("airflow_worker_queues", ["a,b"]),
        ("airflow_worker_queues", ["%n"]),
        ("airflow_worker_queues", ["-x"]),
        ("airflow_worker_queues", ["$HOME"]),
        ("airflow_worker_queues", ["'"]),
        ("airflow_worker_instances", {"gpu": {"queues": ["a b"]}}),
        ("airflow_python", "/usr/bin/python3 -c x"),
        ("airflow_python", "%h/python"),
        ("airflow_version", "../3"),
        ("cluster_database_user", 'a"b'),
        ("cluster_database_user", "/.*"),
        ("cluster_database_user", "u" * 62),
        ("cluster_database_name", "a?sslmode=disable"),
        ("cluster_database_name", "a/b"),
        ("cluster_redis_user", "a on nopass"),
        ("cluster_redis_flower_user", "a ~* +@all"),
    ],
)
def test_what_would_become_something_else_is_refused(name: str, value: Any) -> None:
    assert problems(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("airflow_environment", {"A": "several\nlines \" ' $ ` \\ {{ x }} %s", "_b2": 1, "C": None}),
        ("airflow_config", {"core": {"a": "100 % ; # {{ x }} \t \x1b[0m", "b": ["x\ny"], "c": None, "d": {"x": "\n"}}}),
        ("airflow_config", {"team_a=celery": {"a": 1}, "DEFAULT": {"x.y-z": True}}),
        ("airflow_service_options", {"worker": {"Environment": ["A=%h", 'B="x y"'], "TasksMax": 4, "X": None}}),
        ("postgresql_parameters", {"log_line_prefix": "%m [%p] 'x' \\ \" {{ x }}", "pg_stat_statements.max": 5}),
        ("postgresql_hba_entries", [{"type": "host", "database": "all", "user": "@x y", "address": "::1/128"}]),
        ("postgresql_hba_entries", [{"type": "local", "database": "a", "user": "x", "method": 'ldap dn="a b"'}]),
        ("redis_config", {"save": ['""', "60 1"], "timeout": 0, "appendonly": True}),
    ],
)
def test_what_arrives_as_it_is_passes(name: str, value: Any) -> None:
    assert list(misread(name, value)) == []


def test_findings_hold_no_values() -> None:
    for value in ({"KEY": "s3cret\0"}, {"core": {"a": "s3cret\n"}}):
        for name in ("airflow_environment", "airflow_config"):
            assert "s3cret" not in str(list(misread(name, value)))


@pytest.mark.parametrize("host", ["web 1", "web\n1", "%n", "-x", "a,b", "a'b", "::1", "a;b"])
def test_a_host_of_another_name_is_refused(host: str) -> None:
    groups = {group: [host] for group in ("postgresql", "schedulers", "webservers", "dag_processors")}
    inventory = Inventory(groups, {host: {"cluster_address": "10.0.0.1"}})
    found = check_inventory(inventory, Catalogue(options=OPTIONS))
    assert [problem for problem in found if problem.subject.startswith("host ")]


def test_ordinary_names_pass() -> None:
    assert all(HOST.fullmatch(name) for name in ("worker1", "w-1.example.org", "10.0.0.3", "a_b"))
    assert all(QUEUE.fullmatch(name) for name in ("default", "gpu-2", "team/a", "x:y", "a.b", "m@h"))


@pytest.mark.parametrize(
    ("variables", "wrong"),
    [
        ({"cluster_redis_user": "admin"}, ["cluster_redis_user"]),
        ({"cluster_redis_flower_user": "default"}, ["cluster_redis_flower_user"]),
        ({"cluster_redis_user": "x", "cluster_redis_flower_user": "x"}, ["cluster_redis_flower_user"]),
        ({"cluster_redis_user": "x", "cluster_redis_flower_user": "y"}, []),
    ],
)
def test_the_users_of_redis_are_three(variables: dict[str, str], wrong: list[str]) -> None:
    for redis, expected in ((["box"], wrong), ([], [])):
        inventory = Inventory({"redis": redis, "workers": ["box"]}, {"box": variables})
        found = check_redis_users(inventory, Catalogue(options=OPTIONS))
        assert [problem.subject for problem in found] == expected
