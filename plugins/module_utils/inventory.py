# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""An inventory and what the collection knows of itself as plain data, for the rules beside this file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.dataops.airflow.plugins.module_utils import stored_settings
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, names_of, strings_in

CONTROL_GROUPS = ("schedulers", "webservers", "dag_processors", "triggerers", "flower")
"""The groups of Airflow's control components."""

AIRFLOW_GROUPS = (*CONTROL_GROUPS, "workers")
"""The groups whose members get an Airflow environment."""

GROUPS = ("postgresql", "redis", "load_balancers", *AIRFLOW_GROUPS)
"""Every group that the collection reads."""

PURPOSES = ("install", "operate", "deliver", "go_back")
"""Kinds of run. One that installs nothing is not held up by what only an installation needs; `deliver` needs DAGs.

`operate` needs every host of the run; the others do without one that is a worker and nothing else.
"""

PLAN = "plan"
"""A kind of run that reaches no host: it needs no secrets either."""

ADDRESSES = ("cluster_address", "cluster_database_host", "cluster_redis_host", "cluster_webserver_host")
"""Variables that hold an address: `check_addresses` reads them."""

COMMON_SECRETS = (
    "cluster_database_password",
    "airflow_fernet_key",
    "airflow_jwt_secret",
    "airflow_api_secret_key",
    "airflow_admin_password",
)

CELERY_SECRETS = ("cluster_results_password", "cluster_redis_password")

FLOWER_SECRETS = ("cluster_redis_flower_password", "airflow_flower_password")

REDIS_SECRETS = ("redis_admin_password",)

SECRETS = (*COMMON_SECRETS, *CELERY_SECRETS, *FLOWER_SECRETS, *REDIS_SECRETS)

STORED = {kind: f"airflow_{kind}" for kind in stored_settings.KINDS}
"""Kinds of what is kept in the metadata database, with the variable of each."""

HIDDEN = (*SECRETS, *STORED.values())
"""Variables of whose values no message may say anything."""

CLUSTER_WIDE = (
    "airflow_version",
    "airflow_executor",
    "airflow_extras",
    "airflow_requirements",
    "airflow_lock",
    "airflow_wheelhouse",
    "airflow_dags",
    "airflow_dags_git_url",
    "airflow_dags_git_ref",
    "airflow_dags_git_path",
    "airflow_dag_bundles",
    "airflow_task_memory",
    "airflow_worker_stop_timeout",
    *STORED.values(),
    "airflow_purge",
    "airflow_kubernetes_kubeconfig",
    "airflow_kubernetes_namespace",
    "airflow_kubernetes_worker_container_repository",
    "airflow_kubernetes_worker_container_tag",
    "airflow_kubernetes_pod_template_file",
    *SECRETS,
)
"""Variables that must be equal everywhere, beside all `cluster_*` ones."""

READ_BY_OTHERS = (
    "cluster_address",
    "cluster_tls_certificate",
    "airflow_worker_concurrency",
    "airflow_worker_autoscale",
    "airflow_worker_queues",
    "airflow_worker_memory_max",
    "airflow_worker_cpu_quota",
    "airflow_worker_instances",
)
"""Host-specific variables that the configuration of other hosts is computed from."""

KUBERNETES_PATHS = ("airflow_kubernetes_kubeconfig", "airflow_kubernetes_pod_template_file")

TLS_FILES = ("cluster_tls_ca", "cluster_tls_certificate", "cluster_tls_key")
"""Variables that name the PEM files of the site's own."""

LOCK_COMMAND = "ansible-playbook -i INVENTORY playbooks/lock.yml  (or dataops.airflow.lock)"

_NEEDS_HOST = re.compile(r"\b(ansible_facts|cluster_host(_\w+)?)\b")

_SECRET_NAME = re.compile(r"passw|secret|token|credential|private|(^|_)keys?($|_)")


@dataclass(frozen=True)
class Catalogue:
    """What the collection itself knows.

    :param options: role name -> option name -> argument spec, the union over the role's entry points.
        A role that is missing here has no spec; its prefix is not checked.
    :param constants: name -> role, for each variable in a role's `vars/main.yml`. Those beat the inventory.
    :param defaults: option name -> default, templated. Names whose default cannot be computed are left out.
    :param locks: the Airflow versions for which the collection ships a lock.
    """

    options: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    locks: Sequence[str] = ()

    @property
    def known(self) -> dict[str, Mapping[str, Any]]:
        """Option name -> argument spec, over all roles."""
        return {name: spec for options in self.options.values() for name, spec in options.items()}


@dataclass(frozen=True)
class Inventory:
    """The inventory as plain data, all hosts, whatever --limit says.

    :param groups: group name -> names of its members, including those of its children.
    :param variables: host -> name -> templated value, for what the inventory (or --extra-vars) sets:
        names under a role's prefix, such names after `__`, and `ansible_host`.
    :param failures: host -> name -> why its template failed; an empty reason means that the value needs the
        host's facts, and that only the host itself reads it, so that it is right to wait for them.
    :param origins: host -> name -> `file:line` of the value, where known.
    :param paths: path as written in a variable -> "file", "directory" or "missing", on the control node.
    :param ignored_prefixes: variable names that start with one of these belong to somebody else.
    :param lock: path of the lock that the hosts would install; empty where it cannot be computed.
    :param lock_text: its text; None if there is no such file.
    :param built_wheels: name -> SHA-256 of the wheels in the folder for built ones beside it.
    :param kubeconfig: what the file of `airflow_kubernetes_kubeconfig` holds; None if it is no YAML that can be read.
    :param connections: the connection budget of PostgreSQL; None where it cannot be computed.
    :param certificates: path -> what is wrong with it, of files that hold a certificate with its key.
    :param pem: path as written in one of `TLS_FILES` -> content; files that cannot be read are left out.
    """

    groups: Mapping[str, Sequence[str]]
    variables: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    ignored_prefixes: Sequence[str] = ()
    lock: str = ""
    lock_text: str | None = None
    built_wheels: Mapping[str, str] = field(default_factory=dict)
    kubeconfig: Any = None
    connections: int | None = None
    certificates: Mapping[str, str] = field(default_factory=dict)
    pem: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def hosts(self) -> list[str]:
        """Members of the collection's groups, each once, in the order of `GROUPS`."""
        return list(dict.fromkeys(host for group in GROUPS for host in self.groups.get(group, ())))

    def settings(self, name: str) -> dict[str, Any]:
        """Return host -> value for the hosts of the cluster on which the inventory sets `name`, templates resolved."""
        return {host: self.variables[host][name] for host in self.hosts if name in self.variables.get(host, {})}

    def fails(self, name: str) -> bool:
        """Whether the template of `name` failed on some host of the cluster."""
        return any(name in self.failures.get(host, {}) for host in self.hosts)

    def value(self, name: str, defaults: Mapping[str, Any]) -> Any:
        """Return the cluster's value of `name`: of the first host that sets it, else the default, else None."""
        return next(iter(self.settings(name).values()), defaults.get(name))


def executors(inventory: Inventory, catalogue: Catalogue) -> list[str]:
    """Return the names of the executors of the cluster, without their aliases, the default one first."""
    return [entry.rpartition(":")[2].strip() for entry in executor(inventory, catalogue).split(",")]


def executor(inventory: Inventory, catalogue: Catalogue) -> str:
    """Return the executor, or several with commas: what `airflow_executor` says, or else what `workers` implies."""
    value = inventory.value("airflow_executor", catalogue.defaults)
    if value and isinstance(value, str):
        return value
    return "CeleryExecutor" if inventory.groups.get("workers") else "LocalExecutor"


def local_paths(variables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the paths on the control node that some host's variables name, as they are written."""
    found: dict[str, None] = {}
    for values in variables.values():
        for name in (
            "airflow_lock",
            "airflow_dags",
            "airflow_wheelhouse",
            "airflow_webserver_config",
            "haproxy_certificate",
            *KUBERNETES_PATHS,
        ):
            if isinstance(values.get(name), str) and values[name]:
                found[values[name]] = None
        found.update(dict.fromkeys(strings_in(values.get("cluster_ca_certificates"))))
        found.update(dict.fromkeys(path for name in TLS_FILES for path in strings_in(values.get(name))))
    return list(found)


def tls_paths(variables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the paths of PEM files of the site's own that some host's variables name, as they are written."""
    named = [path for values in variables.values() for name in TLS_FILES for path in strings_in(values.get(name))]
    return list(dict.fromkeys(named))


def may_wait_for_facts(name: str, text: Any) -> bool:
    """Whether a template that fails now may be left until its host's facts are there.

    True for a value made of `ansible_facts`, or of what the probe learns (`cluster_host`), that no other host's
    configuration is computed from. The others must follow from the inventory alone, or `--limit` would compute
    something else than a full run.
    """
    shared = name in CLUSTER_WIDE or name in READ_BY_OTHERS or name.startswith("cluster_")
    return not shared and bool(_NEEDS_HOST.search(str(text)))


def is_secret(name: str, spec: Mapping[str, Any]) -> bool:
    """Whether no message may say anything of a variable's value."""
    return name in SECRETS or bool(spec.get("no_log")) or bool(_SECRET_NAME.search(name))


def all_names(inventory: Inventory) -> list[str]:
    """Names that the inventory sets on some host of the cluster, sorted."""
    return sorted(
        {
            name
            for host in inventory.hosts
            for name in (*inventory.variables.get(host, {}), *inventory.failures.get(host, {}))
        }
    )


def hosts_that_set(inventory: Inventory, name: str) -> list[str]:
    """Hosts of the cluster on which the inventory sets a variable, whether or not its template could be computed."""
    return [
        host
        for host in inventory.hosts
        if name in inventory.variables.get(host, {}) or name in inventory.failures.get(host, {})
    ]


def subject_of(inventory: Inventory, name: str) -> str:
    """The variable's name, with the place where it is set."""
    return f"{name}{origin_of(inventory, name, hosts_that_set(inventory, name))}"


def origin_of(inventory: Inventory, name: str, hosts: Iterable[str]) -> str:
    """` (file:line)` of the value on the first of the hosts for which it is known, or ""."""
    known = (inventory.origins.get(host, {}).get(name) for host in hosts)
    return next((f" ({origin})" for origin in known if origin), "")


def scope_of(inventory: Inventory, hosts: Sequence[str]) -> str:
    """Some hosts in as few words as possible: all of them, a whole group, or their names."""
    total = len(inventory.hosts)
    groups = [group for group in GROUPS if set(inventory.groups.get(group, ())) == set(hosts)]
    if len(hosts) == total:
        return "all hosts" if total > 1 else hosts[0]
    return f"{f'the group {groups[0]}: ' if groups else ''}{names_of(hosts)} ({len(hosts)} of {total} hosts)"


def kind_of_path(inventory: Inventory, path: str) -> str:
    """What a path of a variable is on the control node."""
    return {"file": "a file", "directory": "a folder"}.get(inventory.paths.get(path, ""), "missing")


def check_path(inventory: Inventory, variable: str, kind: str, allowed: str, remedy: str) -> list[Problem]:
    """Check that what a variable names on the control node is there, a "file" or a "directory" as it should be."""
    return [
        Problem(
            subject_of(inventory, variable),
            f"{json.dumps(path)}, which is {kind_of_path(inventory, path)} on the control node",
            allowed,
            remedy,
        )
        for path in dict.fromkeys(strings_in(list(inventory.settings(variable).values())))
        if inventory.paths.get(path) != kind
    ]
