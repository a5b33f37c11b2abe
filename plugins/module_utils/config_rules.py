# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Rules for Airflow's options, for limits on what runs at once, and for units and instances of workers."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.dataops.airflow.plugins.module_utils import literals
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    Catalogue,
    Inventory,
    executors,
    origin_of,
    scope_of,
    subject_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.problems import (
    Problem,
    did_you_mean,
    names_of,
    shown_value,
)
from ansible_collections.dataops.airflow.plugins.module_utils.value_rules import check_value

COMPONENTS = ("scheduler", "api-server", "dag-processor", "triggerer", "flower", "worker")
"""The keys of `airflow_service_options`."""

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
    "core.dags_folder": "airflow_dags",
    "dag_processor.dag_bundle_config_list": "airflow_dag_bundles",
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

LEAST = {
    "core.parallelism": 1,
    "core.default_pool_task_slot_count": 1,
    "core.max_active_tasks_per_dag": 1,
    "core.max_active_runs_per_dag": 1,
    "dag_processor.parsing_processes": 1,
    "database.sql_alchemy_pool_size": 1,
    "database.sql_alchemy_max_overflow": 0,
}
"""Options of `airflow_config` that bound how much runs at once, each with its least value.

With less than 1, nothing would run; SQLAlchemy takes a pool of 0 and an overflow of -1 for no bound at all.
"""

DEFAULT_QUEUE = "operators.default_queue"
"""Option of `airflow_config`: the queue of tasks that ask for none."""

PRIMARYS = {
    "core.parallelism": ("schedulers",),
    "database.sql_alchemy_pool_size": ("schedulers", "webservers", "dag_processors", "triggerers"),
    "database.sql_alchemy_max_overflow": ("schedulers", "webservers", "dag_processors", "triggerers"),
    DEFAULT_QUEUE: ("schedulers", "dag_processors"),
}
"""Options of `airflow_config` of which the first scheduler's value is computed with, and the groups that read them."""

LIMITS_BY_VARIABLE = {"MemoryMax": "airflow_worker_memory_max", "CPUQuota": "airflow_worker_cpu_quota"}
"""Directives of a worker that have a variable of their own, which the memory of its tasks is checked against."""

VISIBILITY = "celery_broker_transport_options.visibility_timeout"
"""Option of `airflow_config`: seconds after which Redis hands a message to another worker."""

AIRFLOWS_VISIBILITY = 86400
"""What Airflow uses where the option is not set."""

COMPUTED_WITH = (
    *LEAST,
    "api_auth.jwt_leeway",
    VISIBILITY,
    "core.hostname_callable",
    "execution_api.jwt_expiration_time",
    "logging.base_log_folder",
    DEFAULT_QUEUE,
    "scheduler.task_queued_timeout",
)
"""Options of `airflow_config` that are read from there, for values elsewhere and for checks."""

NOT_SET = object()
"""Stands for an option that `airflow_config` does not have."""

OWN_VARIABLES = ("AIRFLOW_CLUSTER_ADDRESS", "AIRFLOW_CONFIG", "AIRFLOW_HOME", "HOME", "PYTHONPATH")
"""Variables of every component's environment without which it finds nothing, or what others may write."""

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

INSTANCE_KEYS = ("queues", "concurrency", "autoscale", "memory_max", "cpu_quota")
"""What an entry of `airflow_worker_instances` may set, each as the variable `airflow_worker_KEY` does."""


def check_config(inventory: Inventory) -> list[Problem]:
    """Check that `airflow_config` neither sets what has a variable of its own nor puts a secret into airflow.cfg."""
    hosts_by_option: dict[str, list[str]] = {}
    for host, config in inventory.settings("airflow_config").items():
        sections = config if isinstance(config, Mapping) else {}
        found = {
            f"{section}.{option}"
            for section, options in sections.items()
            for option, value in (options.items() if isinstance(options, Mapping) else ())
            if value is not None or f"{section}.{option}" in CONFIG_BY_VARIABLE
        }
        for option in found:
            hosts_by_option.setdefault(option, []).append(host)
    problems = _check_case(inventory)
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
                _title("celery.extra_celery_config"),
                f"text, on {scope_of(inventory, texts)}{origin_of(inventory, 'airflow_config', texts)}",
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
                _title(name),
                f"set on {scope_of(inventory, hosts)}{origin_of(inventory, 'airflow_config', hosts)}",
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


def _check_case(inventory: Inventory) -> list[Problem]:
    """Check that sections and options of `airflow_config` are in lower case, in which Airflow looks for them."""
    hosts_by_name: dict[str, list[str]] = {}
    for host, config in inventory.settings("airflow_config").items():
        for section, options in config.items() if isinstance(config, Mapping) else ():
            names = {str(section): f"section {section}"}
            for option in options if isinstance(options, Mapping) else ():
                names[str(option)] = f"option {option} of the section {section}"
            # What is no name at all is the matter of the rule about literals.
            if all(re.fullmatch("[A-Za-z0-9_.-]+", name) for name in names):
                for name, title in names.items():
                    if name != name.lower():
                        hosts_by_name.setdefault(title, []).append(host)
    return [
        Problem(
            f"airflow_config, {name}",
            f"set on {scope_of(inventory, hosts)}{origin_of(inventory, 'airflow_config', hosts)}",
            "sections and options in lower case: Airflow would not find it, or find it twice",
            f"write {name.split()[1].lower()}",
        )
        for name, hosts in hosts_by_name.items()
    ]


def check_environment(inventory: Inventory) -> list[Problem]:
    """Check that `airflow_environment`, which wins over files, sets nothing that other values are computed with."""
    hosts_by_name: dict[tuple[str, str], list[str]] = {}
    for host, environment in inventory.settings("airflow_environment").items():
        for name in map(str, environment if isinstance(environment, Mapping) else ()):
            instead = _instead(name)
            if instead is not None:
                hosts_by_name.setdefault((name, instead), []).append(host)
    return [
        Problem(
            f"airflow_environment, {name}",
            f"set on {scope_of(inventory, hosts)}{origin_of(inventory, 'airflow_environment', hosts)}",
            f"not in airflow_environment: the collection sets this from {instead}, and computes more from it"
            if instead
            else "not in airflow_environment: the collection sets it, and components would not find what is theirs",
            f"remove it, and set {instead} instead"
            if instead
            else "remove it; modules of your own are packages in airflow_requirements",
        )
        for (name, instead), hosts in hosts_by_name.items()
    ]


def _instead(name: str) -> str | None:
    """Return what to set instead of a variable of the environment; "" for nothing, None if it may be set there."""
    if name in OWN_VARIABLES:
        return ""
    if not name.lower().startswith("airflow__"):
        return None
    section, _, option = name.lower().removeprefix("airflow__").partition("__")
    for ending in ("", "_cmd", "_secret"):
        known = f"{section}.{option.removesuffix(ending)}"
        if known in (*CONFIG_BY_VARIABLE, *COMPUTED_WITH):
            return CONFIG_BY_VARIABLE.get(known, "airflow_config")
    return None


def check_limits(inventory: Inventory) -> list[Problem]:
    """Check the options of `airflow_config` that bound how much runs at once."""
    hosts_by_value: dict[tuple[str, str], list[str]] = {}
    for host in inventory.settings("airflow_config"):
        for name, least in LEAST.items():
            value = _option(inventory, host, name)
            whole = not isinstance(value, bool) and re.fullmatch("[0-9]+", str(value))
            if value is not None and not (whole and int(str(value)) >= least):
                hosts_by_value.setdefault((name, shown_value(value)), []).append(host)
    return [
        Problem(
            _title(name),
            f"{value} on {scope_of(inventory, hosts)}{origin_of(inventory, 'airflow_config', hosts)}",
            f"an integer >= {LEAST[name]}; null leaves it to Airflow",
            "correct it, or remove it: the collection or Airflow has a default",
        )
        for (name, value), hosts in hosts_by_value.items()
    ]


def check_primarys(inventory: Inventory) -> list[Problem]:
    """Check that no host has another value of an option than the first scheduler, where more is computed from that."""
    primary = _primary(inventory)
    problems = []
    for name, groups in PRIMARYS.items():
        members = dict.fromkeys(host for group in groups for host in inventory.groups.get(group, ()))
        hosts_by_value: dict[str, list[str]] = {}
        for host in members:
            # What waits for facts, or is no dictionary, is the matter of other rules.
            if isinstance(inventory.variables.get(host, {}).get("airflow_config", {}), Mapping):
                value = _option(inventory, host, name, NOT_SET)
                hosts_by_value.setdefault("not set" if value is NOT_SET else shown_value(value), []).append(host)
        if len(hosts_by_value) < 2:
            continue
        others = [host for hosts in hosts_by_value.values() if primary not in hosts for host in hosts]
        problems.append(
            Problem(
                _title(name),
                "; ".join(f"{value} on {names_of(hosts)}" for value, hosts in hosts_by_value.items())
                + origin_of(inventory, "airflow_config", others),
                f"the same on all hosts of {', '.join(groups)}: more is computed from that of {primary}",
                "set it in group_vars/all, for all hosts",
            )
        )
    return problems


def _primary(inventory: Inventory) -> str:
    """The first scheduler; empty where there is none, which is the matter of another rule."""
    return next(iter(inventory.groups.get("schedulers", ())), "")


def _option(inventory: Inventory, host: str, name: str, default: Any = None) -> Any:
    """What `airflow_config` of a host says of an option, which may be None."""
    section, option = name.split(".")
    config = inventory.variables.get(host, {}).get("airflow_config")
    options = config.get(section) if isinstance(config, Mapping) else None
    return options.get(option, default) if isinstance(options, Mapping) else default


def _title(name: str) -> str:
    """What a problem with an option of `airflow_config` is about."""
    section, option = name.split(".")
    return f"airflow_config, option {option} of the section {section}"


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
            subject_of(inventory, name),
            f"{value} connections; the components of this inventory may open {needed}, and then tasks fail",
            f"at least {needed}, the sum that plan.yml shows",
            "remove it: the collection computes it, and it grows with the workers; or fewer schedulers, API workers or "
            "worker slots",
        )
    ]


def check_longest_task(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that no message is delivered a second time while its first worker may still run the task."""
    stops = inventory.settings("airflow_worker_stop_timeout")
    hosts_by_pair: dict[tuple[int, int], list[str]] = {}
    for host in inventory.groups.get("workers", ()):
        visible = _option(inventory, host, VISIBILITY, "")
        visible = AIRFLOWS_VISIBILITY if visible is None else visible
        longest = stops.get(host, catalogue.defaults.get("airflow_worker_stop_timeout"))
        if str(visible).isdigit() and str(longest).isdigit():
            hosts_by_pair.setdefault((int(str(visible)), int(str(longest))), []).append(host)
    return [
        Problem(
            _title(VISIBILITY),
            f"{visible} seconds on {scope_of(inventory, hosts)}; airflow_worker_stop_timeout is {longest}: "
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
                f"no component; set on {scope_of(inventory, hosts)}"
                f"{origin_of(inventory, 'airflow_service_options', hosts)}",
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
                f"set on {scope_of(inventory, hosts)}{origin_of(inventory, 'airflow_service_options', hosts)}",
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
            f"{variable}, {subject} on {scope_of(inventory, hosts)}",
            f"{found}{origin_of(inventory, variable, hosts)}",
            allowed,
            remedy,
        )
        for (subject, found, allowed, remedy), hosts in hosts_by_problem.items()
    ]


def check_default_queue(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that a worker serves the queue of tasks that ask for none: they would wait for ever, without an error."""
    workers = inventory.groups.get("workers", ())
    if not workers or executors(inventory, catalogue)[0] != "CeleryExecutor":
        return []
    primary = _primary(inventory)
    wanted = _option(inventory, primary, DEFAULT_QUEUE) or "default"
    served: list[Any] = []
    for host in workers:
        variables = inventory.variables.get(host, {})
        instances = variables.get("airflow_worker_instances")
        entries = instances.items() if isinstance(instances, Mapping) else ()
        served += [host, *(f"{host}-{name}" for name, _ in entries)]
        told = [entry.get("queues") for _, entry in entries if isinstance(entry, Mapping)]
        for queues in (variables.get("airflow_worker_queues"), *told):
            served += queues if isinstance(queues, list) else [wanted]
    if wanted in served:
        return []
    return [
        Problem(
            subject_of(inventory, "airflow_worker_queues"),
            f"no worker has the queue {json.dumps(wanted)}, of tasks that ask for no other: they would wait for ever",
            "that queue among those of at least one worker",
            f"add {wanted} to airflow_worker_queues of a worker; or name a queue that is served in airflow_config, "
            "default_queue of the section operators",
        )
    ]


def _check_instance(name: Any, entry: Any, catalogue: Catalogue) -> list[tuple[str, str, str, str]]:
    """Return (subject, found, allowed, remedy) of all that is wrong with one entry of `airflow_worker_instances`."""
    problems = []
    if not isinstance(name, str) or not re.fullmatch("[a-z0-9_]+", name):
        allowed = "small letters, digits and underscores, as text"
        problems.append(
            (f"name {json.dumps(name)}", shown_value(name), allowed, "rename it; put digits alone in quotes")
        )
    if not isinstance(entry, Mapping):
        keys = ", ".join(INSTANCE_KEYS)
        found = "nothing (null)" if entry is None else shown_value(entry)
        place = literals.below("", name)
        return [*problems, (place, found, f"a dictionary with the keys {keys}", f"write {place}: {{}} for defaults")]
    for key, value in entry.items():
        place = literals.below(literals.below("", name), key)
        if key not in INSTANCE_KEYS:
            meant = did_you_mean(str(key).removeprefix("airflow_worker_"), INSTANCE_KEYS)
            problems.append((place, "no such setting", ", ".join(INSTANCE_KEYS), meant or "remove it"))
            continue
        like = f"airflow_worker_{key}"
        wrong = check_value(like, value, catalogue.known[like], catalogue) if like in catalogue.known else None
        if wrong:
            found, allowed, remedy = wrong
            problems.append((place, found, allowed, remedy.replace(like, place)))
    return problems
