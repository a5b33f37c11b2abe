# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Rules for addresses, host names and ports."""

from __future__ import annotations

import ipaddress
import json
import re

from ansible_collections.dataops.airflow.plugins.module_utils import literals
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    ADDRESSES,
    Catalogue,
    Inventory,
    executors,
    origin_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, names_of

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

_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")

_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")


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
        where = f"{source or 'its name'} is {json.dumps(address)}{origin_of(inventory, source, [host])}"
        if wrong:
            problems.append(Problem(f"address of {host}", f"{where}: {wrong[0]}", wrong[1], wrong[2]))
        else:
            hosts_by_address.setdefault(address.lower().rstrip("."), []).append(host)
    for address, hosts in hosts_by_address.items():
        if len(hosts) > 1:
            problems.append(
                Problem(
                    f"address {address}",
                    f"shared by {names_of(hosts)}",
                    "one address per host of the cluster",
                    "if it is one machine, give it one name and put that into all its groups; otherwise set "
                    "cluster_address on each host",
                )
            )
    for name in ADDRESSES[1:]:
        for host, value in inventory.settings(name).items():
            wrong = _check_address(str(value), alone) if value else None
            if wrong:
                shown = f"{json.dumps(str(value))}{origin_of(inventory, name, [host])}: {wrong[0]}"
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
            f"port {port} on {names_of(hosts)}",
            f"the value of {' and '.join(options)}",
            "one port for each component of a host",
            f"change one of them in group_vars/all: {' or '.join(options)}",
        )
        for (port, options), hosts in hosts_by_clash.items()
    ]


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
