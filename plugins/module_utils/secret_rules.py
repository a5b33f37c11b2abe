# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Rules for secrets and for who logs in with them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    CELERY_SECRETS,
    COMMON_SECRETS,
    FLOWER_SECRETS,
    REDIS_SECRETS,
    SECRETS,
    Catalogue,
    Inventory,
    executors,
    origin_of,
    subject_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.problems import (
    Problem,
    lengths_of,
    names_of,
    shown_value,
    strings_in,
)

MINIMUM_PASSWORD = 12
"""Shortest accepted password, in characters."""

MINIMUM_SIGNING_KEY = 64
"""Shortest accepted key for HMAC-SHA512 (tokens, signed log requests), in bytes."""

SIGNING_KEYS = ("airflow_jwt_secret", "airflow_api_secret_key")

EXPANDED = SIGNING_KEYS
"""Variables that Airflow reads from its environment as they are written; in URLs, they are percent-encoded."""

FLOWER_LOGIN = ("airflow_flower_username", "airflow_flower_password")
"""Flower compares them as ASCII, and fails with anything else."""

REDIS_USERS = ("default", "admin")
"""Users that this cluster's own Redis has besides: the role redis writes them."""

SECRETS_COMMAND = "ansible-playbook -i INVENTORY playbooks/secrets.yml  (or dataops.airflow.secrets)"

_PLACEHOLDER = re.compile(
    r"(changeme|changethis|replaceme|placeholder|default|admin|airflow|postgres(ql)?|password|passwd|pass|secret|redis"
    r"|flower|celery|test|example|todo|fixme|dummy|sample|your|my|here|insert|root|user|qwerty|letmein|welcome|x{3,})+"
)

_EXPANDS = re.compile(r"\$[A-Za-z_{]")
"""What `os.path.expandvars` takes for a variable, and Airflow replaces where its environment has it."""

_FERNET_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")


def check_secrets(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that the secrets which the cluster needs are there, and that those which are there are any good."""
    required = list(COMMON_SECRETS)
    if "CeleryExecutor" in executors(inventory, catalogue):
        required += CELERY_SECRETS
        if inventory.groups.get("flower"):
            required += FLOWER_SECRETS
        if inventory.groups.get("redis"):
            required += [name for name in REDIS_SECRETS if name in catalogue.known]
    users = {
        str(value).lower()
        for values in (catalogue.defaults, *(inventory.variables.get(host, {}) for host in inventory.hosts))
        for name, value in values.items()
        if name.endswith(("_user", "_username")) and isinstance(value, str) and value
    }
    missing = []
    problems = []
    for name in SECRETS:
        values = {host: value for host, value in inventory.settings(name).items() if value not in (None, "")}
        readers = inventory.groups.get("redis", ()) if name in REDIS_SECRETS else inventory.hosts
        without = [host for host in readers if host not in values and name not in inventory.failures.get(host, {})]
        if name in required and without:
            missing.append(name + ("" if len(without) == len(readers) else f" (on {names_of(without)})"))
        hosts_by_problem: dict[tuple[str, str], list[str]] = {}
        for host, value in values.items():
            wrong = check_secret(name, value, users)
            if wrong:
                hosts_by_problem.setdefault(wrong, []).append(host)
        for (found, allowed), hosts in hosts_by_problem.items():
            problems.append(
                Problem(
                    name,
                    f"{found}{origin_of(inventory, name, hosts)}",
                    allowed,
                    f"remove it and run {SECRETS_COMMAND}, which makes what is missing",
                )
            )
    if missing:
        problems.insert(
            0,
            Problem(
                "secrets",
                "no value for " + ",\n".join(missing),
                "a value for each, equal on all hosts",
                f"{SECRETS_COMMAND}\nmakes what is missing and keeps what is there",
            ),
        )
    return problems


def check_redis_users(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that the users of this cluster's own Redis are three."""
    if not inventory.groups.get("redis"):
        return []
    names = ("cluster_redis_user", "cluster_redis_flower_user")
    users = {name: inventory.value(name, catalogue.defaults) for name in names}
    return [
        Problem(
            subject_of(inventory, name),
            f"{shown_value(user)}, which is another user's name",
            "a name of its own: not admin, not default, and not the other one's",
            f"choose another {name}, or remove the line",
        )
        for name, user in users.items()
        if user in REDIS_USERS or (user and name == names[1] and user == users[names[0]])
    ]


def check_logins(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that who logs in to the collection's own databases is one of the two roles that it makes for each."""
    if not inventory.groups.get("postgresql") or inventory.value("cluster_database_host", catalogue.defaults):
        return []
    problems = []
    for kind in ("database", "results"):
        login, owner = f"cluster_{kind}_login", inventory.value(f"cluster_{kind}_user", catalogue.defaults)
        others = set(strings_in(list(inventory.settings(login).values()))) - {owner, f"{owner}_2"}
        if others:
            problems.append(
                Problem(
                    subject_of(inventory, login),
                    ", ".join(json.dumps(other) for other in sorted(others)),
                    f"{owner}, the owner of the database, or {owner}_2, which acts as the owner",
                    "rotate.yml keeps it in vault.yml: put back what it wrote there, or remove it if it never did",
                )
            )
    return problems


def check_secret(name: str, value: Any, users: Iterable[str]) -> tuple[str, str] | None:
    """Return (found, allowed) if the secret is not good enough, else None. Neither contains the secret."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}", "text; YAML needs quotes around a number"
    if re.search(r"[\r\n\0]", value):
        return (
            f"a value of {len(value)} characters with a line break or a NUL in it",
            "one line (in YAML, not a | block)",
        )
    if _is_placeholder(value):
        return f"a placeholder of {len(value)} characters", "a random value"
    if value.lower() in users:
        return "the name of a user", "a random value"
    misread = _check_expansion(value) if name in EXPANDED else None
    if misread:
        return misread
    if name in FLOWER_LOGIN and not value.isascii():
        return "a value with characters that are not ASCII, with which Flower answers nobody", "ASCII characters"
    if name == "airflow_fernet_key":
        keys = value.split(",")
        bad = [key for key in keys if not _FERNET_KEY.fullmatch(key)]
        if bad:
            which = f"{len(bad)} of {len(keys)} keys malformed ({lengths_of(bad)})"
            return which, "url-safe base64 of exactly 32 bytes (44 characters); several, separated by commas, to rotate"
        return None
    if name in SIGNING_KEYS:
        size = len(value.encode("utf-8", "surrogateescape"))
        if size < MINIMUM_SIGNING_KEY:
            return f"a value of {size} bytes", f"at least {MINIMUM_SIGNING_KEY} bytes, as HMAC-SHA512 needs"
        return None
    if len(value) < MINIMUM_PASSWORD:
        return f"a value of {len(value)} characters", f"at least {MINIMUM_PASSWORD} characters of any kind"
    return None


def _check_expansion(value: str) -> tuple[str, str] | None:
    """Return (found, allowed) if Airflow would read another value than this one, else None; neither contains it."""
    if _EXPANDS.search(value):
        found = "a value with a $ before a letter, an underscore or {, which Airflow takes for a variable's name"
    elif value.startswith("~"):
        found = "a value that starts with ~, which Airflow takes for a home folder"
    else:
        return None
    return found, "no ~ at the start, no $ before a letter, an underscore or {"


def _is_placeholder(value: str) -> bool:
    """Whether a value is one that people write until they have a real one: `changeme`, `Passw0rd!`, `xxxx`, `0000`."""
    lowered = value.lower()
    letters = re.sub("[^a-z]", "", re.sub("(?<=[a-z])0(?=[a-z])", "o", lowered))
    if _PLACEHOLDER.fullmatch(letters):
        return True
    return len(set(lowered)) < 4 or "12345678901234567890".startswith(lowered)
