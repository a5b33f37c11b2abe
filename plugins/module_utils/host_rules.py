# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""What makes a set of probed hosts fit for an Airflow cluster.

`check_hosts` is a pure function: what `dataops.airflow.host_probe` found goes in, a list of `Problem` comes out.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ansible_collections.dataops.airflow.plugins.module_utils.capacity import memory_limit, memory_needed
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import AIRFLOW_GROUPS, GROUPS, LOCK_COMMAND
from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import PYTHON_MINORS, Lock, unfit_for
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem

Probe = Mapping[str, Any]
Probes = Mapping[str, Probe]

SYSTEMS = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
"""Operating systems: id -> versions."""

MINIMUM_SYSTEMD = 245
MAXIMUM_CLOCK_DIFFERENCE = 5.0
"""Seconds. Airflow grants 10 (`[api_auth] jwt_leeway`) between the two clocks of a request; half is for drift."""

LISTENERS = {"postgresql": "PostgreSQL", "redis": "Redis", "load_balancers": "HAProxy", "flower": "Flower"}
"""Groups whose members listen on their own cluster address only; the others listen on all addresses."""

RELEASES = "/opt/airflow/releases"
MINIMUM_FREE = 2 * 1024**3
"""Bytes. An environment takes 0.4 GB, the old ones are kept beside it."""


def check_hosts(
    probes: Probes,
    groups: Mapping[str, Sequence[str]],
    minimum_free: Mapping[str, int] | None = None,
    lock: Lock | None = None,
    lock_path: str = "",
    purpose: str = "install",
) -> list[Problem]:
    """Return everything that is wrong with the probed hosts; an empty list means that they are fit.

    :param probes: host -> what `dataops.airflow.host_probe` returned as ``probe``. Hosts that are in none of the
        collection's groups do not matter, but where they have the databases.
    :param groups: group -> names of its members.
    :param minimum_free: path -> bytes that must be free, on each host whose probe has the path or a parent of it.
        None: 2 GiB for `RELEASES` on hosts that get an Airflow environment.
    :param lock: what these hosts are to install. None: not known, and not checked.
    :param lock_path: where it is, for the message.
    :param purpose: one of `inventory.PURPOSES`; only an installation needs space, a lock,
        and names for `pg_hba.conf`.
    """
    every, probes = probes, _members(probes, groups, GROUPS)
    airflow = _members(probes, groups, AIRFLOW_GROUPS)
    installation: list[Problem] = []
    if purpose == "install":
        installation += check_database(every, groups)
        installation += check_client_names(probes)
        installation += check_nftables(probes)
        installation += check_haproxy(_members(probes, groups, ["load_balancers"]))
        installation += check_lock(airflow, lock, lock_path) if lock else []
        installation += (
            check_free(airflow, {RELEASES: MINIMUM_FREE}) if minimum_free is None else check_free(probes, minimum_free)
        )
    return [
        *check_systems(probes),
        *check_systemd(probes),
        *check_python(airflow),
        *check_clocks(probes),
        *check_ports(probes),
        *check_names(probes),
        *check_own_addresses(probes, groups),
        *check_one_name_each(probes),
        *installation,
    ]


def check_answers(
    unreachable: Mapping[str, str],
    broken: Mapping[str, str],
    groups: Mapping[str, Sequence[str]],
    purpose: str = "install",
) -> list[Problem]:
    """Check that those hosts answered that a run cannot do without, and that those that answered could be probed.

    An installation, a delivery or the way back does without hosts that are workers and nothing else: the cluster is
    configured for all workers of the inventory, whether they answer or not.

    :param unreachable: host -> what its connection said.
    :param broken: host -> what its probe said when it failed.
    :param groups: group -> names of its members.
    :param purpose: one of `inventory.PURPOSES`.
    """
    needed = {host for group in GROUPS if group != "workers" for host in groups.get(group, ())}
    return [
        Problem(
            f"connection to {host}",
            said,
            "an answer from every host of the run" + ("" if purpose == "operate" else ", but for workers"),
            f"ansible {host} -m ping    tells when it answers again; --limit 'all:!{host}' leaves it out of a run",
        )
        for host, said in unreachable.items()
        if purpose == "operate" or host in needed
    ] + [
        Problem(
            f"probe of {host}",
            said,
            "a host with Python and sudo, on which the user of the connection may become root",
            f"ansible {host} -b -m setup    tells what is wrong; --limit 'all:!{host}' leaves it out of a run",
        )
        for host, said in broken.items()
    ]


def clock_offset(sent: float, received: float, started: float, ended: float) -> tuple[float, float]:
    """Return by how many seconds a host's clock is ahead of the controller's, and the uncertainty, as NTP does.

    :param sent: controller's clock before the call, in seconds.
    :param received: controller's clock after the call.
    :param started: host's clock when the call started there.
    :param ended: host's clock when it ended there.
    """
    offset = ((started - sent) + (ended - received)) / 2
    uncertainty = ((received - sent) - (ended - started)) / 2
    return offset, max(0.0, uncertainty)


def check_systems(probes: Probes) -> list[Problem]:
    """Check the operating systems."""
    allowed = ", ".join(f"{name.capitalize()} {version}" for name, versions in SYSTEMS.items() for version in versions)
    hosts_by_system: dict[str, list[str]] = {}
    for host, probe in probes.items():
        if probe["os"]["version_id"] not in SYSTEMS.get(probe["os"]["id"], ()):
            hosts_by_system.setdefault(probe["os"]["pretty"], []).append(host)
    return [
        Problem(
            f"operating system of {', '.join(hosts)}",
            system or "unknown (no /etc/os-release)",
            allowed,
            "use hosts with one of these",
        )
        for system, hosts in hosts_by_system.items()
    ]


def check_systemd(probes: Probes) -> list[Problem]:
    """Check that the hosts run a systemd that knows the settings of our units."""
    hosts_by_version: dict[int, list[str]] = {}
    for host, probe in probes.items():
        if probe["systemd"] < MINIMUM_SYSTEMD:
            hosts_by_version.setdefault(probe["systemd"], []).append(host)
    return [
        Problem(
            f"systemd of {', '.join(hosts)}",
            f"version {version}" if version else "the host does not run systemd",
            f"version {MINIMUM_SYSTEMD} or newer, as the init system",
            "upgrade the operating system" if version else "boot the host (or container) with systemd",
        )
        for version, hosts in hosts_by_version.items()
    ]


def check_python(airflow: Probes) -> list[Problem]:
    """Check that the hosts that get an Airflow environment have one and the same supported Python."""
    problems = []
    first, last = PYTHON_MINORS
    versions = [f"3.{minor}" for minor in range(first, last + 1)]
    hosts_by_version: dict[str, list[str]] = {}
    for host, probe in airflow.items():
        hosts_by_version.setdefault(probe["python"]["version"], []).append(host)
    for version in [version for version in hosts_by_version if version not in versions]:
        hosts = hosts_by_version.pop(version)
        problems.append(
            Problem(
                f"Python of {', '.join(hosts)}",
                ", ".join(sorted({airflow[host]["python"]["full"] or "none" for host in hosts})),
                f"{versions[0]} to {versions[-1]}",
                "use a supported operating system" if version else "install the package python3",
            )
        )
    if len(hosts_by_version) > 1:
        systems = {host: probe["os"]["pretty"] for host, probe in airflow.items()}
        problems.append(
            Problem(
                "Python of the Airflow hosts",
                "\n".join(
                    f"{version} on {host} ({systems[host]})"
                    for version in sorted(hosts_by_version, key=_numbers)
                    for host in hosts_by_version[version]
                ),
                "one minor version on all hosts that run Airflow, as they share one environment",
                "use hosts with one release of one operating system, or set airflow_python to an interpreter of one "
                "minor version that all of them have",
            )
        )
    return problems


def check_lock(airflow: Probes, lock: Lock, path: str = "") -> list[Problem]:
    """Check that the lock was made for the Python and the machine of each host that installs it."""
    first, last = PYTHON_MINORS
    hosts_by_reason: dict[tuple[str, str], list[str]] = {}
    for host, probe in airflow.items():
        python, machine = probe["python"]["version"], probe.get("machine", "")
        if python not in [f"3.{minor}" for minor in range(first, last + 1)]:
            continue  # the rule about Python says so
        reason = unfit_for(lock, python, machine)
        if reason:
            hosts_by_reason.setdefault((reason, f"Python {python} on {machine or 'an unknown machine'}"), []).append(
                host
            )
    return [
        Problem(
            f"lock {path} on {', '.join(hosts)}" if path else f"lock on {', '.join(hosts)}",
            f"{reason}, and the host has {found}",
            "a lock for the Python and the machine of every host that runs Airflow",
            f"{LOCK_COMMAND}\nmakes one; airflow_lock_python is the oldest Python that it is for, and wheels of "
            "airflow_build_packages fit hosts like the first of schedulers only; or set airflow_python to an "
            "interpreter that the lock is for",
        )
        for (reason, found), hosts in hosts_by_reason.items()
    ]


def check_clocks(probes: Probes) -> list[Problem]:
    """Check that no two clocks are too far apart, beyond what the measurement is uncertain by."""
    known = {
        host: (probe["clock_offset"], probe["clock_uncertainty"])
        for host, probe in probes.items()
        if "clock_offset" in probe
    }
    apart = {
        host
        for pair in combinations(known, 2)
        for host in pair
        if _apart(known[pair[0]], known[pair[1]]) > MAXIMUM_CLOCK_DIFFERENCE
    }
    if not apart:
        return []
    return [
        Problem(
            "clocks",
            "\n".join(
                f"{host} is {abs(offset):.1f} s {'ahead of' if offset >= 0 else 'behind'} the controller"
                f" (±{uncertainty:.1f} s)"
                for host, (offset, uncertainty) in sorted(known.items(), key=lambda item: item[1])
            ),
            f"at most {MAXIMUM_CLOCK_DIFFERENCE:g} s between any two hosts; beyond 10 s Airflow refuses its own tokens "
            "and log requests: tasks fail, logs are unreadable",
            "on these hosts: apt install chrony (or timedatectl set-ntp true), then check with timedatectl; "
            "in a container or VM, set the clock of the machine below",
        )
    ]


def check_ports(probes: Probes) -> list[Problem]:
    """Check that nobody but the expected unit listens on the cluster's ports."""
    problems = []
    for host, probe in probes.items():
        units: dict[int, list[str]] = {}
        for asked in probe["asked"]:
            units.setdefault(asked["port"], []).append(asked["unit"])
        foreign: dict[tuple[int, str], list[str]] = {}
        for entry in probe["listening"]:
            expected = units.get(entry["port"], [])
            if any(is_unit(entry["unit"], unit) for unit in expected):
                continue
            who = entry["process"] or "a process that could not be identified (is become: true set?)"
            if entry["pid"]:
                who += f", process {entry['pid']}, {'unit ' + entry['unit'] if entry['unit'] else 'of no unit'}"
            foreign.setdefault((entry["port"], who), []).append(entry["address"])
        for (port, who), addresses in foreign.items():
            problems.append(
                Problem(
                    f"port {port} on {host}",
                    f"taken by {who}, on {', '.join(addresses)}",
                    f"free, or taken by {' or '.join(units[port])}",
                    "stop that program, or give the cluster's component another port in the inventory",
                )
            )
    return problems


def check_names(probes: Probes) -> list[Problem]:
    """Check that each host resolves the names of those it talks to."""
    hosts_by_name: dict[str, list[str]] = {}
    for host, probe in probes.items():
        for name in probe["unresolved"]:
            hosts_by_name.setdefault(name, []).append(host)
    return [
        Problem(
            f"name {name}",
            f"not resolved on {', '.join(hosts)}",
            "a name that every host resolves, or an IPv4 address",
            "set cluster_address of that host to its IPv4 address, or add the name to DNS or /etc/hosts",
        )
        for name, hosts in hosts_by_name.items()
    ]


def check_database(probes: Probes, groups: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Check that the databases are not left behind on another host, where a new server would begin empty."""
    members = [host for host in groups.get("postgresql", ()) if host in probes]
    left = [host for host, probe in probes.items() if probe["database"] and host not in members]
    if not left or not members or any(probes[host]["database"] for host in members):
        return []
    old, settings = left[0], probes[left[0]]["database"]
    return [
        Problem(
            f"group postgresql, {members[0]}",
            f"the databases are on {old} ({settings}), and {members[0]} has none: Airflow would begin without its"
            " history, connections, variables, pools and users",
            "the host that has the databases",
            f"keep {old} in the group postgresql; docs/database.md tells how to move them;\n"
            f"to begin with empty ones, rename {settings} on {old} first; if they are another cluster's, that host\n"
            "belongs into another inventory",
        )
    ]


def check_client_names(probes: Probes) -> list[Problem]:
    """Check that PostgreSQL will know its clients: it looks up the name of who connects, and compares the whole."""
    return [
        Problem(
            f"name {name}",
            f"on {host}, the addresses of {name} lead back to {', '.join(back) or 'no name'}: PostgreSQL there would "
            "not let that host in",
            "a name that the reverse lookup on PostgreSQL's host returns in full, or an IPv4 address",
            "set cluster_address of that host to its IPv4 address",
        )
        for host, probe in probes.items()
        for name, back in probe["reverse"].items()
        if name.lower() not in [found.lower() for found in back]
    ]


def check_nftables(probes: Probes) -> list[Problem]:
    """Check that the kernel takes the rules of the firewall, where it was asked."""
    hosts_by_trouble: dict[str, list[str]] = {}
    for host, probe in probes.items():
        if probe.get("nftables"):
            hosts_by_trouble.setdefault(probe["nftables"], []).append(host)
    return [
        Problem(
            f"nftables on {', '.join(hosts)}",
            f"the kernel refuses: {trouble}",
            "a kernel with nf_tables, and in a container the capability NET_ADMIN; or cluster_firewall: false",
            "modprobe nf_tables on the host, or on the machine below a container; give the container NET_ADMIN; or set "
            "cluster_firewall to false in group_vars/all, and let a firewall before these hosts close their ports",
        )
        for trouble, hosts in hosts_by_trouble.items()
    ]


def check_haproxy(balancers: Probes) -> list[Problem]:
    """Check that no HAProxy of somebody else would lose its settings."""
    return [
        Problem(
            f"HAProxy on {host}",
            "its haproxy.cfg was written neither by the distribution nor by this collection, and would be replaced",
            "no HAProxy of your own on the host of load_balancers",
            "put another host into load_balancers; or keep your HAProxy, leave the group empty, and set "
            "cluster_webserver_host; or, if nobody needs that file, move it away",
        )
        for host, probe in balancers.items()
        if probe.get("haproxy") == "foreign"
    ]


def check_own_addresses(probes: Probes, groups: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Check that those who listen on their host's cluster address only can do so, and are reached there."""
    problems = []
    alone = len({host for group in GROUPS for host in groups.get(group, ())}) < 2
    celery = bool(groups.get("workers"))
    for host, probe in probes.items():
        products = [
            product
            for group, product in LISTENERS.items()
            if host in groups.get(group, ()) and (celery or group in ("postgresql", "load_balancers"))
        ]
        own = probe["own_addresses"]
        if not products or not own:
            continue
        loopback = [address for address in own if ipaddress.ip_address(address).is_loopback]
        if loopback and not alone:
            problems.append(
                Problem(
                    f"address of {host}",
                    f"on {host} itself, its cluster_address is {', '.join(loopback)}: no other host would reach "
                    f"{' and '.join(products)} there",
                    "an address on the host's interface that the other hosts reach",
                    f"correct the line with the name in /etc/hosts on {host} (Debian's installer writes 127.0.1.1), or "
                    "set cluster_address of that host to its IPv4 address",
                )
            )
        elif not probe["own_address_is_local"]:
            problems.append(
                Problem(
                    f"address of {host}",
                    f"its cluster_address is {', '.join(own)}, which no interface of {host} has: "
                    f"{' and '.join(products)} could not listen there",
                    "an address on the host's interface that the other hosts reach",
                    "where ansible_host is a floating IP (NAT), set cluster_address of that host to the address on its "
                    "interface; otherwise correct the address, DNS or /etc/hosts",
                )
            )
    return problems


def check_one_name_each(probes: Probes) -> list[Problem]:
    """Check that no machine is in the inventory twice: two names of it would fight over its files and ports."""
    hosts_by_address: dict[str, list[str]] = {}
    for host, probe in probes.items():
        for address in probe["own_addresses"]:
            if not ipaddress.ip_address(address).is_loopback:
                hosts_by_address.setdefault(address, []).append(host)
    return [
        Problem(
            f"address of {' and '.join(hosts)}",
            f"each of them is {address}: one machine with {len(hosts)} names",
            "a machine is in the inventory once, in as many groups as you like",
            "keep one of the names, or correct the address of the others; several workers on one host: "
            "airflow_worker_instances",
        )
        for address, hosts in hosts_by_address.items()
        if len(hosts) > 1
    ]


def check_free(probes: Probes, minimum: Mapping[str, int]) -> list[Problem]:
    """Check the free space for paths, by the nearest parent that the host's probe has."""
    problems = []
    for path, wanted in minimum.items():
        for host, probe in probes.items():
            probed = next(
                (str(place) for place in (Path(path), *Path(path).parents) if str(place) in probe["free"]), ""
            )
            if probed and probe["free"][probed] < wanted:
                problems.append(
                    Problem(
                        f"free space for {path} on {host}",
                        _size(probe["free"][probed]),
                        f"at least {_size(wanted)}",
                        "make space (old releases, journals, apt's cache), or give the path a larger file system",
                    )
                )
    return problems


def check_memory(probes: Probes, workers: Sequence[Mapping[str, Any]], task_memory: int) -> list[Problem]:
    """Require that the workers fit into the memory that they may use with a task in each of their slots.

    :param workers: ``host``, ``instance``, ``concurrency``, ``autoscale`` and ``memory_max`` of each; those on hosts
        without a probe are not checked. All but ``host`` and ``concurrency`` may be missing or empty.
    :param task_memory: MB that a running task takes, on top of its slot.
    """
    problems = []
    by_host: dict[str, list[Mapping[str, Any]]] = {}
    for worker in workers:
        by_host.setdefault(worker["host"], []).append(worker)
    for host, own in by_host.items():
        if host not in probes:
            continue
        has = probes[host]["memory_bytes"] // 2**20
        for worker in own:
            limit = memory_limit(worker.get("memory_max", ""), has)
            limit = has if limit is None else limit
            if limit < has or len(own) == 1:
                problems += _check_limit(worker, limit, has, task_memory)
        slots = sum(int(worker["concurrency"]) for worker in own)
        needed, idle, one = (memory_needed(["worker"] * len(own), count, 0, task_memory) for count in (slots, 0, 1))
        if len(own) > 1 and needed > has:
            fit = max((has - idle) // (one - idle), 0)
            names = ", ".join(worker["instance"] for worker in own if worker.get("instance"))
            problems.append(
                Problem(
                    f"memory of {host}",
                    f"{has} MB; its {len(own)} workers with {slots} slots need {needed} MB when each slot runs a task "
                    f"of {task_memory} MB (airflow_task_memory)",
                    f"as many slots in all as fit: {fit}",
                    f"lower airflow_worker_concurrency of {host}, or concurrency of {names} in its "
                    f"airflow_worker_instances, to {fit} slots in all"
                    if fit >= len(own)
                    else f"give {host} more memory, or fewer airflow_worker_instances",
                )
            )
    return problems


def _check_limit(worker: Mapping[str, Any], limit: int, has: int, task_memory: int) -> list[Problem]:
    """Check one worker against the MB that it may use, which are not more than its host has."""
    host, instance, slots = worker["host"], worker.get("instance", ""), int(worker["concurrency"])
    prefix, where = ("", f"{instance} in airflow_worker_instances of {host}") if instance else ("airflow_worker_", host)
    needed, idle, one = (memory_needed(["worker"], count, 0, task_memory) for count in (slots, 0, 1))
    if needed <= limit:
        return []
    fit = (limit - idle) // (one - idle)
    variable, value, lower = f"{prefix}concurrency", str(slots), str(fit)
    if worker.get("autoscale"):
        variable, value = f"{prefix}autoscale", worker["autoscale"]
        lower = f"{fit},{min(fit, int(value.partition(',')[2]))}"
    remedies = [f"set {variable} of {where} to {lower}"] if fit > 0 else []
    remedies += [f"raise {prefix}memory_max of {where}"] if limit < has else []
    return [
        Problem(
            f"memory of {f'{instance} on {host}' if instance else host}",
            f"{f'{prefix}memory_max ' + worker['memory_max'] + ', ' if limit < has else ''}{limit} MB; a worker with "
            f"{variable} {value} needs {needed} MB when each slot runs a task of {task_memory} MB "
            "(airflow_task_memory)",
            f"as many slots as fit: {max(fit, 0)}",
            " or ".join(remedies) or f"give {host} more memory",
        )
    ]


def is_unit(unit: str, expected: str) -> bool:
    """Return whether a unit is the expected one, or an instance of it.

    `postgresql@15-main.service` is an instance of `postgresql`: Debian's `postgresql.service` only starts those.

    :param expected: unit name or shell pattern, with or without ``.service``.
    """
    name, pattern = unit.removesuffix(".service"), expected.removesuffix(".service")
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern.removesuffix('@')}@*")


def _members(probes: Probes, groups: Mapping[str, Sequence[str]], names: Sequence[str]) -> Probes:
    """Return the probes of the hosts that are in one of the named groups."""
    hosts = {host for name in names for host in groups.get(name, ())}
    return {host: probe for host, probe in probes.items() if host in hosts}


def _apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the seconds by which two (offset, uncertainty) certainly differ."""
    return abs(one[0] - other[0]) - one[1] - other[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _size(amount: int) -> str:
    return f"{amount / 1024**3:.1f} GiB"
