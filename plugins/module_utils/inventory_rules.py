# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""What makes an inventory a valid Airflow cluster.

`check_inventory` is a pure function: plain data in, a list of `Problem` out. It reads no file, no host and no
Ansible object; `plugins/action/validate_inventory.py` collects the data and prints the result.
No text made here contains the value of a secret.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.dataops.airflow.plugins.module_utils import (
    certificate_rules,
    literals,
    lock_file,
    stored_settings,
)

CONTROL_GROUPS = ("schedulers", "webservers", "dag_processors", "triggerers", "flower")
"""The groups of Airflow's control components."""

AIRFLOW_GROUPS = (*CONTROL_GROUPS, "workers")
"""The groups whose members get an Airflow environment."""

GROUPS = ("postgresql", "redis", "load_balancers", *AIRFLOW_GROUPS)
"""Every group that the collection reads."""

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

PURPOSES = ("install", "operate", "deliver")
"""Kinds of run. One that installs nothing is not held up by what only an installation needs; `deliver` needs DAGs."""

COMPONENTS = ("scheduler", "api-server", "dag-processor", "triggerer", "flower", "worker")
"""The keys of `airflow_service_options`."""

ADDRESSES = ("cluster_address", "cluster_database_host", "cluster_redis_host", "cluster_webserver_host")
"""Variables that hold an address: `check_addresses` reads them."""

CONFIG_BY_VARIABLE = {
    "database.sql_alchemy_conn": "cluster_database_*",
    "celery.broker_url": "cluster_redis_*",
    "celery.result_backend": "cluster_results_*",
    "core.fernet_key": "airflow_fernet_key",
    "api_auth.jwt_secret": "airflow_jwt_secret",
    "api.secret_key": "airflow_api_secret_key",
    "celery.flower_basic_auth": "airflow_flower_password",
    "fab.config_file": "airflow_webserver_config",
    "core.executor": "airflow_executor",
    "api.port": "cluster_webserver_port",
    "api.workers": "cluster_webserver_workers",
    "api.ssl_cert": "cluster_tls",
    "api.ssl_key": "cluster_tls",
    "celery.worker_concurrency": "airflow_worker_concurrency",
    "celery.worker_autoscale": "airflow_worker_autoscale",
    "celery.flower_port": "cluster_flower_port",
    "logging.worker_log_server_port": "cluster_worker_log_port",
    "logging.trigger_log_server_port": "cluster_triggerer_log_port",
    "scheduler.scheduler_health_check_server_port": "cluster_scheduler_health_port",
    "kubernetes_executor.config_file": "airflow_kubernetes_kubeconfig",
    "kubernetes_executor.namespace": "airflow_kubernetes_namespace",
    "kubernetes_executor.worker_container_repository": "airflow_kubernetes_worker_container_repository",
    "kubernetes_executor.worker_container_tag": "airflow_kubernetes_worker_container_tag",
    "kubernetes_executor.pod_template_file": "airflow_kubernetes_pod_template_file",
}
"""Options of `airflow_config` that the environment files beat, or that other values are computed with."""

AT_LEAST_ONE = (
    "core.parallelism",
    "core.default_pool_task_slot_count",
    "core.max_active_tasks_per_dag",
    "core.max_active_runs_per_dag",
)
"""Options of `airflow_config` that bound how much runs at once: with less than 1, nothing would."""

LIMITS_BY_VARIABLE = {"MemoryMax": "airflow_worker_memory_max", "CPUQuota": "airflow_worker_cpu_quota"}
"""Directives of a worker that have a variable of their own, which the memory of its tasks is checked against."""

VISIBILITY = ("celery_broker_transport_options", "visibility_timeout")
"""Section and option of `airflow_config`: seconds after which Redis hands a message to another worker."""
AIRFLOWS_VISIBILITY = 86400
"""What Airflow uses where the option is not set."""

CONFIG_SECRETS = (
    "smtp.smtp_password",
    "secrets.backend_kwargs",
    "workers.secrets_backend_kwargs",
    "logging.remote_task_handler_kwargs",
    "celery_broker_transport_options.sentinel_kwargs",
    "database.sql_alchemy_conn_async",
    "database.sql_alchemy_engine_args",
    "sentry.sentry_dsn",
)
"""Options that may hold a secret: not for airflow.cfg, which everybody on the host may read."""

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

CLUSTER_WIDE = (
    "airflow_version",
    "airflow_executor",
    "airflow_extras",
    "airflow_requirements",
    "airflow_lock",
    "airflow_wheelhouse",
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

HOST_SPECIFIC = ("cluster_address", "cluster_tls_certificate", "cluster_tls_key")
"""The `cluster_*` variables that differ from host to host."""

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

PORTS = (
    ("postgresql", "cluster_database_port"),
    ("redis", "cluster_redis_port"),
    ("load_balancers", "cluster_balancer_port"),
    ("schedulers", "cluster_scheduler_health_port"),
    ("webservers", "cluster_webserver_port"),
    ("triggerers", "cluster_triggerer_log_port"),
)
"""Groups with the options that hold the ports which their members always listen on."""

CELERY_PORTS = (("flower", "cluster_flower_port"), ("workers", "cluster_worker_log_port"))
LOCAL_PORTS = (("schedulers", "cluster_worker_log_port"),)
"""With LocalExecutor a scheduler serves the logs of its tasks itself; beside a worker on its host, that one does."""

KUBERNETES_EXTRA = "cncf.kubernetes"
KUBERNETES_PATHS = ("airflow_kubernetes_kubeconfig", "airflow_kubernetes_pod_template_file")
KUBECONFIG_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""Keys of a kubeconfig that name another file, which the hosts would not have."""

GIT_URL = re.compile(r"(?:(https?|ssh|git|file)://[^\s/]*/?\S+|(?:[\w.-]+@)?[\w.-]+:(?!//)\S+|/\S+)")
"""What `git clone` takes: a URL, host:path as in scp, or a path on the control node."""

URL_PASSWORD = re.compile(r"[a-zA-Z][\w+.-]*://[^/\s@]*:[^/\s@]*@")
"""The start of a URL with a password in it."""

BUNDLE_KEYS = ("name", "classpath", "kwargs", "team_name")
"""What an entry of `airflow_dag_bundles` may set, as in Airflow."""

OWN_BUNDLES = ("dags-folder", "canary")
"""The bundles that the collection makes."""

INSTANCE_KEYS = ("queues", "concurrency", "autoscale", "memory_max", "cpu_quota")
"""What an entry of `airflow_worker_instances` may set, each as the variable `airflow_worker_KEY` does."""

PATTERNS = {
    "airflow_worker_serial": (r"[1-9][0-9]*%?", "a number of workers, 1 or more, or a part of them such as 25%"),
    "airflow_worker_autoscale": (
        r"|[1-9][0-9]*,[1-9][0-9]*",
        "the most and the fewest processes, each 1 or more, such as 8,2; empty: always airflow_worker_concurrency",
    ),
    "airflow_worker_memory_max": (
        r"|[1-9][0-9]*(\.[0-9]+)?[KMGT]|([1-9][0-9]?|100)%",
        "a size with K, M, G or T, such as 4G, or a part of the host's memory up to 100%, such as 80%; empty: no limit",
    ),
    "airflow_worker_cpu_quota": (r"|[1-9][0-9]*%", "a percentage of one core, such as 200% for two; empty: no limit"),
    "airflow_dags_git_ref": (
        r"[\w][\w./@+#-]*",
        "a branch, a tag, or the 40 digits of a commit; HEAD: the default branch",
    ),
    "airflow_dags_git_path": (
        r"|(?!/)(?!(.*/)?\.\.(/|$))[^\0\n]+",
        "a folder of the repository, by its path in it; empty: all",
    ),
    "airflow_dags_kept": (r"[1-9][0-9]*", "an integer >= 1; dags_rollback.yml needs 2"),
    "airflow_version": (r"[0-9][0-9A-Za-z.+-]*", "a version, such as 3.3.2"),
    "airflow_python": (r"/[A-Za-z0-9_./+-]+", "the full path of an interpreter, without spaces"),
    **dict.fromkeys(
        ("cluster_database_name", "cluster_results_name"),
        (r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", "1 to 63 letters, digits and _.-"),
    ),
    **dict.fromkeys(
        ("cluster_database_user", "cluster_results_user"),
        (
            # PostgreSQL takes 63, and rotate.yml makes a second role with _2 after the name.
            r'[A-Za-z0-9_][^"\\\x00-\x1f\x7f]{0,60}',
            '1 to 61 characters, the first a letter, a digit or _, no " and no \\',
        ),
    ),
    **dict.fromkeys(
        ("cluster_redis_user", "cluster_redis_flower_user"),
        (r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", "letters, digits and _.@-, the first no sign"),
    ),
}
"""Variables with a form of their own, and what it is."""

SOURCES = (
    "firewall_webserver_sources",
    "firewall_flower_sources",
    "firewall_database_sources",
    "firewall_redis_sources",
)
"""Variables with networks that may connect."""

TLS_FILES = ("cluster_tls_ca", "cluster_tls_certificate", "cluster_tls_key")
"""Variables that name the PEM files of the site's own."""

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

LOCK_COMMAND = "ansible-playbook -i INVENTORY playbooks/lock.yml  (or dataops.airflow.lock)"

WHEELHOUSE_COMMAND = "ansible-playbook -i INVENTORY playbooks/wheelhouse.yml  (or dataops.airflow.wheelhouse)"

_NEEDS_HOST = re.compile(r"\b(ansible_facts|cluster_host(_\w+)?)\b")
_SECRET_NAME = re.compile(r"passw|secret|token|credential|private|(^|_)keys?($|_)")
_PLACEHOLDER = re.compile(
    r"(changeme|changethis|replaceme|placeholder|default|admin|airflow|postgres(ql)?|password|passwd|pass|secret|redis"
    r"|flower|celery|test|example|todo|fixme|dummy|sample|your|my|here|insert|root|user|qwerty|letmein|welcome|x{3,})+"
)
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_EXECUTOR = re.compile(rf"([A-Za-z_][A-Za-z0-9_.-]*:)?({'|'.join(EXECUTORS)})")
"""An executor, which may have an alias."""
_EXPANDS = re.compile(r"\$[A-Za-z_{]")
"""What `os.path.expandvars` takes for a variable, and Airflow replaces where its environment has it."""
_FERNET_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    :param subject: what it is about: a variable, a group, a host.
    :param found: what is there. Never the value of a secret.
    :param allowed: what may be there.
    :param remedy: what to do.
    """

    subject: str
    found: str
    allowed: str
    remedy: str

    def __str__(self) -> str:
        lines = [self.subject]
        for label, text in (("found:", self.found), ("allowed:", self.allowed), ("remedy:", self.remedy)):
            first, *rest = text.splitlines() or [""]
            lines.append(f"  {label:<9}{first}")
            lines += [f"{'':11}{line}" for line in rest]
        return "\n".join(lines)


def report(title: str, problems: Sequence[Problem]) -> str:
    """Return one message that lists all problems under a title."""
    return "\n\n".join([title, *map(str, problems)])


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


def check_inventory(inventory: Inventory, catalogue: Catalogue, purpose: str = "install") -> list[Problem]:
    """Return everything that is wrong with an inventory; an empty list means that it is valid.

    :param purpose: one of `PURPOSES`.
    """
    installation: list[Problem] = []
    if purpose == "install":
        installation += check_lock(inventory, catalogue)
        installation += check_paths(inventory)
        installation += check_kubernetes(inventory, catalogue)
        installation += check_bundle_packages(inventory, catalogue)
    if purpose != "operate":
        installation += check_dags(inventory, catalogue, purpose)
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
        *check_limits(inventory),
        *check_connections(inventory),
        *check_longest_task(inventory, catalogue),
        *check_service_options(inventory),
        *check_instances(inventory, catalogue),
        *check_stored(inventory, catalogue),
        *check_purge(inventory),
        *check_bundles(inventory),
        *check_cluster_wide(inventory, catalogue),
        *check_addresses(inventory),
        *check_ports(inventory, catalogue),
        *check_tls(inventory, catalogue),
        *check_secrets(inventory, catalogue),
        *check_redis_users(inventory, catalogue),
        *check_logins(inventory, catalogue),
        *installation,
    ]


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
        found.update(dict.fromkeys(_strings(values.get("cluster_ca_certificates"))))
        found.update(dict.fromkeys(path for name in TLS_FILES for path in _strings(values.get(name))))
    return list(found)


def tls_paths(variables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the paths of PEM files of the site's own that some host's variables name, as they are written."""
    named = [path for values in variables.values() for name in TLS_FILES for path in _strings(values.get(name))]
    return list(dict.fromkeys(named))


def may_wait_for_facts(name: str, text: Any) -> bool:
    """Whether a template that fails now may be left until its host's facts are there.

    True for a value made of `ansible_facts`, or of what the probe learns (`cluster_host`), that no other host's
    configuration is computed from. The others must follow from the inventory alone, or `--limit` would compute
    something else than a full run.
    """
    shared = name in CLUSTER_WIDE or name in READ_BY_OTHERS or name.startswith("cluster_")
    return not shared and bool(_NEEDS_HOST.search(str(text)))


# -- rules ----------------------------------------------------------------------------------------------------------


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
                    f"{len(members)} hosts: {_names(members)}",
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
                f"{_count(members, 'host')} in a group that the collection does not read, and none in {meant}",
                f"the groups {', '.join(GROUPS)}",
                f"rename the group {group} to {meant}, or add it as a child of {meant}",
            )
        )
    return problems


def check_executor(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check `airflow_executor` alone and against the group `workers`."""
    subject = _subject(inventory, "airflow_executor")
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
                + (f", with {_names([json.dumps(entry) for entry in malformed])}" if malformed and several else "")
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
                f"{json.dumps(value)} with {_count(workers, 'host')} in the group workers, which would idle",
                "CeleryExecutor among the executors, or an empty group workers",
                f"write CeleryExecutor,{value} or {value},CeleryExecutor; or remove airflow_executor (CeleryExecutor "
                "is derived), or empty the group workers",
            )
        ]
    return []


def check_kubernetes(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that KubernetesExecutor, where it is among the executors, has what it needs on a host."""
    if "KubernetesExecutor" not in executors(inventory, catalogue):
        return []
    problems = []
    extras = inventory.value("airflow_extras", catalogue.defaults)
    known = {re.sub("[-_.]+", ".", extra) for extra in _texts(extras)}
    if isinstance(extras, list) and not known & {KUBERNETES_EXTRA, "all"}:
        problems.append(
            Problem(
                _subject(inventory, "airflow_extras"),
                f"no {KUBERNETES_EXTRA}, which has KubernetesExecutor",
                f"{KUBERNETES_EXTRA} among the extras, and a lock that was made with it",
                f"add {KUBERNETES_EXTRA} to airflow_extras, and run\n{LOCK_COMMAND}",
            )
        )
    repository = "airflow_kubernetes_worker_container_repository"
    for name in (repository, "airflow_kubernetes_worker_container_tag"):
        # The default of the tag is the version, which another rule looks at.
        set_here = inventory.value(name, {repository: ""})
        if set_here == "" and not inventory.fails(name):
            problems.append(
                Problem(
                    _subject(inventory, name),
                    "no value: pods would have no image",
                    "an image with the same Airflow and your DAGs, its repository and its tag apart",
                    f"set {name} in group_vars/all",
                )
            )
    template = inventory.value("airflow_kubernetes_pod_template_file", {})
    if template and inventory.paths.get(template) != "file":
        problems.append(
            Problem(
                _subject(inventory, "airflow_kubernetes_pod_template_file"),
                f"{json.dumps(template)}, which is {_kind(inventory, template)} on the control node",
                'an existing file, by its full path; "" for the collection\'s',
                "correct the path, or remove the variable",
            )
        )
    return [*problems, *_check_kubeconfig(inventory)]


def _check_kubeconfig(inventory: Inventory) -> list[Problem]:
    """Check the kubeconfig alone. Nothing of what it holds but names is shown."""
    name = "airflow_kubernetes_kubeconfig"
    path = inventory.value(name, {})
    if inventory.fails(name):
        return []
    config = inventory.kubeconfig if isinstance(inventory.kubeconfig, Mapping) else {}
    parts = {key: _named(config.get(key), key.removesuffix("s")) for key in ("clusters", "users", "contexts")}
    context = parts["contexts"].get(str(config.get("current-context")))
    wanted = {key: context.get(key) for key in ("cluster", "user")} if isinstance(context, Mapping) else {}
    lost = [f"{key} {wanted[key]}" for key in wanted if str(wanted[key]) not in parts[f"{key}s"]]
    elsewhere = [
        f"{key} of {kind} {entry}"
        for kind, entries in parts.items()
        for entry, content in entries.items()
        for key in (content if isinstance(content, Mapping) else ())
        if key in KUBECONFIG_FILES
    ]
    if not path:
        found = "no value: the scheduler would not reach the Kubernetes cluster"
    elif inventory.paths.get(path) != "file":
        found = f"{json.dumps(path)}, which is {_kind(inventory, path)} on the control node"
    elif inventory.kubeconfig is None:
        found = f"{json.dumps(path)}, which cannot be read: no YAML, or encrypted and without its password"
    elif not parts["clusters"]:
        found = f"{json.dumps(path)}, in which there are no clusters"
    elif not wanted:
        found = f"{json.dumps(path)}, whose current-context is not among its contexts"
    elif lost:
        found = f"{json.dumps(path)}, whose current-context names what is not there: {', '.join(lost)}"
    elif elsewhere:
        found = f"{json.dumps(path)}, which names files that the hosts do not have: {_names(elsewhere)}"
    else:
        return []
    return [
        Problem(
            _subject(inventory, name),
            found,
            "a kubeconfig on the control node, by its full path, with a current-context and all certificates inside",
            "write one with kubectl config view --raw --flatten --minify, and encrypt it with ansible-vault encrypt",
        )
    ]


def _named(entries: Any, key: str) -> dict[str, Any]:
    """Return name -> content of a list in a kubeconfig."""
    found = entries if isinstance(entries, list) else []
    return {str(entry.get("name")): entry.get(key) for entry in found if isinstance(entry, Mapping)}


def check_sqlite(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that SQLite, which is a file, has one host to itself and no server beside it."""
    if inventory.value("cluster_database_backend", catalogue.defaults) != "sqlite":
        return []
    servers = inventory.groups.get("postgresql", ())
    address = inventory.value("cluster_database_host", catalogue.defaults)
    names = executors(inventory, catalogue)
    several = list(dict.fromkeys(host for group in AIRFLOW_GROUPS for host in inventory.groups.get(group, ())))
    found = [
        f"{_names(servers)} in the group postgresql" if servers else "",
        "cluster_database_host is set" if address else "",
        "CeleryExecutor, whose workers would need the database at once" if "CeleryExecutor" in names else "",
        "KubernetesExecutor, which refuses it" if "KubernetesExecutor" in names else "",
        f"Airflow on {_count(several, 'host')}: {_names(several)}" if len(several) > 1 else "",
    ]
    return [
        Problem(
            _subject(inventory, "cluster_database_backend"),
            f'"sqlite" with {text}',
            "SQLite for one host with LocalExecutor; PostgreSQL for everything else",
            "remove cluster_database_backend to use PostgreSQL, which begins empty; or keep one host, as in "
            "inventories/quickstart",
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
    for name in _all_names(inventory):
        if name in known or name.startswith(tuple(inventory.ignored_prefixes)):
            continue
        hosts = _hosts_that_set(inventory, name)
        found = f"set on {_scope(inventory, hosts)}{_origin(inventory, name, hosts)}"
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
                    _did_you_mean(name.lstrip("_"), known) or "remove it",
                )
            )
        elif name.startswith(prefixes):
            role = name.partition("_")[0]
            problems.append(
                Problem(
                    name,
                    found,
                    f"the variables of the role {role}: ansible-doc -t role dataops.airflow.{role}",
                    _did_you_mean(name, known) or "remove it, or rename it if it is your own: the prefix is taken",
                )
            )
    return problems


def check_host_names(inventory: Inventory) -> list[Problem]:
    """Check the names of the hosts, which become names of workers and of queues, whatever their addresses are."""
    return [
        Problem(
            f"host {json.dumps(host)}",
            "a name that would become something else in the files that it stands in",
            "letters, digits and _.-",
            "rename it; an address of another form goes into cluster_address",
        )
        for host in inventory.hosts
        if not literals.HOST.fullmatch(host)
    ]


def check_templates(inventory: Inventory) -> list[Problem]:
    """Report the variables whose template fails."""
    hosts_by_failure: dict[tuple[str, str], list[str]] = {}
    for host in inventory.hosts:
        for name, reason in inventory.failures.get(host, {}).items():
            if reason:
                hosts_by_failure.setdefault((name, reason), []).append(host)
    return [
        Problem(
            f"{name} on {_names(hosts)}",
            f"{reason}{_origin(inventory, name, hosts)}",
            "a value that can be computed from the inventory alone, before any host is asked",
            "write the value itself, or set the variable that it refers to; "
            "for a vaulted value, give the vault's password; for text that contains {{ or {%, use !unsafe",
        )
        for (name, reason), hosts in hosts_by_failure.items()
    ]


def check_types(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check each value against its argument spec, and ports and the workers' concurrency against their range."""
    known = catalogue.known
    hosts_by_problem: dict[tuple[str, str, str, str], list[str]] = {}
    for host in inventory.hosts:
        for name, value in inventory.variables.get(host, {}).items():
            spec = known.get(name)
            if spec is None or (value is None and (name in SECRETS or spec.get("default") is None)):
                continue
            wrong = _check_value(name, value, spec, catalogue)
            if wrong:
                hosts_by_problem.setdefault((name, *wrong), []).append(host)
    return [
        Problem(
            f"{name} on {_scope(inventory, hosts)}",
            f"{found}{_origin(inventory, name, hosts)}",
            allowed,
            remedy,
        )
        for (name, found, allowed, remedy), hosts in hosts_by_problem.items()
    ]


def check_literals(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that no value becomes another setting, or a line more, of the files that it is written into."""
    hosts_by_finding: dict[tuple[str, literals.Finding], list[str]] = {}
    for host in inventory.hosts:
        for name, value in inventory.variables.get(host, {}).items():
            if name not in catalogue.known or name in (*SECRETS, *PATTERNS, *ADDRESSES):
                continue
            for finding in literals.misread(name, value):
                hosts_by_finding.setdefault((name, finding), []).append(host)
    return [
        Problem(
            f"{name}{f', {where}' if where else ''} on {_scope(inventory, hosts)}",
            f"{found}{_origin(inventory, name, hosts)}",
            allowed,
            f"correct the value of {name}; in YAML, text after | has a line break at its end",
        )
        for (name, (where, found, allowed)), hosts in hosts_by_finding.items()
    ]


def check_config(inventory: Inventory) -> list[Problem]:
    """Check that `airflow_config` neither sets what has a variable of its own nor puts a secret into airflow.cfg."""
    hosts_by_option: dict[str, list[str]] = {}
    for host, config in inventory.settings("airflow_config").items():
        sections = config if isinstance(config, Mapping) else {}
        found = {
            f"{section}.{option}".lower()
            for section, options in sections.items()
            for option, value in (options.items() if isinstance(options, Mapping) else ())
            if value is not None or f"{section}.{option}".lower() in CONFIG_BY_VARIABLE
        }
        for option in found:
            hosts_by_option.setdefault(option, []).append(host)
    problems = []
    texts = [
        host
        for host, config in inventory.settings("airflow_config").items()
        if isinstance(config, Mapping)
        and isinstance(celery := config.get("celery"), Mapping)
        and isinstance(celery.get("extra_celery_config"), str)
    ]
    if texts:
        problems.append(
            Problem(
                "airflow_config, option extra_celery_config of the section celery",
                f"text, on {_scope(inventory, texts)}{_origin(inventory, 'airflow_config', texts)}",
                "a dictionary: it is merged with what the collection sets, which keeps tasks while Redis is away",
                "write it as YAML, such as extra_celery_config: {worker_max_tasks_per_child: 10}",
            )
        )
    for name in (*CONFIG_BY_VARIABLE, *CONFIG_SECRETS):
        if name not in hosts_by_option:
            continue
        hosts = hosts_by_option[name]
        section, option = name.split(".")
        variable = CONFIG_BY_VARIABLE.get(name)
        problems.append(
            Problem(
                f"airflow_config, option {option} of the section {section}",
                f"set on {_scope(inventory, hosts)}{_origin(inventory, 'airflow_config', hosts)}",
                f"not in airflow_config: the collection sets this option from {variable}, and computes more from it"
                if variable
                else "not in airflow_config, which becomes a file that everybody on the host may read",
                f"remove it, and set {variable} instead"
                if variable
                else f"put it into airflow_environment as AIRFLOW__{section.upper()}__{option.upper()}; "
                "only root reads the files made from that",
            )
        )
    return problems


def check_limits(inventory: Inventory) -> list[Problem]:
    """Check the options of `airflow_config` that bound how much runs at once."""
    hosts_by_value: dict[tuple[str, str], list[str]] = {}
    for host, config in inventory.settings("airflow_config").items():
        for name in AT_LEAST_ONE:
            section, option = name.split(".")
            options = config.get(section) if isinstance(config, Mapping) else None
            value = options.get(option) if isinstance(options, Mapping) else None
            if value is not None and (isinstance(value, bool) or not re.fullmatch("0*[1-9][0-9]*", str(value))):
                hosts_by_value.setdefault((name, _show(value)), []).append(host)
    return [
        Problem(
            f"airflow_config, option {name.partition('.')[2]} of the section {name.partition('.')[0]}",
            f"{value} on {_scope(inventory, hosts)}{_origin(inventory, 'airflow_config', hosts)}",
            "an integer >= 1; null leaves it to Airflow",
            "correct it, or remove it: the collection or Airflow has a default",
        )
        for (name, value), hosts in hosts_by_value.items()
    ]


def check_connections(inventory: Inventory) -> list[Problem]:
    """Check that PostgreSQL admits as many connections as the components of the cluster may open."""
    needed = inventory.connections
    members = inventory.groups.get("postgresql", ())
    variables = inventory.variables.get(members[0], {}) if members else {}
    parameters = variables.get("postgresql_parameters")
    name, value = "postgresql_max_connections", variables.get("postgresql_max_connections")
    if isinstance(parameters, Mapping) and "max_connections" in parameters:
        name, value = "postgresql_parameters", parameters["max_connections"]
    if needed is None or not re.fullmatch("[0-9]+", str(value)) or int(str(value)) >= needed:
        return []
    return [
        Problem(
            _subject(inventory, name),
            f"{value} connections; the components of this inventory may open {needed}, and then tasks fail",
            f"at least {needed}, the sum that plan.yml shows",
            "remove it: the collection computes it, and it grows with the workers; or fewer schedulers, API workers or "
            "worker slots",
        )
    ]


def check_longest_task(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that no message is delivered a second time while its first worker may still run the task."""
    configs, stops = inventory.settings("airflow_config"), inventory.settings("airflow_worker_stop_timeout")
    section, option = VISIBILITY
    hosts_by_pair: dict[tuple[int, int], list[str]] = {}
    for host in inventory.groups.get("workers", ()):
        config = configs.get(host)
        options = config.get(section) if isinstance(config, Mapping) else None
        visible = options.get(option, "") if isinstance(options, Mapping) else ""
        visible = AIRFLOWS_VISIBILITY if visible is None else visible
        longest = stops.get(host, catalogue.defaults.get("airflow_worker_stop_timeout"))
        if str(visible).isdigit() and str(longest).isdigit():
            hosts_by_pair.setdefault((int(str(visible)), int(str(longest))), []).append(host)
    return [
        Problem(
            f"airflow_config, option {option} of the section {section}",
            f"{visible} seconds on {_scope(inventory, hosts)}; airflow_worker_stop_timeout is {longest}: "
            f"a task that runs for longer than {visible} seconds would be started a second time",
            "at least airflow_worker_stop_timeout, which is longer than the longest task",
            "remove it: the collection sets it to a day, or to airflow_worker_stop_timeout where that is longer",
        )
        for (visible, longest), hosts in hosts_by_pair.items()
        if visible < longest
    ]


def check_service_options(inventory: Inventory) -> list[Problem]:
    """Check that the keys of `airflow_service_options` are components."""
    hosts_by_key: dict[str, list[str]] = {}
    for host, options in inventory.settings("airflow_service_options").items():
        for key in options if isinstance(options, Mapping) else ():
            if key not in COMPONENTS:
                hosts_by_key.setdefault(str(key), []).append(host)
    problems = []
    for key, hosts in hosts_by_key.items():
        plain = key.lower().replace("_", "-").removeprefix("airflow-").removesuffix(".service")
        near = difflib.get_close_matches(plain, COMPONENTS, 1, 0.5)
        problems.append(
            Problem(
                f"airflow_service_options, key {json.dumps(key)}",
                f"no component; set on {_scope(inventory, hosts)}"
                f"{_origin(inventory, 'airflow_service_options', hosts)}",
                ", ".join(COMPONENTS),
                f"did you mean {near[0]}?" if near else "correct the key, or remove it",
            )
        )
    hosts_by_limit: dict[str, list[str]] = {}
    for host, options in inventory.settings("airflow_service_options").items():
        worker = options.get("worker") if isinstance(options, Mapping) else None
        for directive in worker if isinstance(worker, Mapping) else ():
            if directive in LIMITS_BY_VARIABLE:
                hosts_by_limit.setdefault(directive, []).append(host)
    for directive, hosts in hosts_by_limit.items():
        problems.append(
            Problem(
                f"airflow_service_options, directive {directive} of worker",
                f"set on {_scope(inventory, hosts)}{_origin(inventory, 'airflow_service_options', hosts)}",
                f"not there: {LIMITS_BY_VARIABLE[directive]} has it, for each worker of a host its own",
                f"remove it, and set {LIMITS_BY_VARIABLE[directive]} instead",
            )
        )
    return problems


def check_instances(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check names and settings of `airflow_worker_instances`."""
    variable = "airflow_worker_instances"
    hosts_by_problem: dict[tuple[str, str, str, str], list[str]] = {}
    for host, instances in inventory.settings(variable).items():
        for name, entry in instances.items() if isinstance(instances, Mapping) else ():
            for problem in _check_instance(name, entry, catalogue):
                hosts_by_problem.setdefault(problem, []).append(host)
            if f"{host}-{name}" in inventory.groups.get("workers", ()):
                clash = (
                    f"name {json.dumps(name)}",
                    f"on {host} its worker would be {host}-{name}, which is another host of the group workers",
                    "names and hosts that give each worker a name of its own",
                    "rename it",
                )
                hosts_by_problem.setdefault(clash, []).append(host)
    return [
        Problem(
            f"{variable}, {subject} on {_scope(inventory, hosts)}",
            f"{found}{_origin(inventory, variable, hosts)}",
            allowed,
            remedy,
        )
        for (subject, found, allowed, remedy), hosts in hosts_by_problem.items()
    ]


def _check_instance(name: Any, entry: Any, catalogue: Catalogue) -> list[tuple[str, str, str, str]]:
    """Return (subject, found, allowed, remedy) of all that is wrong with one entry of `airflow_worker_instances`."""
    problems = []
    if not isinstance(name, str) or not re.fullmatch("[a-z0-9_]+", name):
        allowed = "small letters, digits and underscores, as text"
        problems.append((f"name {json.dumps(name)}", _show(name), allowed, "rename it; put digits alone in quotes"))
    if not isinstance(entry, Mapping):
        keys = ", ".join(INSTANCE_KEYS)
        found = "nothing (null)" if entry is None else _show(entry)
        place = literals.below("", name)
        return [*problems, (place, found, f"a dictionary with the keys {keys}", f"write {place}: {{}} for defaults")]
    for key, value in entry.items():
        place = literals.below(literals.below("", name), key)
        if key not in INSTANCE_KEYS:
            meant = _did_you_mean(str(key).removeprefix("airflow_worker_"), INSTANCE_KEYS)
            problems.append((place, "no such setting", ", ".join(INSTANCE_KEYS), meant or "remove it"))
            continue
        like = f"airflow_worker_{key}"
        wrong = _check_value(like, value, catalogue.known[like], catalogue) if like in catalogue.known else None
        if wrong:
            found, allowed, remedy = wrong
            problems.append((place, found, allowed, remedy.replace(like, place)))
    return problems


def check_stored(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check what is to be kept in the metadata database: pools, variables, connections, roles and users."""
    hosts_by_problem: dict[tuple[str, str, str, str, str], list[str]] = {}
    for kind, variable in STORED.items():
        for host, entries in inventory.settings(variable).items():
            for name, entry in entries.items() if isinstance(entries, Mapping) else ():
                for problem in _check_entry(kind, name, entry, inventory, catalogue):
                    hosts_by_problem.setdefault((variable, *problem), []).append(host)
    return [
        Problem(
            f"{variable}, {subject} on {_scope(inventory, hosts)}",
            f"{found}{_origin(inventory, variable, hosts)}",
            allowed,
            remedy,
        )
        for (variable, subject, found, allowed, remedy), hosts in hosts_by_problem.items()
    ]


def _check_entry(
    kind: str, name: Any, entry: Any, inventory: Inventory, catalogue: Catalogue
) -> list[tuple[str, str, str, str]]:
    """Return (subject, found, allowed, remedy) of all that is wrong with one object; no values of fields."""
    fields = stored_settings.FIELDS[kind]
    keys = ", ".join(fields)
    pattern, meant = STORED_NAMES[kind]
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        return [(f"name {_show(name)}", _show_type(name), meant, "rename it; put digits alone in quotes")]
    reserved = _check_reserved(kind, name, inventory, catalogue)
    if reserved:
        return [(name, *reserved)]
    if kind == "variables" and isinstance(entry, (str, int, float)):
        return []
    if not isinstance(entry, Mapping):
        found = "nothing (null)" if entry is None else _show_type(entry)
        short = "text, a number, true or false; or " if kind == "variables" else ""
        remedy = f"write {{value: ...}} as the entry of {name}" if kind == "variables" else f"write {name}: {{...}}"
        return [(name, found, f"{short}a dictionary with the keys {keys}", remedy)]
    problems = []
    for key, spec in fields.items():
        value = entry.get(key)
        if value is None and spec.get("required"):
            example = ", such as postgres, http or ssh" if key == "conn_type" else ""
            found = "nothing (null)" if key in entry else "missing"
            problems.append((f"{name}.{key}", found, f"{_describe(spec)}{example}", f"write {key}: ..."))
        elif value is not None:
            wrong = _check_field(kind, name, key, value, inventory, catalogue)
            if wrong:
                problems.append((f"{name}.{key}", *wrong))
    for key in entry:
        if key not in fields:
            meant = STORED_FIELDS.get(str(key), "")
            remedy = (
                f"write {meant} instead" if meant and meant.split(",")[0] in fields else _did_you_mean(str(key), fields)
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
    shown = _show_type(value) if secret else _show(value)
    correct = f"correct {field} of {name}"
    if spec["type"] == "str" and not isinstance(value, str):
        return _show_type(value), "text", "put it in quotes"
    if spec["type"] == "dict" and not isinstance(value, Mapping):
        return _show_type(value), "a dictionary", "write it as YAML; for a JSON text, use the filter from_json"
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
            remedy = _did_you_mean(str(unknown[0]), stored_settings.ACTIONS) if unknown else "put the name in quotes"
            found = f"{_show(resource)} with {_show(unknown[0]) if unknown else 'actions'}"
            return found, allowed, remedy or f"write {resource}: [can_read]"
    return None


def _check_user(
    name: str, field: str, value: Any, inventory: Inventory, catalogue: Catalogue
) -> tuple[str, str, str] | None:
    """Return (found, allowed, remedy) if the password, the address or the roles of a user are wrong, else None."""
    if field == "password":
        wrong = _check_secret(f"{name}.password", value, {name.lower()})
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
            return _show(value), "an address with one @, such as ada@example.org", f"correct email of {name}"
        if value.lower() in others:
            return (
                f"{_show(value)}, which another user has",
                "an address of each user's own",
                f"correct email of {name}",
            )
    if field == "roles":
        own = inventory.value(STORED["roles"], {})
        known = [*stored_settings.BUILT_IN_ROLES, *(own if isinstance(own, Mapping) else ())]
        unknown = [role for role in value if role not in known] if isinstance(value, list) else [value]
        if unknown or not value:
            remedy = _did_you_mean(str(unknown[0]), known) if unknown and isinstance(value, list) else ""
            return (
                ", ".join(map(_show, unknown)) or "an empty list",
                f"a list of roles: {', '.join(known)}",
                remedy or "add the role to airflow_roles, or write roles: [Viewer]",
            )
    return None


def check_purge(inventory: Inventory) -> list[Problem]:
    """Check that nobody purges what the inventory says nothing about, which would remove all of it."""
    purge: Any = inventory.value("airflow_purge", {})
    return [
        Problem(
            _subject(inventory, "airflow_purge"),
            f"{kind}, and no {STORED[kind]} in the inventory: all {kind} would be removed",
            f"kinds whose variable is set, if only to {{}}; {stored_settings.EXAMPLES} alone needs none",
            f"set {STORED[kind]}, or take {kind} out of airflow_purge",
        )
        for kind in (purge if isinstance(purge, list) else ())
        if kind in STORED and not inventory.settings(STORED[kind]) and not inventory.fails(STORED[kind])
    ]


def check_cluster_wide(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that what describes the cluster is equal on all its hosts."""
    problems = []
    known = catalogue.known
    for name in _all_names(inventory):
        shared = name in CLUSTER_WIDE or (name in known and name.startswith("cluster_") and name not in HOST_SPECIFIC)
        if not shared or inventory.fails(name):
            continue
        values = inventory.settings(name)
        secret = _is_secret(name, known.get(name, {}))
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
                f"{host} has {_show(values[host])}"
                + (_origin(inventory, name, [host]) if name in inventory.variables[host] else " (the default)")
                for host in (first, second)
            )
        if len(hosts_by_value) > 2:
            found += f"; {len(hosts_by_value)} values in all"
        problems.append(
            Problem(name, found, "one value for all hosts of the cluster", f"set {name} once, in group_vars/all")
        )
    return problems


def check_addresses(inventory: Inventory) -> list[Problem]:
    """Check the addresses under which the hosts of the cluster reach each other."""
    problems = []
    hosts_by_address: dict[str, list[str]] = {}
    alone = len(inventory.hosts) < 2
    for host in inventory.hosts:
        values = inventory.variables.get(host, {})
        if "cluster_address" in inventory.failures.get(host, {}):
            continue
        source = next((name for name in ("cluster_address", "ansible_host") if values.get(name)), "")
        address = str(values[source]) if source else host
        wrong = _check_address(address, alone)
        where = f"{source or 'its name'} is {json.dumps(address)}{_origin(inventory, source, [host])}"
        if wrong:
            problems.append(Problem(f"address of {host}", f"{where}: {wrong[0]}", wrong[1], wrong[2]))
        else:
            hosts_by_address.setdefault(address.lower().rstrip("."), []).append(host)
    for address, hosts in hosts_by_address.items():
        if len(hosts) > 1:
            problems.append(
                Problem(
                    f"address {address}",
                    f"shared by {_names(hosts)}",
                    "one address per host of the cluster",
                    "if it is one machine, give it one name and put that into all its groups; otherwise set "
                    "cluster_address on each host",
                )
            )
    for name in ADDRESSES[1:]:
        for host, value in inventory.settings(name).items():
            wrong = _check_address(str(value), alone) if value else None
            if wrong:
                shown = f"{json.dumps(str(value))}{_origin(inventory, name, [host])}: {wrong[0]}"
                remedy = wrong[2].replace("cluster_address on the host", name)
                problems.append(Problem(name, shown, wrong[1], remedy))
            break
    return problems


def check_ports(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that no two components on one host want the same port."""
    names = executors(inventory, catalogue)
    ports = (
        PORTS + (CELERY_PORTS if "CeleryExecutor" in names else ()) + (LOCAL_PORTS if "LocalExecutor" in names else ())
    )
    hosts_by_clash: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    for host in inventory.hosts:
        options_by_port: dict[int, list[str]] = {}
        for group, option in ports:
            port = inventory.variables.get(host, {}).get(option, catalogue.defaults.get(option))
            known = options_by_port.setdefault(int(port), []) if str(port).isdecimal() else []
            if host in inventory.groups.get(group, ()) and option not in known:
                known.append(option)
        for port, options in options_by_port.items():
            if len(options) > 1:
                hosts_by_clash.setdefault((port, tuple(options)), []).append(host)
    return [
        Problem(
            f"port {port} on {_names(hosts)}",
            f"the value of {' and '.join(options)}",
            "one port for each component of a host",
            f"change one of them in group_vars/all: {' or '.join(options)}",
        )
        for (port, options), hosts in hosts_by_clash.items()
    ]


def check_tls(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that TLS can be had between all hosts, and that the certificates of the site's own do for their hosts."""
    if str(inventory.value("cluster_tls", catalogue.defaults)).lower() not in ("true", "yes", "on", "1", "y", "t"):
        return []
    problems = []
    days, window = (inventory.value(f"certificates_{name}", catalogue.defaults) for name in ("days", "renew_days"))
    if str(days).isdigit() and str(window).isdigit() and int(window) >= int(days):
        problems.append(
            Problem(
                _subject(inventory, "certificates_renew_days"),
                f"{window}, with certificates_days {days}: every run would renew every certificate",
                "fewer days than certificates_days",
                "lower certificates_renew_days, or raise certificates_days",
            )
        )
    ca = inventory.value("cluster_tls_ca", catalogue.defaults)
    for variable, group, what in (
        ("cluster_database_host", "postgresql", "PostgreSQL"),
        ("cluster_redis_host", "redis", "Redis"),
        ("cluster_webserver_host", "", "load balancer"),
    ):
        if inventory.value(variable, catalogue.defaults) and not inventory.groups.get(group) and not ca:
            problems.append(
                Problem(
                    _subject(inventory, variable),
                    f"a {what} of your own, whose certificate no client could verify: cluster_tls_ca is empty",
                    f"with cluster_tls, the authority of the {what} in cluster_tls_ca",
                    "set cluster_tls_ca to a PEM file with it, on the control node",
                )
            )
    for name in TLS_FILES:
        for path in dict.fromkeys(_strings(list(inventory.settings(name).values()))):
            if path not in inventory.pem:
                problems.append(
                    Problem(
                        _subject(inventory, name),
                        f"{json.dumps(path)}, which is {_kind(inventory, path)} on the control node, or cannot be read",
                        "a PEM file, by its full path",
                        "correct the path, or remove the variable",
                    )
                )
    if ca in inventory.pem and not certificate_rules.authorities(inventory.pem[ca]):
        problems.append(
            Problem(
                _subject(inventory, "cluster_tls_ca"),
                f"{json.dumps(ca)}, which holds no certificate",
                "PEM text with the certificates of authorities",
                "name another file",
            )
        )
    for host in inventory.hosts:
        problems += _check_own_certificate(inventory, catalogue, host, ca)
    return problems


def _check_own_certificate(inventory: Inventory, catalogue: Catalogue, host: str, ca: Any) -> list[Problem]:
    """Check what the site has for one host."""
    values = inventory.variables.get(host, {})
    certificate, key = (values.get(name) or "" for name in TLS_FILES[1:])
    if not certificate and not key:
        return []
    if not (certificate and key and ca):
        lacking = [name for name, value in zip(TLS_FILES, (ca, certificate, key), strict=True) if not value]
        return [
            Problem(
                f"certificate of {host}",
                f"{', '.join(lacking)} not set",
                "all of cluster_tls_ca, cluster_tls_certificate and cluster_tls_key; or neither of the last two, and "
                "the collection signs one",
                "set what is missing, or remove the others",
            )
        ]
    if not {ca, certificate, key} <= inventory.pem.keys():
        return []
    names = _served_names(inventory, catalogue, host)
    now = datetime.datetime.now(datetime.UTC)
    texts = (inventory.pem[path] for path in (certificate, key, ca))
    files = dict(zip(("ca", "certificate", "key"), (ca, certificate, key), strict=True))
    return [
        Problem(f"cluster_tls_{flaw.file} of {host}, {files[flaw.file]}", flaw.found, flaw.allowed, flaw.remedy)
        for flaw in certificate_rules.flaws(*texts, names, now)
    ]


def _served_names(inventory: Inventory, catalogue: Catalogue, host: str) -> list[str]:
    """Names and addresses by which clients connect to a host."""
    values = inventory.variables.get(host, {})
    address = str(values.get("cluster_address") or values.get("ansible_host") or host)
    names = {
        "postgresql": inventory.value("cluster_database_host", catalogue.defaults) or address,
        "redis": inventory.value("cluster_redis_host", catalogue.defaults) or address,
        "load_balancers": address,
        "webservers": address,
        "flower": address,
    }
    return list(dict.fromkeys(str(name) for group, name in names.items() if host in inventory.groups.get(group, ())))


def check_lock(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that the lock is there and intact, and that it satisfies the version, the extras and the requirements."""
    names = ("airflow_lock", "airflow_version", "airflow_extras", "airflow_requirements")
    if not inventory.hosts or not inventory.lock or any(map(inventory.fails, names)):
        return []
    version, extras, requirements = (inventory.value(name, catalogue.defaults) for name in names[1:])
    # The rule about types tells of these.
    version = str(version) if isinstance(version, (str, int, float)) and not isinstance(version, bool) else ""
    extras, requirements = _texts(extras), _texts(requirements)
    problems = [
        Problem(
            _subject(inventory, "airflow_requirements"),
            f"{text}: {found}",
            'requirements by name and version, such as "boto3" or "pandas>=2,<3"',
            remedy,
        )
        for text, found, remedy in lock_file.malformed(requirements)
    ]
    if inventory.lock_text is None:
        return [*problems, _missing_lock(inventory, catalogue, version)]
    subject = f"lock {inventory.lock}"
    try:
        lock = lock_file.parse(inventory.lock_text)
    except lock_file.LockError as error:
        allowed = "pins (name==version), each with at least one hash, as playbooks/lock.yml writes them"
        return [*problems, Problem(subject, str(error), allowed, _lock_remedy(inventory))]
    if lock_file.edited_by_hand(inventory.lock_text):
        found = "it was edited by hand: its header does not have the digest of its text"
        allowed = "a lock as playbooks/lock.yml wrote it; versions are chosen in airflow_requirements"
        problems.append(Problem(subject, found, allowed, _lock_remedy(inventory)))
    wrong = lock_file.unsatisfied(lock, version, extras, requirements) if version else []
    if wrong:
        problems.append(
            Problem(
                subject,
                "\n".join(f"{wanted} is wanted, and it has {found}" for wanted, found in wrong),
                "a lock that satisfies airflow_version, airflow_extras and airflow_requirements"
                + ("" if version in catalogue.locks else _shipped(catalogue)),
                _lock_remedy(inventory),
            )
        )
    # A wheelhouse has them too; what it lacks is another rule's.
    lost = lock_file.lost_wheels(lock, inventory.built_wheels)
    if lost and not inventory.value("airflow_wheelhouse", catalogue.defaults):
        problems.append(
            Problem(
                f"{subject}, folder {lock_file.WHEELS} beside it",
                "\n".join(lost),
                "each wheel that the lock names, as it was built: no package index has it",
                f"put the folder back as it was when the lock was made (it is committed with it); or\n{LOCK_COMMAND}\n"
                "builds what is missing again",
            )
        )
    return problems


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
            missing.append(name + ("" if len(without) == len(readers) else f" (on {_names(without)})"))
        hosts_by_problem: dict[tuple[str, str], list[str]] = {}
        for host, value in values.items():
            wrong = _check_secret(name, value, users)
            if wrong:
                hosts_by_problem.setdefault(wrong, []).append(host)
        for (found, allowed), hosts in hosts_by_problem.items():
            problems.append(
                Problem(
                    name,
                    f"{found}{_origin(inventory, name, hosts)}",
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
            _subject(inventory, name),
            f"{_show(user)}, which is another user's name",
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
        others = set(_strings(list(inventory.settings(login).values()))) - {owner, f"{owner}_2"}
        if others:
            problems.append(
                Problem(
                    _subject(inventory, login),
                    ", ".join(json.dumps(other) for other in sorted(others)),
                    f"{owner}, the owner of the database, or {owner}_2, which acts as the owner",
                    "rotate.yml keeps it in vault.yml: put back what it wrote there, or remove it if it never did",
                )
            )
    return problems


def check_paths(inventory: Inventory) -> list[Problem]:
    """Check that the files and folders on the control node that the inventory names are there."""
    problems = []
    for path in dict.fromkeys(_strings(list(inventory.settings("airflow_wheelhouse").values()))):
        if inventory.paths.get(path) != "directory":
            problems.append(
                Problem(
                    _subject(inventory, "airflow_wheelhouse"),
                    f"{json.dumps(path)}, which is {_kind(inventory, path)} on the control node",
                    'an existing folder with the wheels of the lock; "" to install from the index',
                    f"{WHEELHOUSE_COMMAND}\nmakes and fills it, where an index can be reached",
                )
            )
    for path in dict.fromkeys(_strings(list(inventory.settings("airflow_webserver_config").values()))):
        if inventory.paths.get(path) != "file":
            problems.append(
                Problem(
                    _subject(inventory, "airflow_webserver_config"),
                    f"{json.dumps(path)}, which is {_kind(inventory, path)} on the control node",
                    'an existing Python file, by its full path; "" for the users of Airflow\'s own database',
                    "correct the path; docs/examples has files to start from",
                )
            )
    for path in dict.fromkeys(_strings(list(inventory.settings("haproxy_certificate").values()))):
        trouble = inventory.certificates.get(path, "")
        if trouble or inventory.paths.get(path) != "file":
            problems.append(
                Problem(
                    _subject(inventory, "haproxy_certificate"),
                    f"{json.dumps(path)}: {trouble or _kind(inventory, path) + ' on the control node'}",
                    "a PEM file, by its full path, with a certificate, the certificates between it and its authority, "
                    "and the key of the first, without a passphrase",
                    "cat CERTIFICATE.pem CHAIN.pem KEY.pem > FILE    makes one; ansible-vault encrypt FILE hides it",
                )
            )
    certificates: dict[str, None] = {}
    for value in inventory.settings("cluster_ca_certificates").values():
        certificates.update(dict.fromkeys(_strings(value)))
    for path in certificates:
        if inventory.paths.get(path) != "file":
            problems.append(
                Problem(
                    _subject(inventory, "cluster_ca_certificates"),
                    f"{json.dumps(path)}, which is {_kind(inventory, path)} on the control node",
                    "existing PEM files, by their full path",
                    "correct the path, or remove it from the list",
                )
            )
    return problems


def check_dags(inventory: Inventory, catalogue: Catalogue, purpose: str) -> list[Problem]:
    """Check that the DAGs are in a folder that is there, or in a repository that is named with a fitting key."""
    problems = []
    for path in dict.fromkeys(_strings(list(inventory.settings("airflow_dags").values()))):
        if inventory.paths.get(path) != "directory":
            problems.append(
                Problem(
                    _subject(inventory, "airflow_dags"),
                    f"{json.dumps(path)}, which is {_kind(inventory, path)} on the control node",
                    'an existing folder, by its full path (for example {{ inventory_dir }}/../../dags); "" for none',
                    "correct the path",
                )
            )
    names = ("url", "key", "username", "password")
    url, key, username, password = (
        str(inventory.value(f"airflow_dags_git_{name}", catalogue.defaults) or "") for name in names
    )
    folder = any(inventory.settings("airflow_dags").values())
    subject = _subject(inventory, "airflow_dags_git_url")
    if not url:
        if purpose == "deliver" and not folder:
            allowed = "a folder in airflow_dags, or a repository in airflow_dags_git_url"
            problems.append(Problem("DAGs", "none: neither is set", allowed, "set one of them"))
        return problems
    if folder:
        problems.append(
            Problem(
                subject,
                "set, and so is airflow_dags",
                "one of them: a folder on the control node, or a repository",
                "remove the other one",
            )
        )
    shown = re.sub(r"(?<=://)[^/@]*@", "***@", url)
    match = GIT_URL.fullmatch(url)
    web = url.startswith("https://")
    ssh = bool(match) and match[1] in (None, "ssh") and not url.startswith("/")  # type: ignore[index]
    allowed = "a URL with https://, ssh:// or file://, or user@host:path; no password in it"
    if not match or URL_PASSWORD.match(url):
        found = f"{json.dumps(shown)}" + (", with a password in it" if match else "")
        remedy = (
            "take it out, and set airflow_dags_git_username and airflow_dags_git_password" if match else "correct it"
        )
        return [*problems, Problem(subject, found, allowed, remedy)]
    if (username or password) and not web:
        problems.append(
            Problem(
                _subject(inventory, "airflow_dags_git_password"),
                f"a login for {json.dumps(shown)}, which "
                + ("would show it to the network" if url.startswith("http://") else "takes none"),
                "a login for a URL with https://",
                "use the https:// URL of the repository" + ("; for ssh, set airflow_dags_git_key" if ssh else ""),
            )
        )
    if key and not ssh:
        problems.append(
            Problem(
                _subject(inventory, "airflow_dags_git_key"),
                f"an SSH key for {json.dumps(shown)}, which takes none",
                "a key for a URL with ssh://, or for user@host:path",
                "use the SSH URL of the repository" + ("; for https, set airflow_dags_git_password" if web else ""),
            )
        )
    elif key and not re.search(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s", key):
        problems.append(
            Problem(
                _subject(inventory, "airflow_dags_git_key"),
                f"a value of {len(key)} characters that is no private key",
                "the text of a private key, with its first and last line; no path",
                "in YAML, write it as a | block; or {{ lookup('ansible.builtin.file', PATH, rstrip=false) }}",
            )
        )
    return problems


def check_bundles(inventory: Inventory) -> list[Problem]:
    """Check the entries of `airflow_dag_bundles`, and that they hold no password."""
    variable = "airflow_dag_bundles"
    bundles = inventory.value(variable, {})
    subject = _subject(inventory, variable)
    problems = []
    config = inventory.value("airflow_config", {})
    options = config.get("dag_processor") if isinstance(config, Mapping) else None
    if bundles and isinstance(options, Mapping) and options.get("dag_bundle_config_list") is not None:
        found = "set, and so is dag_bundle_config_list in airflow_config, which would win"
        problems.append(
            Problem(subject, found, "one of them", "move the entries of airflow_config to airflow_dag_bundles")
        )
    names: list[str] = []
    for number, bundle in enumerate(bundles if isinstance(bundles, list) else [], 1):
        if not isinstance(bundle, Mapping):
            continue  # the rule about types says so
        name = bundle.get("name")
        label = f"{subject}, {name if isinstance(name, str) and name else f'entry {number}'}"
        absent = [key for key in ("name", "classpath") if not isinstance(bundle.get(key), str) or not bundle[key]]
        unknown = [str(key) for key in bundle if key not in BUNDLE_KEYS]
        if absent or unknown:
            wrong = [f"no {key}" for key in absent] + [f"the key {key}" for key in unknown]
            problems.append(Problem(label, ", ".join(wrong), f"the keys {', '.join(BUNDLE_KEYS)}", "correct the entry"))
        if name in names or name in OWN_BUNDLES:
            found = "a name that " + ("the collection has taken" if name in OWN_BUNDLES else "another entry has")
            problems.append(Problem(label, found, f"a name of its own; not {', '.join(OWN_BUNDLES)}", "rename it"))
        names.append(str(name))
        if any(URL_PASSWORD.match(text) for text in _strings(list(dict(bundle.get("kwargs") or {}).values()))):
            problems.append(
                Problem(
                    label,
                    "a URL with a password, which would be in airflow.cfg, for everybody on the host to read",
                    "a URL without one; the login is in an Airflow connection",
                    "set git_conn_id, and make that connection: see docs/dags.md",
                )
            )
    return problems


def check_bundle_packages(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that the lock has the provider of each bundle."""
    bundles = inventory.value("airflow_dag_bundles", {})
    if not isinstance(bundles, list) or not bundles or not inventory.lock_text:
        return []
    try:
        pins = {pin.name for pin in lock_file.parse(inventory.lock_text).pins}
    except lock_file.LockError:
        return []  # the rule about the lock says so
    problems = []
    for bundle in bundles:
        path = str(bundle.get("classpath", "")) if isinstance(bundle, Mapping) else ""
        if not path.startswith("airflow.providers."):
            continue
        parts = path.split(".")[2:]
        packages = ["apache-airflow-providers-" + "-".join(parts[:count]) for count in (1, 2)]
        if not pins.intersection(packages):
            problems.append(
                Problem(
                    f"{_subject(inventory, 'airflow_dag_bundles')}, {bundle.get('name')}",
                    f"{path}, and the lock {inventory.lock} has no {packages[0]}",
                    "bundles whose provider is in the lock",
                    f"add {parts[0]} to airflow_extras, or the package to airflow_requirements; then\n{LOCK_COMMAND}",
                )
            )
    return problems


# -- one value ------------------------------------------------------------------------------------------------------


def _check_value(name: str, value: Any, spec: Mapping[str, Any], catalogue: Catalogue) -> tuple[str, str, str] | None:
    """Return (found, allowed, remedy) if the value does not fit the argument spec or its range, else None."""
    kind = spec.get("type", "str")
    shown = _show_type(value) if _is_secret(name, spec) else _show(value)
    allowed = _describe(spec)
    correct = f"correct the value of {name}"
    if value is None:
        return "nothing (null)", allowed, "write a value, or remove the line to get the default"
    if kind in ("str", "path") and (isinstance(value, (bool, float)) or not isinstance(value, (str, int))):
        scalar = not isinstance(value, (list, dict))
        return shown, allowed, f'put it in quotes: {name}: "..."' if scalar else correct
    if kind in ("int", "float") and isinstance(value, bool):
        return shown, allowed, correct
    if kind in ("list", "dict") and isinstance(value, str):
        return f"{shown}, which is text", allowed, f"{correct}; with --extra-vars, use JSON"
    result = ArgumentSpecValidator({name: {**spec, "required": False}}).validate({name: value})
    if result.error_messages:
        if isinstance(value, (list, dict)):
            return "\n".join(_without_values(message) for message in result.error_messages), allowed, correct
        return shown, allowed, correct
    if name == "airflow_flower_username" and not str(value).isascii():
        return shown, "ASCII characters", correct
    if name in PATTERNS:
        pattern, meant = PATTERNS[name]
        if not re.fullmatch(pattern, str(value)):
            return shown, meant, correct
    if name in SOURCES:
        for source in map(str, value):
            trouble = _check_source(source)
            if trouble:
                return f"{json.dumps(source)}: {trouble}", "IP addresses and networks, such as 10.0.0.0/8", correct
    if name == "airflow_worker_autoscale" and value:
        most, fewest = str(value).split(",")
        if int(most) < int(fewest):
            return f"{shown}: fewer at most than at least", PATTERNS[name][1], f"write {fewest},{most}"
    if name == "airflow_worker_queues":
        wrong = [item for item in _texts(value) if not literals.QUEUE.fullmatch(item)]
        if wrong:
            return _show(wrong[0]), "names of queues: letters, digits and _.:@/-, the first no sign", correct
    if kind == "int" and isinstance(value, str) and not re.fullmatch("-?[0-9]+", value):
        return shown, allowed, correct
    if kind == "int":
        number = int(result.validated_parameters[name])
        if name.endswith("_port") and not 1 <= number <= 65535:
            return shown, "a port, 1 to 65535", correct
        if name == "airflow_worker_concurrency" and number < 1:
            return shown, "an integer >= 1: how many tasks one worker runs at a time", correct
        if name == "airflow_worker_check_interval" and number < 1:
            return shown, "an integer >= 1: seconds between two looks at the worker", correct
    if name == "airflow_worker_concurrency" and kind != "int":
        return _check_value(name, value, {**spec, "type": "int"}, catalogue)
    return None


def _check_address(address: str, alone: bool) -> tuple[str, str, str] | None:
    """Return (found, allowed, remedy) if other hosts could not use the address, else None."""
    allowed = "an IPv4 address or a host name that every host of the cluster can reach"
    remedy = "set cluster_address on the host"
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        if address.lower().rstrip(".") in _LOOPBACK_NAMES:
            loopback = True
        elif (
            not _HOSTNAME.fullmatch(address)
            or len(address) > 253
            or not re.search("[A-Za-z]", address.rstrip(".").split(".")[-1])
        ):
            return "not an IPv4 address nor a host name", f"{allowed}; no port, brackets, scheme or spaces", remedy
        else:
            loopback = False
    else:
        loopback = ip.is_loopback
        if ip.version == 6:
            return "an IPv6 address, which URLs cannot hold as it is", allowed, f"{remedy} to an IPv4 address or a name"
        if ip.is_unspecified or ip.is_multicast:
            return "not the address of one host", allowed, remedy
    if loopback and not alone:
        return "every host reaches only itself there", allowed, f"{remedy} to the address that the others use"
    return None


def _check_source(source: str) -> str:
    """Return what is wrong with a network that may connect, or ""."""
    try:
        ipaddress.ip_network(source)
    except ValueError as error:
        return str(error)
    return ""


def _check_secret(name: str, value: Any, users: Iterable[str]) -> tuple[str, str] | None:
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
            which = f"{len(bad)} of {len(keys)} keys malformed ({_lengths(bad)})"
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


# -- words ----------------------------------------------------------------------------------------------------------


def _is_secret(name: str, spec: Mapping[str, Any]) -> bool:
    return name in SECRETS or bool(spec.get("no_log")) or bool(_SECRET_NAME.search(name))


def _missing_lock(inventory: Inventory, catalogue: Catalogue, version: str) -> Problem:
    """Tell of a lock that is not there: the one that was named, or one for the version."""
    named = inventory.value("airflow_lock", {})
    if named:
        return Problem(
            _subject(inventory, "airflow_lock"),
            f"{json.dumps(named)}, which is {_kind(inventory, named)} on the control node",
            "an existing file, by its full path; without the variable, airflow-lock.txt beside the inventory, or else "
            "the lock that ships with the collection",
            _lock_remedy(inventory),
        )
    return Problem(
        _subject(inventory, "airflow_version"),
        f"{json.dumps(version)}, for which no lock ships, and none lies beside the inventory",
        f"a version with a lock{_shipped(catalogue)}",
        _lock_remedy(inventory),
    )


def _shipped(catalogue: Catalogue) -> str:
    return f"; locks ship for {', '.join(catalogue.locks)}" if catalogue.locks else "; this copy ships none"


def _lock_remedy(inventory: Inventory) -> str:
    own = any(inventory.settings("airflow_lock").values())
    return f"{LOCK_COMMAND}\nmakes one, as airflow-lock.txt beside the inventory" + (
        "; remove airflow_lock to use it" if own else ""
    )


def _texts(value: Any) -> list[str]:
    """The items of a list as text; nothing for what is no list, which the rule about types reports."""
    return [str(item) for item in value] if isinstance(value, list) else []


def _similar_group(group: str) -> str:
    """Return the group of the collection that an unknown group's name was probably meant to be, or ""."""
    if group in GROUPS or group in ("all", "ungrouped"):
        return ""
    plain = group.lower().replace("-", "_")
    near = difflib.get_close_matches(plain, GROUPS, 1, 0.85)
    return SIMILAR_GROUPS.get(plain, near[0] if near else "")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = [name] if name in names else difflib.get_close_matches(name, names, 1, 0.7)
    return f"did you mean {near[0]}?" if near else ""


def _all_names(inventory: Inventory) -> list[str]:
    """Names that the inventory sets on some host of the cluster, sorted."""
    return sorted(
        {
            name
            for host in inventory.hosts
            for name in (*inventory.variables.get(host, {}), *inventory.failures.get(host, {}))
        }
    )


def _hosts_that_set(inventory: Inventory, name: str) -> list[str]:
    return [
        host
        for host in inventory.hosts
        if name in inventory.variables.get(host, {}) or name in inventory.failures.get(host, {})
    ]


def _subject(inventory: Inventory, name: str) -> str:
    """The variable's name, with the place where it is set."""
    return f"{name}{_origin(inventory, name, _hosts_that_set(inventory, name))}"


def _origin(inventory: Inventory, name: str, hosts: Iterable[str]) -> str:
    """` (file:line)` of the value on the first of the hosts for which it is known, or ""."""
    known = (inventory.origins.get(host, {}).get(name) for host in hosts)
    return next((f" ({origin})" for origin in known if origin), "")


def _scope(inventory: Inventory, hosts: Sequence[str]) -> str:
    total = len(inventory.hosts)
    groups = [group for group in GROUPS if set(inventory.groups.get(group, ())) == set(hosts)]
    if len(hosts) == total:
        return "all hosts" if total > 1 else hosts[0]
    return f"{f'the group {groups[0]}: ' if groups else ''}{_names(hosts)} ({len(hosts)} of {total} hosts)"


def _names(hosts: Sequence[str], limit: int = 4) -> str:
    shown = ", ".join(hosts[:limit])
    return f"{shown} and {len(hosts) - limit} more" if len(hosts) > limit else shown


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _lengths(values: Sequence[str]) -> str:
    return f"{', '.join(str(len(value)) for value in values)} characters"


def _kind(inventory: Inventory, path: str) -> str:
    return {"file": "a file", "directory": "a folder"}.get(inventory.paths.get(path, ""), "missing")


def _show(value: Any) -> str:
    """A value for a message; a container's content stays out of it."""
    if isinstance(value, (list, dict)):
        return _show_type(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _show_type(value: Any) -> str:
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, (list, tuple)):
        return f"a list of {_count(value, 'item')}"
    if isinstance(value, Mapping):
        return f"a dictionary of {_count(list(value), 'key')}"
    return f"a value of type {type(value).__name__}"


def _describe(spec: Mapping[str, Any]) -> str:
    if spec.get("choices"):
        return "one of " + ", ".join(json.dumps(choice, default=str) for choice in spec["choices"])
    kinds = {
        "str": "text",
        "path": "a path",
        "int": "an integer",
        "float": "a number",
        "bool": "true or false",
        "dict": "a dictionary",
        "list": "a list",
    }
    kind = str(spec.get("type", "str"))
    text = kinds.get(kind, kind)
    if kind == "list" and spec.get("elements"):
        text += f", each item {kinds.get(spec['elements'], spec['elements'])}"
    if spec.get("options"):
        text += f" with the keys {', '.join(spec['options'])}"
    return text


def _without_values(message: str) -> str:
    """Cut a validator's message before the value that it quotes, which may hold a secret."""
    message = re.sub(r"(unable to convert to \w+): .*", r"\1", message, flags=re.DOTALL)
    message = re.sub(r"(, got|\. Got no match for): .*?( found in [^:]*)?$", r"\2", message, flags=re.DOTALL)
    return re.sub(r"<class '([^']*)'>", r"\1", message).strip()


def _strings(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str) and item]
