# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Rules for single values: their templates, types and forms, and text that would become configuration."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.dataops.airflow.plugins.module_utils import literals
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    ADDRESSES,
    SECRETS,
    Catalogue,
    Inventory,
    is_secret,
    origin_of,
    scope_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.problems import (
    Problem,
    described,
    names_of,
    shown_type,
    shown_value,
    texts_in,
    without_values,
)

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

MAY_BE_ZERO = ("airflow_canary_tasks", "airflow_task_memory", "airflow_worker_min_free_disk", "certificates_renew_days")
"""Numbers of which none is a sensible one: what they guard is not reckoned with, or happens at the end."""

SOURCES = (
    "firewall_webserver_sources",
    "firewall_flower_sources",
    "firewall_database_sources",
    "firewall_redis_sources",
)
"""Variables with networks that may connect."""


def check_templates(inventory: Inventory) -> list[Problem]:
    """Report the variables whose template fails."""
    hosts_by_failure: dict[tuple[str, str], list[str]] = {}
    for host in inventory.hosts:
        for name, reason in inventory.failures.get(host, {}).items():
            if reason:
                hosts_by_failure.setdefault((name, reason), []).append(host)
    return [
        Problem(
            f"{name} on {names_of(hosts)}",
            f"{reason}{origin_of(inventory, name, hosts)}",
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
            wrong = check_value(name, value, spec, catalogue)
            if wrong:
                hosts_by_problem.setdefault((name, *wrong), []).append(host)
    return [
        Problem(
            f"{name} on {scope_of(inventory, hosts)}",
            f"{found}{origin_of(inventory, name, hosts)}",
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
            f"{name}{f', {where}' if where else ''} on {scope_of(inventory, hosts)}",
            f"{found}{origin_of(inventory, name, hosts)}",
            allowed,
            f"correct the value of {name}; in YAML, text after | has a line break at its end",
        )
        for (name, (where, found, allowed)), hosts in hosts_by_finding.items()
    ]


def check_value(name: str, value: Any, spec: Mapping[str, Any], catalogue: Catalogue) -> tuple[str, str, str] | None:
    """Return (found, allowed, remedy) if the value does not fit the argument spec or its range, else None."""
    kind = spec.get("type", "str")
    shown = shown_type(value) if is_secret(name, spec) else shown_value(value)
    allowed = described(spec)
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
            return "\n".join(without_values(message) for message in result.error_messages), allowed, correct
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
        wrong = [item for item in texts_in(value) if not literals.QUEUE.fullmatch(item)]
        if wrong:
            return shown_value(wrong[0]), "names of queues: letters, digits and _.:@/-, the first no sign", correct
    if kind == "int" and isinstance(value, str) and not re.fullmatch("-?[0-9]+", value):
        return shown, allowed, correct
    if kind == "int":
        number = int(result.validated_parameters[name])
        if name.endswith("_port") and not 1 <= number <= 65535:
            return shown, "a port, 1 to 65535", correct
        if name.endswith("_percent") and not 1 <= number <= 100:
            return shown, "a share, 1 to 100 percent", correct
        least = 0 if name in MAY_BE_ZERO else 1
        if number < least:
            return shown, f"an integer >= {least}", correct
    if name == "airflow_worker_concurrency" and kind != "int":
        return check_value(name, value, {**spec, "type": "int"}, catalogue)
    return None


def _check_source(source: str) -> str:
    """Return what is wrong with a network that may connect, or ""."""
    try:
        ipaddress.ip_network(source)
    except ValueError as error:
        return str(error)
    return ""
