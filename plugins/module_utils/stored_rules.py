# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Rules for what is kept in the metadata database: pools, variables, connections, roles and users."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.dataops.airflow.plugins.module_utils import stored_settings
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    STORED,
    Catalogue,
    Inventory,
    origin_of,
    scope_of,
    subject_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.problems import (
    Problem,
    described,
    did_you_mean,
    shown_type,
    shown_value,
)
from ansible_collections.dataops.airflow.plugins.module_utils.secret_rules import check_secret

STORED_NAMES = {
    "pools": (r"[^\r\n\0]{1,256}", "text of at most 256 characters"),
    "variables": (r"[^\r\n\0]{1,250}", "text of at most 250 characters"),
    "connections": (r"[A-Za-z0-9_.-]{1,200}", "letters, digits, _, . and -, at most 200"),
    "roles": (r"[^\r\n\0]{1,64}", "text of at most 64 characters"),
    "users": (r"[^\r\n\0]{1,256}", "text of at most 256 characters"),
}
"""What Airflow takes for a name, one line in any case."""

STORED_FIELDS = {
    "size": "slots",
    "type": "conn_type",
    "uri": "conn_type, host, port, login, password, schema and extra",
    "user": "login",
    "username": "login",
    "database": "schema",
    "role": "roles",
    "firstname": "first_name",
    "lastname": "last_name",
    "val": "value",
}
"""Names that people write for a field, and that are too far from the right one for difflib."""


def check_stored(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check what is to be kept in the metadata database: pools, variables, connections, roles and users."""
    hosts_by_problem: dict[tuple[str, str, str, str, str], list[str]] = {}
    for kind, variable in STORED.items():
        for host, entries in inventory.settings(variable).items():
            twins = _twins(entries) if kind == "users" and isinstance(entries, Mapping) else []
            for name, entry in entries.items() if isinstance(entries, Mapping) else ():
                for problem in _check_entry(kind, name, entry, inventory, catalogue):
                    hosts_by_problem.setdefault((variable, *problem), []).append(host)
            for problem in twins:
                hosts_by_problem.setdefault((variable, *problem), []).append(host)
    return [
        Problem(
            f"{variable}, {subject} on {scope_of(inventory, hosts)}",
            f"{found}{origin_of(inventory, variable, hosts)}",
            allowed,
            remedy,
        )
        for (variable, subject, found, allowed, remedy), hosts in hosts_by_problem.items()
    ]


def _twins(entries: Mapping[Any, Any]) -> list[tuple[str, str, str, str]]:
    """Return (subject, found, allowed, remedy) of users whom Airflow would not tell apart."""
    by_name: dict[str, list[str]] = {}
    for name in map(str, entries):
        by_name.setdefault(name.lower(), []).append(name)
    return [
        (" and ".join(names), "one name to Airflow, for which A is a", "a name for each user", "remove or rename one")
        for names in by_name.values()
        if len(names) > 1
    ]


def _check_entry(
    kind: str, name: Any, entry: Any, inventory: Inventory, catalogue: Catalogue
) -> list[tuple[str, str, str, str]]:
    """Return (subject, found, allowed, remedy) of all that is wrong with one object; no values of fields."""
    fields = stored_settings.FIELDS[kind]
    keys = ", ".join(fields)
    pattern, meant = STORED_NAMES[kind]
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        return [(f"name {shown_value(name)}", shown_type(name), meant, "rename it; put digits alone in quotes")]
    reserved = _check_reserved(kind, name, inventory, catalogue)
    if reserved:
        return [(name, *reserved)]
    if kind == "variables" and isinstance(entry, (str, int, float)):
        return []
    if not isinstance(entry, Mapping):
        found = "nothing (null)" if entry is None else shown_type(entry)
        short = "text, a number, true or false; or " if kind == "variables" else ""
        remedy = f"write {{value: ...}} as the entry of {name}" if kind == "variables" else f"write {name}: {{...}}"
        return [(name, found, f"{short}a dictionary with the keys {keys}", remedy)]
    problems = []
    for key, spec in fields.items():
        value = entry.get(key)
        if value is None and spec.get("required"):
            example = ", such as postgres, http or ssh" if key == "conn_type" else ""
            found = "nothing (null)" if key in entry else "missing"
            problems.append((f"{name}.{key}", found, f"{described(spec)}{example}", f"write {key}: ..."))
        elif value is not None:
            wrong = _check_field(kind, name, key, value, inventory, catalogue)
            if wrong:
                problems.append((f"{name}.{key}", *wrong))
    for key in entry:
        if key not in fields:
            meant = STORED_FIELDS.get(str(key), "")
            remedy = (
                f"write {meant} instead" if meant and meant.split(",")[0] in fields else did_you_mean(str(key), fields)
            )
            problems.append((f"{name}.{key}", "no such field", keys, remedy or "remove it"))
    return problems


def _check_reserved(kind: str, name: str, inventory: Inventory, catalogue: Catalogue) -> tuple[str, str, str] | None:
    """Return (found, allowed, remedy) for an object that is not an inventory's to describe, else None."""
    if kind == "pools" and name == stored_settings.DEFAULT_POOL:
        return (
            "Airflow's own pool",
            "other pools: the slots of this one follow the workers",
            "remove it; to choose its slots, set airflow_config to {core: {default_pool_task_slot_count: 64}}",
        )
    if kind == "roles" and name in stored_settings.BUILT_IN_ROLES:
        return (
            "a role that Airflow gives its permissions itself",
            f"other roles than {', '.join(stored_settings.BUILT_IN_ROLES)}",
            "give what is missing to a role of your own, and that one to the users as well",
        )
    if kind == "users" and name.lower() == str(inventory.value("airflow_admin_username", catalogue.defaults)).lower():
        return (
            "the administrator",
            "other users",
            "remove it; set airflow_admin_password and airflow_admin_email",
        )
    return None


def _check_field(
    kind: str, name: str, field: str, value: Any, inventory: Inventory, catalogue: Catalogue
) -> tuple[str, str, str] | None:
    """Return (found, allowed, remedy) if one field is wrong, else None. No value of a secret is in it."""
    spec = stored_settings.FIELDS[kind][field]
    secret = (kind, field) in stored_settings.SECRET
    shown = shown_type(value) if secret else shown_value(value)
    correct = f"correct {field} of {name}"
    if spec["type"] == "str" and not isinstance(value, str):
        return shown_type(value), "text", "put it in quotes"
    if spec["type"] == "dict" and not isinstance(value, Mapping):
        return shown_type(value), "a dictionary", "write it as YAML; for a JSON text, use the filter from_json"
    if spec["type"] == "bool" and not isinstance(value, bool):
        return shown, "true or false", correct
    if spec["type"] == "int":
        number = int(value) if not isinstance(value, (bool, float)) and re.fullmatch("-?[0-9]+", str(value)) else None
        least, most = (1, 65535) if field == "port" else (1, 2**31 - 1)
        if number is None or not least <= number <= most:
            return shown, f"an integer, {least} to {most}" if field == "port" else f"an integer >= {least}", correct
    if field == "conn_type" and not value.strip():
        return shown, "a type of connection, such as postgres, http or ssh", correct
    if kind == "roles":
        return _check_permissions(value)
    if kind == "users":
        return _check_user(name, field, value, inventory, catalogue)
    return None


def _check_permissions(permissions: Mapping[Any, Any]) -> tuple[str, str, str] | None:
    """Return (found, allowed, remedy) if the permissions of a role are not resources with lists of actions."""
    allowed = f"resources such as DAGs or Connections, each with a list of {', '.join(stored_settings.ACTIONS)}"
    for resource, actions in permissions.items():
        unknown = [a for a in actions if a not in stored_settings.ACTIONS] if isinstance(actions, list) else [actions]
        if not isinstance(resource, str) or unknown:
            remedy = did_you_mean(str(unknown[0]), stored_settings.ACTIONS) if unknown else "put the name in quotes"
            found = f"{shown_value(resource)} with {shown_value(unknown[0]) if unknown else 'actions'}"
            return found, allowed, remedy or f"write {resource}: [can_read]"
    return None


def _check_user(
    name: str, field: str, value: Any, inventory: Inventory, catalogue: Catalogue
) -> tuple[str, str, str] | None:
    """Return (found, allowed, remedy) if the password, the address or the roles of a user are wrong, else None."""
    if field == "password":
        wrong = check_secret(f"{name}.password", value, {name.lower()})
        return (
            (*wrong, f"choose another one, and keep it in the vault, as a variable that {field} refers to")
            if wrong
            else None
        )
    if field == "email":
        others = [str(inventory.value("airflow_admin_email", catalogue.defaults)).lower()]
        users = inventory.value(STORED["users"], {})
        others += [
            str(entry.get("email")).lower()
            for other, entry in users.items()
            if other != name and isinstance(entry, Mapping)
        ]
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", value):
            return shown_value(value), "an address with one @, such as ada@example.org", f"correct email of {name}"
        if value.lower() in others:
            return (
                f"{shown_value(value)}, which another user has",
                "an address of each user's own",
                f"correct email of {name}",
            )
    if field == "roles":
        own = inventory.value(STORED["roles"], {})
        known = [*stored_settings.BUILT_IN_ROLES, *(own if isinstance(own, Mapping) else ())]
        unknown = [role for role in value if role not in known] if isinstance(value, list) else [value]
        if unknown or not value:
            remedy = did_you_mean(str(unknown[0]), known) if unknown and isinstance(value, list) else ""
            return (
                ", ".join(map(shown_value, unknown)) or "an empty list",
                f"a list of roles: {', '.join(known)}",
                remedy or "add the role to airflow_roles, or write roles: [Viewer]",
            )
    return None


def check_purge(inventory: Inventory) -> list[Problem]:
    """Check that nobody purges what the inventory says nothing about, which would remove all of it."""
    purge: Any = inventory.value("airflow_purge", {})
    return [
        Problem(
            subject_of(inventory, "airflow_purge"),
            f"{kind}, and no {STORED[kind]} in the inventory: all {kind} would be removed",
            f"kinds whose variable is set, if only to {{}}; {stored_settings.EXAMPLES} alone needs none",
            f"set {STORED[kind]}, or take {kind} out of airflow_purge",
        )
        for kind in (purge if isinstance(purge, list) else ())
        if kind in STORED and not inventory.settings(STORED[kind]) and not inventory.fails(STORED[kind])
    ]
