# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Rules for TLS and the certificates of the site's own."""

from __future__ import annotations

import datetime
import json
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.dataops.airflow.plugins.module_utils import certificate_rules
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    TLS_FILES,
    Catalogue,
    Inventory,
    kind_of_path,
    subject_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, strings_in


def check_tls(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that TLS can be had between all hosts, and that the certificates of the site's own do for their hosts."""
    if not boolean(inventory.value("cluster_tls", catalogue.defaults), strict=False):
        return []
    problems = []
    days, window = (inventory.value(f"certificates_{name}", catalogue.defaults) for name in ("days", "renew_days"))
    if str(days).isdigit() and str(window).isdigit() and int(window) >= int(days):
        problems.append(
            Problem(
                subject_of(inventory, "certificates_renew_days"),
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
                    subject_of(inventory, variable),
                    f"a {what} of your own, whose certificate no client could verify: cluster_tls_ca is empty",
                    f"with cluster_tls, the authority of the {what} in cluster_tls_ca",
                    "set cluster_tls_ca to a PEM file with it, on the control node",
                )
            )
    for name in TLS_FILES:
        for path in dict.fromkeys(strings_in(list(inventory.settings(name).values()))):
            if path not in inventory.pem:
                problems.append(
                    Problem(
                        subject_of(inventory, name),
                        f"{json.dumps(path)}, which is {kind_of_path(inventory, path)} on the control node,"
                        " or cannot be read",
                        "a PEM file, by its full path",
                        "correct the path, or remove the variable",
                    )
                )
    if ca in inventory.pem and not certificate_rules.authorities(inventory.pem[ca]):
        problems.append(
            Problem(
                subject_of(inventory, "cluster_tls_ca"),
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
