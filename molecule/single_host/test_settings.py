"""Pools, variables, connections, roles and users are as the inventory has them, and nobody sees their secrets."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import INVENTORY, Api, Cluster, changes, leaked, restarted

FILE = "group_vars/all/settings.yml"
PLAYBOOK = "playbooks/settings.yml"
# What a shell, a URL, JSON, YAML, a template, SQL or a format might take for something of its own.
AWKWARD = "@:/%#'\" $HOME `x` {{ no }} {% no %} \\n %(a)s %s ; -- äß€ "
VALUES = {
    "variable": f"{AWKWARD}{secrets.token_hex(8)}",
    "connection": f"{AWKWARD}{secrets.token_hex(8)}",
    "extra": f"{AWKWARD}{secrets.token_hex(8)}",
    "ada": f"{AWKWARD}{secrets.token_hex(8)}",
    "ada_later": f"{AWKWARD}{secrets.token_hex(8)}",
}
ALL = ["pools", "variables", "connections", "roles", "users"]


class Unsafe(str):
    """Text that Ansible must not take for a template."""


yaml.SafeDumper.add_representer(Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style='"'))


def wanted(cluster: Cluster, **changed: Any) -> dict[str, Any]:
    """Variables of the inventory, some of them changed."""
    settings: dict[str, Any] = {
        "airflow_pools": {"reports": {"slots": 3, "description": Unsafe(AWKWARD)}},
        "airflow_variables": {
            "plain": {"value": Unsafe(VALUES["variable"]), "description": "any text"},
            "limits": {"value": {"rows": 5, "names": [Unsafe(AWKWARD)]}},
            "enabled": True,
        },
        "airflow_connections": {
            # The password is that of the database, so that it can be tried.
            "warehouse": {
                "conn_type": "postgres",
                "host": cluster.address(cluster.members("postgresql")[0]),
                "port": 5432,
                "schema": "airflow",
                "login": "airflow",
                "password": "{{ cluster_database_password }}",
            },
            "awkward": {
                "conn_type": "http",
                "password": Unsafe(VALUES["connection"]),
                "extra": {"token": Unsafe(VALUES["extra"])},
            },
        },
        "airflow_roles": {"operators": {"permissions": {"Pools": ["can_read", "can_edit"]}}},
        "airflow_users": {
            "ada": {
                "email": "ada@example.org",
                "first_name": "Ada",
                "last_name": "Lovelace",
                "roles": ["operators", "Viewer"],
                "password": Unsafe(VALUES["ada"]),
            }
        },
        **changed,
    }
    return settings


def write(cluster: Cluster, settings: dict[str, Any]) -> None:
    """Put the variables into the inventory."""
    cluster.change(FILE, yaml.safe_dump(settings, allow_unicode=True))


def statuses(url: str, username: str, *passwords: str) -> list[bool]:
    """Whether each password lets a user in."""
    stranger = Api.__new__(Api)
    stranger.url, stranger.headers = url, {}
    bodies = [{"username": username, "password": password} for password in passwords]
    return [stranger.ask("POST", "/auth/token", body)[0] == 201 for body in bodies]


def in_airflow(cluster: Cluster, code: str) -> Any:
    """What a program prints as JSON that runs as Airflow does."""
    start = (
        "set -a; . /etc/airflow/cli.env; cd /var/lib/airflow; setpriv --reuid=airflow --regid=airflow --init-groups "
    )
    done = cluster.host(cluster.members("schedulers")[0]).run(f"{start} /opt/airflow/current/bin/python -c %s", code)
    assert done.rc == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def names(api: Api, kind: str) -> set[str]:
    """What the API lists of a kind."""
    path, key = {
        "pools": ("/api/v2/pools", "name"),
        "variables": ("/api/v2/variables", "key"),
        "connections": ("/api/v2/connections", "connection_id"),
        "roles": ("/auth/fab/v1/roles", "name"),
        "users": ("/auth/fab/v1/users", "username"),
    }[kind]
    status, answer = api.ask("GET", f"{path}?limit=100")
    assert status == 200, answer
    return {entry[key] for entry in answer[kind]}


@pytest.fixture(scope="module", autouse=True)
def clean(cluster: Cluster, api: Api) -> Iterator[None]:
    """Leave nothing behind."""
    before = {kind: names(api, kind) for kind in ALL}
    yield
    write(cluster, {f"airflow_{kind}": {} for kind in ALL} | {"airflow_purge": [*ALL, "default_connections"]})
    cluster.play(PLAYBOOK)
    after = {kind: names(api, kind) for kind in ALL}
    (INVENTORY / FILE).unlink()
    assert after["pools"] == {"default_pool"} and after["users"] == {"admin"}
    assert after["roles"] == {"Admin", "Op", "Public", "User", "Viewer"}
    assert not after["variables"] and not after["connections"]
    assert all(after[kind] <= before[kind] for kind in ALL)


def test_a_check_shows_everything_and_makes_nothing(cluster: Cluster, api: Api) -> None:
    write(cluster, wanted(cluster))
    output = cluster.play(PLAYBOOK, "--check", "--diff", "-vvv")
    for line in (
        "+pools.reports.slots: 3",
        "+variables.plain.value: (hidden)",
        '+connections.warehouse.conn_type: "postgres"',
        "+connections.warehouse.password: (hidden)",
        "+roles.operators.permissions.Pools: can_edit, can_read",
        '+users.ada.roles: ["Viewer", "operators"]',
    ):
        assert line in output, line
    assert changes(output) == 1
    assert leaked({**cluster.secrets, **VALUES}, output) == []
    assert "reports" not in names(api, "pools") and "ada" not in names(api, "users")


def test_everything_is_applied_in_seconds_and_nothing_restarts(cluster: Cluster, api: Api, web_url: str) -> None:
    before, start = cluster.started(), time.monotonic()
    output = cluster.play(PLAYBOOK, "--diff", "-vvv")
    print(f"applied in {time.monotonic() - start:.1f} s")
    assert changes(output) == 1
    assert leaked({**cluster.secrets, **VALUES}, output) == []
    assert leaked({"x": "warehouse"}, output) == ["x"]
    assert restarted(before, cluster.started()) == set()

    pool = api.ask("GET", "/api/v2/pools/reports")[1]
    assert (pool["slots"], pool["description"], pool["include_deferred"]) == (3, AWKWARD, False)
    assert api.ask("GET", "/api/v2/variables/plain")[1]["value"] == VALUES["variable"]
    assert json.loads(api.ask("GET", "/api/v2/variables/limits")[1]["value"]) == {"rows": 5, "names": [AWKWARD]}
    assert api.ask("GET", "/api/v2/variables/enabled")[1]["value"] == "true"
    assert api.ask("GET", "/api/v2/connections/warehouse")[1]["login"] == "airflow"
    assert statuses(web_url, "ada", VALUES["ada"], VALUES["ada"] + "x") == [True, False]


def test_a_second_run_changes_nothing(cluster: Cluster) -> None:
    start = time.monotonic()
    assert changes(cluster.play(PLAYBOOK, "--diff")) == 0
    print(f"compared in {time.monotonic() - start:.1f} s")
    # Airflow gives custom roles a permission when an API server starts: no change either.
    host = cluster.host(cluster.members("webservers")[0])
    host.check_output("systemctl restart airflow-api-server")
    assert changes(cluster.play("site.yml", "--diff")) == 0


def test_passwords_work_and_are_literal(cluster: Cluster) -> None:
    seen = in_airflow(
        cluster,
        "import json, psycopg2\n"
        "from airflow.models import Connection, Variable\n"
        "own, found = map(Connection.get_connection_from_secrets, ('warehouse', 'awkward'))\n"
        "login = {'user': own.login, 'password': own.password}\n"
        "cursor = psycopg2.connect(host=own.host, port=own.port, dbname=own.schema, **login).cursor()\n"
        "cursor.execute('SELECT current_user')\n"
        "print(json.dumps([cursor.fetchone()[0], found.password,"
        " found.extra_dejson, Variable.get('limits', deserialize_json=True), Variable.get('plain')]))",
    )
    awkward = [VALUES["connection"], {"token": VALUES["extra"]}, {"rows": 5, "names": [AWKWARD]}, VALUES["variable"]]
    assert seen == ["airflow", *awkward]


def test_a_user_may_do_what_the_roles_allow(cluster: Cluster, web_url: str) -> None:
    ada = Api(web_url, "ada", VALUES["ada"])
    assert ada.ask("GET", "/api/v2/dags")[0] == 200
    pool = {"pool": "reports", "slots": 4, "description": AWKWARD, "include_deferred": False}
    assert ada.ask("PATCH", "/api/v2/pools/reports", pool)[0] == 200
    assert ada.ask("GET", "/api/v2/connections")[0] == 403
    # Put back what was changed by hand, and nothing else.
    output = cluster.play(PLAYBOOK, "--diff")
    assert "-pools.reports.slots: 4" in output and "+pools.reports.slots: 3" in output
    assert changes(output) == 1 and "variables." not in output


def test_a_users_password_follows_the_inventory(cluster: Cluster, web_url: str) -> None:
    users = wanted(cluster)["airflow_users"]
    users["ada"] |= {"password": Unsafe(VALUES["ada_later"]), "last_name": "King"}
    write(cluster, wanted(cluster, airflow_users=users))
    output = cluster.play(PLAYBOOK, "--check", "--diff", "-vvv")
    assert "+users.ada.password: (hidden), changed" in output
    assert statuses(web_url, "ada", VALUES["ada"], VALUES["ada_later"]) == [True, False], "only checked"
    output += cluster.play(PLAYBOOK, "--diff", "-vvv")
    assert statuses(web_url, "ada", VALUES["ada"], VALUES["ada_later"]) == [False, True]
    assert leaked({**cluster.secrets, **VALUES}, output) == []
    assert changes(cluster.play(PLAYBOOK)) == 0


def test_the_administrators_password_follows_the_inventory(cluster: Cluster, web_url: str) -> None:
    vault: Path = INVENTORY / "group_vars/all/vault.yml"
    text, old = vault.read_text(), cluster.secrets["airflow_admin_password"]
    later = secrets.token_urlsafe(24)
    assert old in text
    try:
        vault.write_text(text.replace(old, later))
        output = cluster.play(PLAYBOOK, "-vvv")
        assert statuses(web_url, "admin", old, later) == [False, True]
        assert leaked({"old": old, "later": later}, output) == []
    finally:
        vault.write_text(text)
        cluster.play(PLAYBOOK)
    assert statuses(web_url, "admin", old, later) == [True, False]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"airflow_pools": {"reports": {"slots": 9}, "small": {"slots": 0}}},
            ("airflow_pools, small.slots", "found:   0", "allowed: an integer >= 1", "remedy:  correct slots"),
        ),
        (
            {"airflow_connections": {"typeless": {"host": "x"}}, "airflow_pools": {"reports": {"slots": 9}}},
            ("typeless.conn_type", "found:   missing", "allowed: text, such as postgres", "remedy:  write conn_type"),
        ),
        (
            {
                "airflow_roles": {"r": {"permissions": {"Pool": ["can_read"]}}},
                "airflow_pools": {"reports": {"slots": 9}},
            },
            ("airflow_roles, r", 'can_read on "Pool"', "allowed: ", "remedy:  did you mean Pools?"),
        ),
    ],
)
def test_bad_input_changes_nothing(cluster: Cluster, api: Api, wrong: dict[str, Any], words: tuple[str, ...]) -> None:
    users = wanted(cluster)["airflow_users"]
    users["ada"]["roles"] = ["Viewer"]
    write(cluster, wanted(cluster, airflow_users=users, **wrong))
    output = cluster.play(PLAYBOOK, succeeds=False).replace("\\n", "\n").replace('\\"', '"')
    assert "Nothing was changed" in output
    for word in words:
        assert word in output, word
    assert api.ask("GET", "/api/v2/pools/reports")[1]["slots"] == 3
    assert {role["name"] for role in api.ask("GET", "/auth/fab/v1/users/ada")[1]["roles"]} == {"Viewer", "operators"}


def test_only_what_is_asked_is_removed(cluster: Cluster, api: Api) -> None:
    assert api.ask("POST", "/api/v2/pools", {"name": "by/hand", "slots": 2})[0] == 201
    assert api.ask("POST", "/api/v2/variables", {"key": "by_hand", "value": "x"})[0] == 201
    assert api.ask("POST", "/api/v2/connections", {"connection_id": "aws_default", "conn_type": "aws"})[0] == 201
    assert api.ask("POST", "/api/v2/connections", {"connection_id": "by_hand", "conn_type": "aws"})[0] == 201
    user = {"username": "eve", "email": "eve@example.org", "first_name": "E", "last_name": "V", "password": "x" * 12}
    assert api.ask("POST", "/auth/fab/v1/users", {**user, "roles": [{"name": "operators"}]})[0] in (200, 201)
    everything = {kind: names(api, kind) for kind in ALL}

    write(cluster, wanted(cluster))
    cluster.play(PLAYBOOK)
    assert {kind: names(api, kind) for kind in ALL} == everything, "nobody asked"

    write(cluster, wanted(cluster, airflow_purge=["pools", "connections", "users"]))
    output = cluster.play(PLAYBOOK, "--check", "--diff")
    assert "-pools.by/hand.slots: 2" in output and "-users.eve.email" in output
    assert {kind: names(api, kind) for kind in ALL} == everything, "only checked"
    cluster.play(PLAYBOOK)
    # What other tests left behind goes, too.
    assert names(api, "pools") == {"default_pool", "reports"}
    assert names(api, "users") == {"admin", "ada"}
    assert {name for name in names(api, "connections") if not name.endswith("_default")} == {"warehouse", "awkward"}
    assert "aws_default" in names(api, "connections")
    assert {kind: names(api, kind) for kind in ("variables", "roles")} == {
        kind: everything[kind] for kind in ("variables", "roles")
    }
    assert changes(cluster.play(PLAYBOOK)) == 0

    write(cluster, wanted(cluster, airflow_purge=["default_connections"]))
    cluster.play(PLAYBOOK)
    assert "aws_default" not in names(api, "connections") and "by_hand" in names(api, "variables")
