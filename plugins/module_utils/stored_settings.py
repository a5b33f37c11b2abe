# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Compares the settings in Airflow's metadata database with those that are wanted, and writes what differs.

The module `settings` hands this text to Airflow's interpreter, which has the models and the key that decrypts: the API
shows no password, so that nobody could tell through it whether one differs. It therefore imports nothing of the
collection; what it needs of Airflow it imports when it runs there.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

KINDS = ("pools", "variables", "connections", "roles", "users")
"""What is kept in the database; each after what it refers to."""

EXAMPLES = "default_connections"
"""What Airflow calls the examples that `airflow connections create-default-connections` makes."""

PURGEABLE = (*KINDS, EXAMPLES)

FIELDS: dict[str, dict[str, dict[str, Any]]] = {
    "pools": {
        "slots": {"type": "int", "required": True},
        "description": {"type": "str"},
        "include_deferred": {"type": "bool"},
    },
    "variables": {
        "value": {"type": "raw", "required": True},
        "description": {"type": "str"},
    },
    "connections": {
        "conn_type": {"type": "str", "required": True},
        "description": {"type": "str"},
        "host": {"type": "str"},
        "port": {"type": "int"},
        "schema": {"type": "str"},
        "login": {"type": "str"},
        "password": {"type": "str"},
        "extra": {"type": "dict"},
    },
    "roles": {
        "permissions": {"type": "dict", "required": True},
    },
    "users": {
        "password": {"type": "str", "required": True},
        "email": {"type": "str", "required": True},
        "roles": {"type": "list", "required": True},
        "first_name": {"type": "str"},
        "last_name": {"type": "str"},
        "active": {"type": "bool"},
    },
}
"""What an entry of each kind may hold, under Airflow's own names; what it leaves out is empty."""

SECRET = {("variables", "value"), ("connections", "password"), ("connections", "extra"), ("users", "password")}
"""What is never shown. Any variable may hold a secret."""

BUILT_IN_ROLES = ("Admin", "Op", "Public", "User", "Viewer")
"""Airflow gives these their permissions again whenever an API server starts."""

ACTIONS = ("can_create", "can_read", "can_edit", "can_delete", "menu_access")
ONE_DAG = ("DAG:", "DAG Run:")
"""How the names of resources start that are one DAG."""

DEFAULT_POOL = "default_pool"
HOMEPAGE = ("Website", "can_read")
"""What Airflow gives every role of one's own when an API server starts."""

HIDDEN = "(hidden)"
UNREADABLE = object()
"""Stands for a stored secret that the present Fernet keys do not decrypt."""

Fields = dict[str, Any]
Settings = dict[str, dict[str, Fields]]


class RefusedError(Exception):
    """What is wanted cannot be; nothing was changed."""


def normal(kind: str, name: str, entry: Any) -> Fields:
    """Return all fields of an entry of the inventory, what it leaves out as Airflow's own default."""
    if kind == "variables" and not isinstance(entry, Mapping):
        entry = {"value": entry}
    fields: Fields = {field: entry.get(field) for field in FIELDS[kind]}
    for field, spec in FIELDS[kind].items():
        if spec["type"] == "int" and fields[field] is not None:
            fields[field] = int(fields[field])
    if kind == "pools":
        fields["include_deferred"] = bool(fields["include_deferred"])
    elif kind == "roles":
        permissions = {resource: sorted(set(actions)) for resource, actions in fields["permissions"].items()}
        resource, action = HOMEPAGE
        permissions[resource] = sorted({action, *permissions.get(resource, [])})
        fields["permissions"] = permissions
    elif kind == "users":
        fields["roles"] = sorted(set(fields["roles"]))
        fields["first_name"] = name if fields["first_name"] is None else fields["first_name"]
        fields["last_name"] = fields["last_name"] or ""
        fields["active"] = fields["active"] is not False
    return fields


def text_of(value: Any) -> str:
    """A variable's value as Airflow stores it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, indent=2)


def same(kind: str, field: str, stored: Any, wanted: Any) -> bool:
    """Whether a stored field is as wanted. Nothing and an empty text are the same, and so is JSON in another layout."""
    if stored is UNREADABLE:
        return False
    if (kind, field) == ("connections", "extra"):
        return same_json(stored or "{}", wanted or {})
    if kind == "variables" and isinstance(wanted, (dict, list)):
        return same_json(stored, wanted)
    if (kind, field) == ("variables", "value"):
        return bool(stored == text_of(wanted))
    if (kind, field) == ("roles", "permissions"):
        return owned(stored, wanted) == {resource: actions for resource, actions in wanted.items() if actions}
    return bool((stored or None) == (wanted or None))


def same_json(stored: Any, wanted: Any) -> bool:
    """Whether a text is JSON and means the same; true is not 1."""
    try:
        return json.dumps(json.loads(stored), sort_keys=True) == json.dumps(wanted, sort_keys=True)
    except (TypeError, ValueError):
        return False


def owned(stored: Mapping[str, list[str]], wanted: Mapping[str, Any]) -> dict[str, list[str]]:
    """The stored permissions of a role but for those on DAGs that the inventory does not name: the DAGs gave them."""
    return {
        resource: actions
        for resource, actions in stored.items()
        if resource in wanted or not resource.startswith(ONE_DAG)
    }


class Change:
    """One object that is created, changed or removed.

    :ivar before: what is stored; None where there is nothing.
    :ivar after: what is wanted; None where it is removed.
    :ivar fields: names of the fields that differ.
    """

    def __init__(self, kind: str, name: str, before: Fields | None, after: Fields | None) -> None:
        self.kind, self.name, self.before, self.after = kind, name, before, after
        self.fields = [
            field
            for field in FIELDS[kind]
            if before is None or after is None or not same(kind, field, before[field], after[field])
        ]

    @property
    def action(self) -> str:
        """What becomes of the object."""
        return "created" if self.before is None else "removed" if self.after is None else "changed"

    def lines(self, side: Fields | None) -> list[str]:
        """One side of the diff, a line for each field; secrets only as hidden."""
        lines = []
        for field in self.fields if side is not None else ():
            value = (side or {})[field]
            start = f"{self.kind}.{self.name}.{field}"
            if (self.kind, field) in SECRET:
                if value not in (None, ""):
                    new = ", changed" if side is self.after and self.before and self.before[field] else ""
                    lines.append(f"{start}: {HIDDEN}{new}")
            elif field == "permissions":
                shown = owned(value, (self.after or {}).get(field, {}))
                lines += [f"{start}.{on}: {', '.join(what)}" for on, what in sorted(shown.items()) if what]
            elif value not in (None, "", []):
                lines.append(f"{start}: {json.dumps(value, ensure_ascii=False)}")
        return lines or ([f"{self.kind}.{self.name}"] if side is not None and self.action != "changed" else [])


def as_stored(name: str, stored: Iterable[str]) -> str:
    """Return the name of a user as it is stored: Airflow does not tell capital letters from small ones."""
    return next((known for known in stored if known.lower() == name.lower()), name)


def plan(
    stored: Settings, wanted: Settings, purge: Iterable[str], administrator: str, examples: Iterable[str]
) -> list[Change]:
    """Return what has to change, in the order in which it can: first what goes, users before their roles.

    :param purge: some of `PURGEABLE`: what is stored and not wanted is removed.
    :param administrator: the user that is never removed.
    :param examples: names of Airflow's example connections.
    """
    kept = {
        "pools": {DEFAULT_POOL},
        "variables": set(),
        "connections": set(examples),
        "roles": set(BUILT_IN_ROLES),
        "users": {administrator},
    }
    unwanted = {kind: sorted(stored[kind].keys() - wanted[kind].keys()) for kind in KINDS}
    gone = {
        kind: [name for name in unwanted[kind] if name not in kept[kind]] if kind in purge else [] for kind in KINDS
    }
    if EXAMPLES in purge:
        gone["connections"] += [name for name in unwanted["connections"] if name in kept["connections"]]
    changes = [Change(kind, name, stored[kind][name], None) for kind in reversed(KINDS) for name in gone[kind]]
    for kind in KINDS:
        for name, fields in wanted[kind].items():
            change = Change(kind, name, stored[kind].get(name), fields)
            if change.fields:
                changes.append(change)
    return changes


def refuse(changes: list[Change], stored: Settings, permissions: Mapping[str, set[str]]) -> None:
    """Refuse what only the database can tell to be wrong.

    :param permissions: resource -> actions that Airflow knows.
    :raises RefusedError: with all that is wrong.
    """
    wrong = [
        *unknown_permissions(changes, permissions),
        *unknown_roles(changes, stored),
        *shared_addresses(changes, stored),
    ]
    if wrong:
        raise RefusedError(
            "\n\n".join(
                f"{subject}\n  found:   {found}\n  allowed: {allowed}\n  remedy:  {remedy}"
                for subject, found, allowed, remedy in wrong
            )
        )


def unknown_permissions(changes: list[Change], known: Mapping[str, set[str]]) -> list[tuple[str, str, str, str]]:
    """Return (subject, found, allowed, remedy) for permissions that Airflow would never ask for."""
    wrong = []
    for change in changes:
        for resource, actions in (change.after or {}).get("permissions", {}).items():
            possible = known.get(resource, set())
            unknown = sorted(set(actions) - possible)
            if not unknown or resource.startswith(ONE_DAG):
                continue
            near = [] if possible else difflib.get_close_matches(resource, known, 1, 0.6)
            wrong.append(
                (
                    f"airflow_roles, {change.name}",
                    f"{', '.join(unknown)} on {json.dumps(resource)}, which this Airflow does not have",
                    f"{', '.join(sorted(possible))} on {resource}" if possible else ", ".join(sorted(known)),
                    f"did you mean {near[0]}?" if near else "remove it from the inventory",
                )
            )
    return wrong


def unknown_roles(changes: list[Change], stored: Settings) -> list[tuple[str, str, str, str]]:
    """Return (subject, found, allowed, remedy) for users with roles that are not there, or go."""
    gone = {change.name for change in changes if change.kind == "roles" and change.after is None}
    roles = (stored["roles"].keys() - gone) | {c.name for c in changes if c.kind == "roles" and c.after is not None}
    return [
        (
            f"airflow_users, {change.name}",
            f"{', '.join(unknown)}, which is no role",
            ", ".join(sorted(roles)),
            "add it to airflow_roles, or correct it",
        )
        for change in changes
        if change.kind == "users" and (unknown := sorted(set((change.after or {}).get("roles", [])) - roles))
    ]


def shared_addresses(changes: list[Change], stored: Settings) -> list[tuple[str, str, str, str]]:
    """Return (subject, found, allowed, remedy) for users with the address of one that is not in the inventory."""
    known = {change.name for change in changes if change.kind == "users"}
    holders = {fields["email"].lower(): name for name, fields in stored["users"].items() if name not in known}
    return [
        (
            f"airflow_users, {change.name}",
            f"the address of {holders[change.after['email'].lower()]}, a user that Airflow has already",
            "an address that no other user has",
            "give one of the two another address, or remove the other user in Airflow",
        )
        for change in changes
        if change.kind == "users" and change.after is not None and change.after["email"].lower() in holders
    ]


def report(changes: Iterable[Change]) -> dict[str, Any]:
    """What the module returns of a plan: no secrets."""
    changes = list(changes)
    before = [line for change in changes for line in change.lines(change.before)]
    after = [line for change in changes for line in change.lines(change.after)]
    return {
        "changes": [{"kind": c.kind, "name": c.name, "action": c.action, "fields": c.fields} for c in changes],
        "diff": {"before": "".join(f"{line}\n" for line in before), "after": "".join(f"{line}\n" for line in after)},
    }


def hide(text: str, told: Any) -> str:
    """Return a text without the texts of what was told, which may be secrets."""
    found: set[str] = set()
    pending = [told]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str) and len(item) > 3:
            found |= {item, repr(item)[1:-1], json.dumps(item)[1:-1]}
    for secret in sorted(found, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


# -- in Airflow's interpreter -----------------------------------------------------------------------------------------


class Database:
    """Airflow's metadata database: the rows of all kinds, read and written in one transaction.

    Rows of secrets are read without Airflow's classes, which fail as a whole where one row cannot be decrypted.
    """

    def __init__(self) -> None:
        from airflow import settings
        from airflow.models import Connection, Pool, Variable
        from airflow.models.crypto import get_fernet
        from sqlalchemy import delete, insert, inspect, select, update

        self.tables = {"pools": Pool, "variables": Variable, "connections": Connection}
        self.keys = {"pools": "pool", "variables": "key", "connections": "conn_id"}
        self.session = settings.Session()
        self.fernet = get_fernet()
        self.delete, self.insert, self.select, self.update = delete, insert, select, update
        self.ready = inspect(self.session.get_bind()).has_table("slot_pool")

    def decrypted(self, value: Any, encrypted: bool) -> Any:
        """A stored secret as text."""
        if not value or not encrypted:
            return value
        try:
            return self.fernet.decrypt(value.encode()).decode()
        except Exception:  # of whatever library does it
            return UNREADABLE

    def read(self, wanted: Settings, kinds: Iterable[str]) -> Settings:
        """Return what is stored of some kinds. A user's password is the wanted one where that one fits."""
        stored: Settings = {kind: {} for kind in KINDS}
        for kind in kinds:
            if kind in self.tables:
                for row in self.session.execute(self.select(self.tables[kind].__table__)).mappings():
                    stored[kind][row[self.keys[kind]]] = self.fields(kind, row)
        if "roles" in kinds or "users" in kinds:
            self.read_people(stored, wanted)
        return stored

    def fields(self, kind: str, row: Any) -> Fields:
        """The fields of a row."""
        if kind == "variables":
            return {"value": self.decrypted(row["val"], row["is_encrypted"]), "description": row["description"]}
        fields = {field: row[field] for field in FIELDS[kind]}
        if kind == "connections":
            fields["password"] = self.decrypted(row["password"], row["is_encrypted"])
            fields["extra"] = self.decrypted(row["extra"], row["is_extra_encrypted"])
        return fields

    def read_people(self, stored: Settings, wanted: Settings) -> None:
        """Read users and roles with Airflow's FAB models."""
        from airflow.providers.fab.auth_manager.models import Permission, Role, User
        from werkzeug.security import check_password_hash

        self.user_class, self.role_class = User, Role
        self.users = {user.username: user for user in self.session.scalars(self.select(User)).unique()}
        self.roles = {role.name: role for role in self.session.scalars(self.select(Role)).unique()}
        self.permissions = {
            (permission.resource.name, permission.action.name): permission
            for permission in self.session.scalars(self.select(Permission)).unique()
            if permission.resource and permission.action
        }
        for name, role in self.roles.items():
            held: dict[str, list[str]] = {}
            for permission in role.permissions:
                if permission.resource and permission.action:
                    held.setdefault(permission.resource.name, []).append(permission.action.name)
            stored["roles"][name] = {"permissions": {on: sorted(what) for on, what in held.items()}}
        for name, user in self.users.items():
            password = wanted["users"].get(name, {}).get("password")
            fits = bool(password and user.password and check_password_hash(user.password, password))
            stored["users"][name] = {
                "password": password if fits else HIDDEN,
                "email": user.email,
                "roles": sorted(role.name for role in user.roles),
                "first_name": user.first_name,
                "last_name": user.last_name,
                "active": bool(user.active),
            }

    def names_of_users(self) -> list[str]:
        """Names of all users."""
        from airflow.providers.fab.auth_manager.models import User

        return list(self.session.scalars(self.select(User.username)))

    def known_permissions(self) -> dict[str, set[str]]:
        """Resource -> actions."""
        known: dict[str, set[str]] = {}
        for resource, action in self.permissions:
            if not resource.startswith(ONE_DAG):
                known.setdefault(resource, set()).add(action)
        return known

    def apply(self, changes: list[Change]) -> None:
        """Write all changes. Passwords last, with what Airflow itself uses: it also ends the sessions of the user."""
        for change in changes:
            getattr(self, f"write_{change.kind}", self.write_row)(change)
        self.session.commit()
        passwords = [c for c in changes if c.kind == "users" and c.after is not None and "password" in c.fields]
        if passwords:
            self.write_passwords(passwords)

    def write_row(self, change: Change) -> None:
        """Create, change or remove a row of a kind without relations."""
        table, key = self.tables[change.kind].__table__, self.keys[change.kind]
        if change.after is None:
            self.session.execute(self.delete(table).where(table.c[key] == change.name))
            return
        values = {field: change.after[field] for field in FIELDS[change.kind]}
        if change.kind == "variables":
            values["val"], values["is_encrypted"] = self.encrypted(text_of(values.pop("value")))
        elif change.kind == "connections":
            extra = json.dumps(values["extra"]) if values["extra"] else None
            values["password"], values["is_encrypted"] = self.encrypted(values["password"])
            values["extra"], values["is_extra_encrypted"] = self.encrypted(extra)
        if change.before is None:
            self.session.execute(self.insert(table).values({key: change.name, **values}))
        else:
            self.session.execute(self.update(table).where(table.c[key] == change.name).values(values))

    def encrypted(self, value: str | None) -> tuple[str | None, bool]:
        """A secret as it is stored, and whether that is encrypted."""
        if value is None:
            return None, False
        return self.fernet.encrypt(value.encode()).decode(), bool(self.fernet.is_encrypted)

    def write_roles(self, change: Change) -> None:
        """Create, change or remove a role."""
        role: Any = self.roles.get(change.name)
        if change.after is None:
            role.permissions, role.user, role.groups = [], [], []
            self.session.delete(role)
            return
        if role is None:
            role = self.roles[change.name] = self.role_class(name=change.name)
            self.session.add(role)
        wanted = change.after["permissions"]
        kept = [p for p in role.permissions if p.resource.name not in owned({p.resource.name: []}, wanted)]
        role.permissions = kept + [self.permission(on, what) for on, actions in wanted.items() for what in actions]

    def permission(self, resource: str, action: str) -> Any:
        """A permission; that on one DAG is made where it is missing."""
        from airflow.providers.fab.auth_manager.models import Action, Permission, Resource

        if (resource, action) not in self.permissions:
            parts = []
            for model, name in ((Action, action), (Resource, resource)):
                part = self.session.scalar(self.select(model).where(model.name == name))
                if part is None:
                    part = model(name=name)
                    self.session.add(part)
                    self.session.flush()
                parts.append(part)
            permission = self.permissions[resource, action] = Permission(action=parts[0], resource=parts[1])
            self.session.add(permission)
        return self.permissions[resource, action]

    def write_users(self, change: Change) -> None:
        """Change or remove a user. A new one is made together with its password."""
        user = self.users.get(change.name)
        if user is None:
            return
        if change.after is None:
            user.roles, user.groups = [], []
            self.session.delete(user)
            return
        for field in ("email", "first_name", "last_name", "active"):
            setattr(user, field, change.after[field])
        user.roles = [self.roles[name] for name in change.after["roles"]]

    @staticmethod
    def write_passwords(changes: list[Change]) -> None:
        """Create users, and set the passwords of those that are there."""
        from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
        from airflow.providers_manager import ProvidersManager

        ProvidersManager().initialize_providers_configuration()
        with get_application_builder() as builder:
            manager = builder.sm
            for change in changes:
                after = change.after or {}
                user = manager.find_user(username=change.name)
                if user is None:
                    names = [change.name, after["first_name"], after["last_name"], after["email"]]
                    roles = [manager.find_role(role) for role in after["roles"]]
                    user = manager.add_user(*names, roles, after["password"])
                    if not after["active"]:
                        user.active = False
                        manager.update_user(user)
                elif not manager.reset_password(user.id, after["password"]):
                    raise RuntimeError(f"the password of {change.name} could not be set")


def wanted_of(told: Mapping[str, Any]) -> Settings:
    """What the module was asked for, complete."""
    return {kind: {name: normal(kind, name, entry) for name, entry in told["settings"][kind].items()} for kind in KINDS}


def beginning(told: Mapping[str, Any]) -> list[Change]:
    """All that would be made where nothing is yet."""
    return plan({kind: {} for kind in KINDS}, wanted_of(told), [], told["administrator"], [])


def work(told: dict[str, Any]) -> dict[str, Any]:
    """Do what the module asked for: ``settings``, ``purge``, ``administrator``, ``check``."""
    wanted, purge = wanted_of(told), told["purge"]
    database = Database()
    if not database.ready:
        if told["check"]:
            return report(beginning(told))
        raise RefusedError("The metadata database has no tables yet: run site.yml, which makes them.")
    kinds = [kind for kind in KINDS if wanted[kind] or kind in purge or (kind == "connections" and EXAMPLES in purge)]
    examples = []
    if {"connections", EXAMPLES} & set(purge):  # half a second for a list
        from airflow.utils.db import get_default_connections

        examples = [connection.conn_id for connection in get_default_connections()]
    names = database.names_of_users() if "users" in kinds else []
    wanted["users"] = {as_stored(name, names): entry for name, entry in wanted["users"].items()}
    administrator = as_stored(told["administrator"], names)
    stored = database.read(wanted, kinds)
    changes = plan(stored, wanted, purge, administrator, examples)
    refuse(changes, stored, database.known_permissions() if wanted["roles"] else {})
    if changes and not told["check"]:
        database.apply(changes)
    return report(changes)


def main() -> None:
    """Read what is told from standard input; print the answer as JSON on the last line of standard output."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever Airflow prints goes elsewhere
    told = json.load(sys.stdin)
    try:
        answer = work(told)
    except RefusedError as refusal:
        answer = {"refused": str(refusal)}
    except Exception as error:  # the text of some repeats the values of a row
        said = str(getattr(error, "orig", None) or error).strip()
        answer = {"failed": hide(f"{type(error).__name__}: {said}", told["settings"])}
    print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
