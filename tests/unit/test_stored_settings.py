"""stored_settings: what is compared, what is removed, what is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils import stored_settings as stored
from ansible_collections.dataops.airflow.plugins.module_utils.stored_settings import (
    HIDDEN,
    KINDS,
    UNREADABLE,
    Change,
    RefusedError,
    Settings,
    as_stored,
    hide,
    normal,
    plan,
    refuse,
    report,
    same,
)

AWKWARD = "hunter2 '\"$`{{ x }}\\ äß"
ADA = {"password": AWKWARD, "email": "ada@example.org", "roles": ["Viewer", "Op"]}
WANTED: dict[str, dict[str, Any]] = {
    "pools": {"reports": {"slots": "4"}},
    "variables": {"region": "north", "limits": {"value": {"a": [1, AWKWARD]}}},
    "connections": {"warehouse": {"conn_type": "postgres", "host": "db", "password": AWKWARD, "extra": {"k": AWKWARD}}},
    "roles": {"operators": {"permissions": {"Pools": ["can_edit", "can_read"]}}},
    "users": {"ada": ADA},
}
EMPTY: Settings = {kind: {} for kind in KINDS}


def settings(**kinds: dict[str, Any]) -> Settings:
    """Settings with nothing but these, complete."""
    return {kind: {name: normal(kind, name, entry) for name, entry in kinds.get(kind, {}).items()} for kind in KINDS}


def kept(**kinds: dict[str, Any]) -> Settings:
    """What the database holds after such settings were written to it."""
    found = settings(**kinds)
    for fields in found["variables"].values():
        fields["value"] = stored.text_of(fields["value"])
    for fields in found["connections"].values():
        fields["extra"] = json.dumps(fields["extra"]) if fields["extra"] else None
    return found


def changed(before: Settings, wanted: Settings, *purge: str) -> list[str]:
    """What would be done, such as `pools.reports created`."""
    return [f"{c.kind}.{c.name} {c.action}" for c in plan(before, wanted, purge, "admin", ["aws_default"])]


def test_users_are_found_whatever_the_case_of_their_names() -> None:
    assert [as_stored(name, ["Ada", "bob"]) for name in ("ada", "BOB", "eve")] == ["Ada", "bob", "eve"]


def test_what_an_entry_leaves_out_is_airflows_default() -> None:
    assert normal("pools", "p", {"slots": "4"}) == {"slots": 4, "description": None, "include_deferred": False}
    assert normal("variables", "v", 5) == {"value": 5, "description": None}
    user = normal("users", "ada", ADA)
    assert (user["first_name"], user["last_name"], user["active"], user["roles"]) == ("ada", "", True, ["Op", "Viewer"])
    assert normal("users", "ada", {**ADA, "active": False})["active"] is False
    assert normal("roles", "r", {"permissions": {}})["permissions"] == {"Website": ["can_read"]}


def test_what_was_written_is_not_written_again() -> None:
    assert changed(EMPTY, settings(**WANTED)) == [
        "pools.reports created",
        "variables.region created",
        "variables.limits created",
        "connections.warehouse created",
        "roles.operators created",
        "users.ada created",
    ]
    assert changed(kept(**WANTED), settings(**WANTED)) == []


@pytest.mark.parametrize(
    ("kind", "field", "found", "wanted", "equal"),
    [
        ("pools", "description", "", None, True),
        ("pools", "slots", 4, 5, False),
        ("pools", "slots", 0, 1, False),
        ("variables", "value", "5", 5, True),
        ("variables", "value", "true", True, True),
        ("variables", "value", "True", True, False),
        ("variables", "value", " 5", "5", False),
        ("variables", "value", '{"a":1}', {"a": 1}, True),
        ("variables", "value", '{"a":1}', '{"a": 1}', False),
        ("variables", "value", "[]", [], True),
        ("variables", "value", "{}", [], False),
        ("variables", "value", '{"a":1}', {"a": True}, False),
        ("variables", "value", None, {}, False),
        ("variables", "value", "{a}", {"a": 1}, False),
        ("variables", "value", None, "", False),
        ("variables", "value", UNREADABLE, "", False),
        ("connections", "extra", "", None, True),
        ("connections", "extra", "{}", {}, True),
        ("connections", "extra", '{"b":2,"a":1}', {"a": 1, "b": 2}, True),
        ("connections", "extra", "text", None, False),
        ("connections", "password", None, "", True),
        ("connections", "password", UNREADABLE, None, False),
        ("connections", "password", "x", None, False),
        ("users", "active", False, True, False),
        ("roles", "permissions", {"Pools": ["can_read"]}, {"Pools": ["can_read"]}, True),
        ("roles", "permissions", {"Pools": ["can_read"]}, {"Pools": ["can_edit", "can_read"]}, False),
        ("roles", "permissions", {"Jobs": ["can_read"]}, {}, False),
        # A DAG's own access_control gave it, until the inventory names the DAG.
        ("roles", "permissions", {"DAG:seed": ["can_read"]}, {}, True),
        ("roles", "permissions", {"DAG:seed": ["can_read"]}, {"DAG:seed": []}, False),
        ("roles", "permissions", {}, {"DAG:seed": []}, True),
    ],
)
def test_what_counts_as_the_same(kind: str, field: str, found: Any, wanted: Any, equal: bool) -> None:
    assert same(kind, field, found, wanted) is equal


def test_only_what_differs_is_changed() -> None:
    wanted = {**WANTED, "pools": {"reports": {"slots": 5}}, "users": {"ada": {**ADA, "password": "another"}}}
    before = kept(**WANTED)
    before["users"]["ada"]["password"] = HIDDEN
    changes = plan(before, settings(**wanted), [], "admin", [])
    assert [(c.name, c.fields) for c in changes] == [("reports", ["slots"]), ("ada", ["password"])]


def test_nothing_is_removed_unless_asked() -> None:
    before = kept(**WANTED)
    assert changed(before, EMPTY) == []
    assert changed(before, EMPTY, "pools") == ["pools.reports removed"]
    # Users before the roles that they have.
    assert changed(before, EMPTY, *KINDS) == [
        "users.ada removed",
        "roles.operators removed",
        "connections.warehouse removed",
        "variables.limits removed",
        "variables.region removed",
        "pools.reports removed",
    ]


def test_what_is_airflows_own_stays() -> None:
    before = kept(
        pools={"default_pool": {"slots": 1}},
        connections={"aws_default": {"conn_type": "aws"}, "own": {"conn_type": "aws"}},
        roles={role: {"permissions": {}} for role in stored.BUILT_IN_ROLES},
        users={"admin": ADA},
    )
    assert changed(before, EMPTY, *KINDS) == ["connections.own removed"]
    assert changed(before, EMPTY, "default_connections") == ["connections.aws_default removed"]
    listed = settings(connections={"aws_default": {"conn_type": "aws"}})
    assert changed(before, listed, "default_connections") == []


def test_no_secret_is_shown() -> None:
    wanted = {**WANTED, "connections": {"warehouse": {"conn_type": "http", "password": "hunter3 new"}}}
    for before, after in ((EMPTY, settings(**WANTED)), (kept(**WANTED), settings(**wanted)), (kept(**WANTED), EMPTY)):
        text = json.dumps(report(plan(before, after, KINDS, "admin", [])))
        assert "hunter" not in text and "north" not in text
        assert HIDDEN in text


def test_the_diff_tells_what_changes() -> None:
    wanted = {**WANTED, "connections": {"warehouse": {"conn_type": "postgres", "host": "db2", "password": "hunter3"}}}
    diff = report(plan(kept(**WANTED), settings(**wanted), [], "admin", []))["diff"]
    assert diff == {
        "before": 'connections.warehouse.host: "db"\nconnections.warehouse.password: (hidden)\n'
        "connections.warehouse.extra: (hidden)\n",
        "after": 'connections.warehouse.host: "db2"\nconnections.warehouse.password: (hidden), changed\n',
    }
    diff = report(plan(EMPTY, settings(**WANTED), [], "admin", []))["diff"]
    assert diff["before"] == ""
    for line in ("pools.reports.slots: 4", "variables.region.value: (hidden)", 'users.ada.roles: ["Op", "Viewer"]'):
        assert f"{line}\n" in diff["after"], line
    assert "roles.operators.permissions.Pools: can_edit, can_read\n" in diff["after"]


def test_an_empty_object_is_shown_as_well() -> None:
    change = Change("roles", "bare", {"permissions": {}}, None)
    assert (change.lines(change.before), change.lines(change.after)) == (["roles.bare"], [])


def problems(wanted: Settings, before: Settings | None = None, *purge: str) -> str:
    """What is refused."""
    found = before or kept(roles={"Op": {"permissions": {}}, "Viewer": {"permissions": {}}})
    known = {"Pools": {"can_read", "can_edit"}, "Website": {"can_read"}}
    try:
        refuse(plan(found, wanted, purge, "admin", []), found, known)
    except RefusedError as error:
        return str(error)
    return ""


def test_permissions_that_airflow_does_not_have_are_refused() -> None:
    assert problems(settings(**WANTED)) == ""
    assert problems(settings(roles={"r": {"permissions": {"DAG:new": ["can_read"]}}})) == ""
    said = problems(settings(roles={"r": {"permissions": {"Pool": ["can_read"], "Pools": ["can_delete"]}}}))
    assert 'found:   can_read on "Pool", which' in said and "did you mean Pools?" in said
    assert "can_delete on" in said and "allowed: can_edit, can_read on Pools" in said


def test_users_with_unknown_roles_or_the_address_of_another_are_refused() -> None:
    assert "Viewr, which is no role" in problems(settings(users={"ada": {**ADA, "roles": ["Viewr"]}}))
    before = kept(roles={"Op": {"permissions": {}}, "Viewer": {"permissions": {}}}, users={"hand": ADA})
    assert "the address of hand" in problems(settings(users={"ada": ADA}), before)
    assert problems(settings(users={"ada": ADA}), before, "users") == "", "it is free then"


def test_a_message_has_no_secret() -> None:
    told = {"users": {"ada": {"password": AWKWARD, "roles": ["abc"]}}}
    text = hide(f"DETAIL: {AWKWARD} and {AWKWARD!r} and {json.dumps(AWKWARD)} abc", told)
    assert "hunter2" not in text and text.endswith("abc")
