# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""What makes an inventory a valid Airflow cluster.

`check_inventory` is a pure function: plain data in, a list of `Problem` out. It reads no file, no host and no
Ansible object; `plugins/action/validate_inventory.py` collects the data and prints the result.
No text made here contains the value of a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping

from ansible_collections.dataops.airflow.plugins.module_utils.address_rules import (
    check_addresses,
    check_host_names,
    check_ports,
)
from ansible_collections.dataops.airflow.plugins.module_utils.config_rules import (
    check_config,
    check_connections,
    check_default_queue,
    check_environment,
    check_instances,
    check_limits,
    check_longest_task,
    check_primarys,
    check_service_options,
)
from ansible_collections.dataops.airflow.plugins.module_utils.dag_rules import (
    check_bundle_packages,
    check_bundles,
    check_dags,
)
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    AIRFLOW_GROUPS,
    CLUSTER_WIDE,
    GROUPS,
    PLAN,
    Catalogue,
    Inventory,
    all_names,
    executor,
    executors,
    hosts_that_set,
    is_secret,
    origin_of,
    scope_of,
    subject_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.kubernetes_rules import check_kubernetes
from ansible_collections.dataops.airflow.plugins.module_utils.lock_rules import check_lock, check_paths
from ansible_collections.dataops.airflow.plugins.module_utils.problems import (
    Problem,
    counted,
    did_you_mean,
    names_of,
    shown_value,
)
from ansible_collections.dataops.airflow.plugins.module_utils.secret_rules import (
    check_logins,
    check_redis_users,
    check_secrets,
)
from ansible_collections.dataops.airflow.plugins.module_utils.stored_rules import check_purge, check_stored
from ansible_collections.dataops.airflow.plugins.module_utils.tls_rules import check_tls
from ansible_collections.dataops.airflow.plugins.module_utils.value_rules import (
    check_literals,
    check_templates,
    check_types,
)

REQUIRED_GROUPS = {
    "schedulers": "runs the scheduler",
    "webservers": "serves the web UI and the API that tasks talk to",
    "dag_processors": "reads the DAG files",
}

SIMILAR_GROUPS = {
    "api_server": "webservers",
    "api_servers": "webservers",
    "celery_workers": "workers",
    "postgres": "postgresql",
}
"""Names that people write instead, and that are too far from the right one for difflib."""

ROLES = ("cluster", "certificates", "postgresql", "redis", "haproxy", "firewall", "airflow")
"""The roles of the collection. A role owns every variable that starts with its name and an underscore."""

EXECUTORS = ("LocalExecutor", "CeleryExecutor", "KubernetesExecutor")

HOST_SPECIFIC = ("cluster_address", "cluster_tls_certificate", "cluster_tls_key")
"""The `cluster_*` variables that differ from host to host."""

_EXECUTOR = re.compile(rf"([A-Za-z_][A-Za-z0-9_.-]*:)?({'|'.join(EXECUTORS)})")
"""An executor, which may have an alias."""


def check_inventory(inventory: Inventory, catalogue: Catalogue, purpose: str = "install") -> list[Problem]:
    """Return everything that is wrong with an inventory; an empty list means that it is valid.

    :param purpose: one of `PURPOSES`, or `PLAN`.
    """
    installation: list[Problem] = []
    if purpose == "install":
        installation += check_lock(inventory, catalogue)
        installation += check_paths(inventory)
        installation += check_kubernetes(inventory, catalogue)
        installation += check_bundle_packages(inventory, catalogue)
    if purpose in ("install", "deliver"):
        installation += check_dags(inventory, catalogue, purpose)
    if purpose != PLAN:
        installation += check_secrets(inventory, catalogue)
        installation += check_connections(inventory)
    return [
        *check_groups(inventory, catalogue),
        *check_executor(inventory, catalogue),
        *check_sqlite(inventory, catalogue),
        *check_names(inventory, catalogue),
        *check_host_names(inventory),
        *check_templates(inventory),
        *check_types(inventory, catalogue),
        *check_literals(inventory, catalogue),
        *check_config(inventory),
        *check_environment(inventory),
        *check_limits(inventory),
        *check_primarys(inventory),
        *check_longest_task(inventory, catalogue),
        *check_service_options(inventory),
        *check_instances(inventory, catalogue),
        *check_default_queue(inventory, catalogue),
        *check_stored(inventory, catalogue),
        *check_purge(inventory),
        *check_bundles(inventory),
        *check_cluster_wide(inventory, catalogue),
        *check_addresses(inventory),
        *check_ports(inventory, catalogue),
        *check_tls(inventory, catalogue),
        *check_redis_users(inventory, catalogue),
        *check_logins(inventory, catalogue),
        *installation,
    ]


def check_groups(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check how many hosts each group has."""
    problems = []
    groups = inventory.groups
    celery = "CeleryExecutor" in executors(inventory, catalogue) or bool(groups.get("workers"))
    sqlite = inventory.value("cluster_database_backend", catalogue.defaults) == "sqlite"
    for group, variable, product, needed in (
        ("postgresql", "cluster_database_host", "PostgreSQL", True),
        ("redis", "cluster_redis_host", "Redis", celery),
        ("load_balancers", "cluster_webserver_host", "HAProxy", False),
    ):
        members = groups.get(group, ())
        if len(members) > 1:
            problems.append(
                Problem(
                    f"group {group}",
                    f"{len(members)} hosts: {names_of(members)}",
                    "at most one host",
                    f"keep one host; for a {product} cluster of your own, leave the group empty and set {variable}",
                )
            )
        set_elsewhere = any(inventory.settings(variable).values()) or inventory.fails(variable)
        if needed and not members and not set_elsewhere and not (group == "postgresql" and sqlite):
            problems.append(
                Problem(
                    f"group {group}",
                    f"no host, and {variable} is not set"
                    + (" although tasks run on Celery workers" if group == "redis" else ""),
                    f"one host, or the address of a {product} that you run yourself",
                    f"put a host into the group {group}, or set {variable} in group_vars/all",
                )
            )
    for group, purpose in REQUIRED_GROUPS.items():
        if not groups.get(group):
            problems.append(
                Problem(
                    f"group {group}",
                    "no host",
                    f"at least one host ({group} {purpose})",
                    f"put a host into the group {group}; in the example inventories the group control does so",
                )
            )
    chosen = inventory.value("airflow_executor", catalogue.defaults)
    no_workers = bool(chosen) and "CeleryExecutor" not in executors(inventory, catalogue)
    for group, members in groups.items():
        meant = _similar_group(group)
        if not meant or not members or groups.get(meant) or (meant == "workers" and no_workers):
            continue
        problems.append(
            Problem(
                f"group {group}",
                f"{counted(members, 'host')} in a group that the collection does not read, and none in {meant}",
                f"the groups {', '.join(GROUPS)}",
                f"rename the group {group} to {meant}, or add it as a child of {meant}",
            )
        )
    return problems


def check_executor(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check `airflow_executor` alone and against the group `workers`."""
    subject = subject_of(inventory, "airflow_executor")
    value = inventory.value("airflow_executor", catalogue.defaults)
    if value and not isinstance(value, str):
        return []  # the rule about types says so
    entries = [entry.strip() for entry in executor(inventory, catalogue).split(",")]
    malformed = [entry for entry in entries if not _EXECUTOR.fullmatch(entry)]
    names = executors(inventory, catalogue)
    twice = sorted({name for name in names if names.count(name) > 1})
    if malformed or twice:
        near = difflib.get_close_matches(names[0].lower(), [e.lower() for e in EXECUTORS], 1, 0.4)
        meant = next((e for e in EXECUTORS if near and e.lower() == near[0]), "")
        several = len(entries) > 1
        return [
            Problem(
                subject,
                json.dumps(value)
                + (f", with {names_of([json.dumps(entry) for entry in malformed])}" if malformed and several else "")
                + (f", with {', '.join(twice)} twice" if not malformed else ""),
                f"{', '.join(EXECUTORS)}; or several of them with commas, each once: the first runs what names none; "
                "an alias before one, such as quick:LocalExecutor; empty: derived from the group workers",
                f"write {meant}, or remove the variable"
                if meant and not several
                else "correct it, or remove the variable",
            )
        ]
    workers = inventory.groups.get("workers", ())
    if "CeleryExecutor" in names and not workers:
        return [
            Problem(
                subject,
                f"{json.dumps(value)} with an empty group workers: no task of CeleryExecutor would ever run",
                "CeleryExecutor with at least one host in the group workers",
                "put hosts into the group workers, or take CeleryExecutor out of airflow_executor",
            )
        ]
    if "CeleryExecutor" not in names and workers:
        return [
            Problem(
                subject,
                f"{json.dumps(value)} with {counted(workers, 'host')} in the group workers, which would idle",
                "CeleryExecutor among the executors, or an empty group workers",
                f"write CeleryExecutor,{value} or {value},CeleryExecutor; or remove airflow_executor (CeleryExecutor "
                "is derived), or empty the group workers",
            )
        ]
    return []


def check_sqlite(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that SQLite, which is a file, has one host to itself and no server beside it."""
    if inventory.value("cluster_database_backend", catalogue.defaults) != "sqlite":
        return []
    servers = inventory.groups.get("postgresql", ())
    address = inventory.value("cluster_database_host", catalogue.defaults)
    names = executors(inventory, catalogue)
    several = list(dict.fromkeys(host for group in AIRFLOW_GROUPS for host in inventory.groups.get(group, ())))
    found = [
        f"{names_of(servers)} in the group postgresql" if servers else "",
        "cluster_database_host is set" if address else "",
        "CeleryExecutor, whose workers would need the database at once" if "CeleryExecutor" in names else "",
        "KubernetesExecutor, which refuses it" if "KubernetesExecutor" in names else "",
        f"Airflow on {counted(several, 'host')}: {names_of(several)}" if len(several) > 1 else "",
    ]
    config = inventory.value("airflow_config", catalogue.defaults)
    core = config.get("core") if isinstance(config, Mapping) else None
    if isinstance(core, Mapping) and str(core.get("parallelism", 1)) != "1":
        found.append(f"parallelism {shown_value(core['parallelism'])} in airflow_config: it takes one writer at a time")
    return [
        Problem(
            subject_of(inventory, "cluster_database_backend"),
            f'"sqlite" with {text}',
            "SQLite for one host with LocalExecutor and one task at a time; PostgreSQL for everything else",
            "remove cluster_database_backend to use PostgreSQL, which begins empty; or keep one host and its "
            "parallelism, as in inventories/quickstart",
        )
        for text in found
        if text
    ]


def check_names(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that every variable under a role's prefix is an option of a role."""
    known = catalogue.known
    prefixes = tuple(f"{role}_" for role in catalogue.options)
    internal = tuple(f"__{role}_" for role in ROLES)
    problems = []
    for name in all_names(inventory):
        if name in known or name.startswith(tuple(inventory.ignored_prefixes)):
            continue
        hosts = hosts_that_set(inventory, name)
        found = f"set on {scope_of(inventory, hosts)}{origin_of(inventory, name, hosts)}"
        if name in catalogue.constants:
            problems.append(
                Problem(
                    name,
                    found,
                    f"not in an inventory: the role {catalogue.constants[name]} computes it, and would silently ignore "
                    "this value",
                    "remove it; set what it is computed from (see the role's README)",
                )
            )
        elif name.startswith(internal):
            problems.append(
                Problem(
                    name,
                    found,
                    "not in an inventory: names that start with two underscores are internal",
                    did_you_mean(name.lstrip("_"), known) or "remove it",
                )
            )
        elif name.startswith(prefixes):
            role = name.partition("_")[0]
            problems.append(
                Problem(
                    name,
                    found,
                    f"the variables of the role {role}: ansible-doc -t role dataops.airflow.{role}",
                    did_you_mean(name, known) or "remove it, or rename it if it is your own: the prefix is taken",
                )
            )
    return problems


def check_cluster_wide(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that what describes the cluster is equal on all its hosts."""
    problems = []
    known = catalogue.known
    for name in all_names(inventory):
        shared = name in CLUSTER_WIDE or (name in known and name.startswith("cluster_") and name not in HOST_SPECIFIC)
        if not shared or inventory.fails(name):
            continue
        values = inventory.settings(name)
        secret = is_secret(name, known.get(name, {}))
        if not secret:
            values = {host: values.get(host, catalogue.defaults.get(name)) for host in inventory.hosts}
        else:
            values = {host: value for host, value in values.items() if value not in (None, "")}
        hosts_by_value: dict[str, list[str]] = {}
        for host, value in values.items():
            hosts_by_value.setdefault(json.dumps(value, sort_keys=True, default=str), []).append(host)
        if len(hosts_by_value) < 2:
            continue
        first, second = [hosts[0] for hosts in list(hosts_by_value.values())[:2]]
        if secret:
            found = f"{first} and {second} have different values"
        else:
            found = " and ".join(
                f"{host} has {shown_value(values[host])}"
                + (origin_of(inventory, name, [host]) if name in inventory.variables[host] else " (the default)")
                for host in (first, second)
            )
        if len(hosts_by_value) > 2:
            found += f"; {len(hosts_by_value)} values in all"
        problems.append(
            Problem(name, found, "one value for all hosts of the cluster", f"set {name} once, in group_vars/all")
        )
    return problems


def _similar_group(group: str) -> str:
    """Return the group of the collection that an unknown group's name was probably meant to be, or ""."""
    if group in GROUPS or group in ("all", "ungrouped"):
        return ""
    plain = group.lower().replace("-", "_")
    near = difflib.get_close_matches(plain, GROUPS, 1, 0.85)
    return SIMILAR_GROUPS.get(plain, near[0] if near else "")
