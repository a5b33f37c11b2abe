#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Tells in one call what preflight needs to know of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_probe
short_description: Tell in one call what preflight needs to know of a host
version_added: 0.1.0
description:
  - Gathers the operating system, Python, systemd, memory, free space, who listens on which port, which names do not
    resolve, and how far the host's clock is off.
  - Reads only.
options:
  ports:
    description: Ports to look at.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: A TCP port.
        type: int
        required: true
      unit:
        description: Name of the systemd unit that may listen on it, with or without C(.service).
        type: str
        required: true
  resolve:
    description: Names and addresses that the host must be able to resolve.
    type: list
    elements: str
    default: []
  address:
    description: Name or address of the host itself, as the other hosts know it.
    type: str
    default: ""
  reverse:
    description: Names whose addresses are looked up in reverse, as PostgreSQL does with whoever connects.
    type: list
    elements: str
    default: []
  resolve_timeout:
    description: Seconds after which a name counts as not resolved. All names are looked up at once.
    type: float
    default: 10
  paths:
    description: Paths whose file system's free space is wanted; the nearest parent that exists is looked at.
    type: list
    elements: path
    default: []
  nftables:
    description: Whether to ask the kernel if it takes nftables rules.
    type: bool
    default: false
  python:
    description: The interpreter that Airflow's environment is made from.
    type: path
    default: /usr/bin/python3
attributes:
  check_mode:
    description: Can run in check mode and does the same there.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
notes:
  - Without root, the process that listens on a port is found only if it is one's own.
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Probe the host
  dataops.airflow.host_probe:
    ports:
      - {port: 8793, unit: airflow-worker}
    resolve: [db.example.org]
    address: worker1.example.org
    paths: [/opt/airflow/releases]
  register: __cluster_probe
  become: true
"""

RETURN = r"""
probe:
  description: What was found.
  returned: success
  type: dict
  contains:
    time:
      description: The host's clock at the start, in seconds since 1970.
      type: float
      returned: always
    elapsed:
      description: Seconds that gathering took.
      type: float
      returned: always
    clock_offset:
      description: Seconds by which the host's clock is ahead of the controller's.
      type: float
      returned: always
    clock_uncertainty:
      description: The offset is known to plus or minus so many seconds.
      type: float
      returned: always
    os:
      description: C(id), C(version_id) and C(pretty) from /etc/os-release.
      type: dict
      returned: always
    python:
      description: C(version) (like V(3.11)) and C(full) of the interpreter; both empty if there is none.
      type: dict
      returned: always
    machine:
      description: Architecture, such as V(x86_64).
      type: str
      returned: always
    glibc:
      description: Version of the C library, such as V(2.36); empty if it is another one than glibc.
      type: str
      returned: always
    systemd:
      description: systemd's version; 0 if the host does not run it.
      type: int
      returned: always
    cpus:
      description: CPUs that may be used.
      type: int
      returned: always
    memory_bytes:
      description: Memory that may be used, in bytes.
      type: int
      returned: always
    container:
      description: Whether the host is a container.
      type: bool
      returned: always
    package_lists:
      description: Whether apt has lists of packages; a bare image has none, however young the folder is.
      type: bool
      returned: always
    packages:
      description: Names of the packages that dpkg has installed; asking apt takes a hundred times as long.
      type: list
      elements: str
      returned: always
    broker:
      description: Whether the role redis set up Redis on this host.
      type: bool
      returned: always
    sqlite:
      description: Whether Airflow's scheduler on this host was set up with SQLite.
      type: bool
      returned: always
    free:
      description: Path as asked for to bytes available to unprivileged users on its file system.
      type: dict
      returned: always
    asked:
      description: The option O(ports).
      type: list
      elements: dict
      returned: always
    listening:
      description:
        - One entry for each asked port and address that somebody listens on, with C(port), C(address), C(pid)
          (null if it could not be found), C(process) and C(unit) (both empty if not known).
      type: list
      elements: dict
      returned: always
    unresolved:
      description: Those of O(resolve) that did not resolve.
      type: list
      elements: str
      returned: always
    addresses:
      description: The others of O(resolve), each with its IP addresses, sorted.
      type: dict
      returned: always
    reverse:
      description: Those of O(reverse) that resolve, each with the names that its addresses lead back to.
      type: dict
      returned: always
    own_addresses:
      description: IP addresses of O(address), as the host itself resolves it; empty if it does not, or was not asked.
      type: list
      elements: str
      returned: always
    own_address_is_local:
      description: Whether the host can listen on one of C(own_addresses).
      type: bool
      returned: always
    database:
      description: Where the role postgresql set PostgreSQL up, the file of its settings; empty otherwise.
      type: str
      returned: always
    firewall:
      description: Whether the collection's nftables rules were set up on this host.
      type: bool
      returned: always
    haproxy:
      description:
        - V(ours) where the role haproxy set HAProxy up, V(foreign) where there are settings that neither it nor the
          distribution wrote, and empty otherwise.
      type: str
      returned: always
    workers:
      description: Units of Airflow's Celery workers that were set up on this host.
      type: list
      elements: str
      returned: always
    nftables:
      description: Why the kernel takes no nftables rules; empty if it does, or was not asked with O(nftables).
      type: str
      returned: always
"""

import contextlib
import hashlib
import ipaddress
import os
import platform
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETGEN = 16
"""The kernel's protocol for nftables, and the question for the generation of the rule set."""

POSTGRESQL = "*/main/conf.d/airflow.conf"
"""What the role postgresql writes, below /etc/postgresql."""

FIREWALL = "/etc/systemd/system/dataops-airflow-firewall.service"
"""The unit of the role firewall."""

WORKERS = "airflow-worker[.@]*service"
"""What the role airflow writes for workers, in the folder of units."""

HAPROXY_OURS = "/etc/systemd/system/haproxy.service.d/airflow.conf"
"""What the role haproxy writes before anything else."""
HAPROXY_SETTINGS = "/etc/haproxy/haproxy.cfg"


def parse_sockets(table: str) -> list[tuple[int, str, int]]:
    """Return (port, address, inode) of the listening sockets.

    :param table: text of /proc/net/tcp or /proc/net/tcp6.
    """
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTEN:
            address, port = fields[1].split(":")
            found.append((int(port, 16), decode_address(address), int(fields[9])))
    return found


def decode_address(text: str) -> str:
    """Return an address of /proc/net/tcp as people write it: ``0100007F`` is ``127.0.0.1``.

    The kernel prints each 32-bit word in the byte order of the machine.
    """
    words = (bytes.fromhex(text[start : start + 8]) for start in range(0, len(text), 8))
    return str(ipaddress.ip_address(b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)))


def parse_unit(cgroup: str) -> str:
    """Return the systemd unit of a process, or "".

    In a container the path may start with the container's own place in the host's tree, so the last unit counts.

    :param cgroup: text of /proc/PID/cgroup, cgroup v2, v1 or hybrid.
    """
    paths = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    for controllers in ("", "name=systemd"):
        for part in reversed(paths.get(controllers, "").split("/")):
            if re.search(r"\.(service|scope|socket)$", part):
                return part
    return ""


def read(path: str) -> str:
    """Return the text of a small file, or "" if it cannot be read (a process may be gone at any time)."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def owners(inodes: set[int]) -> dict[int, int]:
    """Return socket inode -> lowest id of a process that has it open."""
    found: dict[int, int] = {}
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        if len(found) == len(inodes):
            break
        with contextlib.suppress(OSError):  # not ours, or gone
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    inode = wanted.get(os.readlink(entry.path))  # noqa: PTH115  thousands of them: no objects
                    if inode is not None:
                        found.setdefault(inode, pid)
    return found


def listeners(ports: Iterable[int]) -> list[dict[str, Any]]:
    """Return who listens on the ports; see RETURN."""
    asked = set(ports)
    sockets = [
        entry for name in ("tcp", "tcp6") for entry in parse_sockets(read(f"/proc/net/{name}")) if entry[0] in asked
    ]
    pids = owners({inode for _, _, inode in sockets}) if sockets else {}
    found: dict[tuple[int, str, int | None], dict[str, Any]] = {}
    for port, address, inode in sockets:
        pid = pids.get(inode)
        found[(port, address, pid)] = {
            "port": port,
            "address": address,
            "pid": pid,
            "process": read(f"/proc/{pid}/comm").strip() if pid else "",
            "unit": parse_unit(read(f"/proc/{pid}/cgroup")) if pid else "",
        }
    return sorted(found.values(), key=lambda entry: (entry["port"], entry["address"], entry["pid"] or 0))


def places(name: str) -> list[Any]:
    """Return what `socket.getaddrinfo` says of a name."""
    return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)


def names_of(name: str) -> list[Any]:
    """Return the names that the addresses of a name lead back to."""
    found = []
    for *_, place in places(name):
        # Who connects to a loopback address comes from the first of them.
        first = ("127.0.0.1", 0) if place[0].startswith("127.") else place
        with contextlib.suppress(OSError):
            found.append(socket.getnameinfo(first, socket.NI_NAMEREQD)[0])
    return list(dict.fromkeys(found))


def resolve(names: Iterable[str], timeout: float, answer: Callable[[str], list[Any]] = places) -> dict[str, list[Any]]:
    """Return name -> answer, for the names that resolve.

    :param timeout: seconds for all names together; a name without an answer by then counts as not resolved.
    """
    resolved: dict[str, list[Any]] = {}

    def look_up(name: str) -> None:
        with contextlib.suppress(OSError, UnicodeError):
            resolved[name] = answer(name)

    threads = [threading.Thread(target=look_up, args=(name,), daemon=True) for name in set(names)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(resolved)


def is_local(family: int, place: tuple[Any, ...]) -> bool:
    """Return whether the host can listen on a socket address, on some port."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probing:
            probing.bind((place[0], 0, *place[2:]))
    except OSError:
        return False
    return True


def free_bytes(path: str) -> int:
    """Return the bytes available to unprivileged users on the file system of a path, or of its nearest parent."""
    place = Path("/", path)
    while not place.exists():
        place = place.parent
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def os_release(text: str) -> dict[str, str]:
    """Return id, version_id and the pretty name from the text of /etc/os-release."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    plain = {key: value.strip().strip("\"'") for key, value in values.items()}
    return {
        "id": plain.get("ID", ""),
        "version_id": plain.get("VERSION_ID", ""),
        "pretty": plain.get("PRETTY_NAME", "") or plain.get("ID", ""),
    }


def run(*command: str) -> str:
    """Return what a command prints, or "" if it cannot be run or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=True)
        return done.stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return ""


def python_version(interpreter: str) -> dict[str, str]:
    """Return the version of an interpreter, as ``3.11`` and as ``3.11.2``; both empty if there is none."""
    if os.path.realpath(interpreter) == os.path.realpath(sys.executable):
        full = platform.python_version()
    else:
        full = run(interpreter, "-I", "-S", "-c", "import platform; print(platform.python_version())").strip()
    return {"version": ".".join(full.split(".")[:2]), "full": full}


def glibc_version() -> str:
    """Return the version of the C library, or "" if it is not glibc."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):
        return ""
    return version if name == "glibc" else ""


def systemd_version() -> int:
    """Return systemd's version; 0 if the host was not booted with it."""
    if not Path("/run/systemd/system").is_dir():
        return 0
    match = re.match(r"systemd (\d+)", run("systemctl", "--version"))
    return int(match.group(1)) if match else 0


def installed(table: str) -> list[str]:
    """Return the names in dpkg's table that are installed; one that was removed and left its settings is not."""
    rows = (line.split() for line in table.splitlines())
    return sorted({row[1] for row in rows if len(row) == 2 and row[0][1] == "i"})


def memory_bytes() -> int:
    """Return the memory that may be used: what the machine has, or less where a control group says so."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo"), re.MULTILINE)
    amounts = [int(match.group(1)) * 1024] if match else []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = read(path).strip()
        if text.isdigit():
            amounts.append(int(text))
    return min(amounts, default=0)


def in_container() -> bool:
    """Return whether the host is a container."""
    marks = ("/run/systemd/container", "/run/.containerenv", "/.dockerenv")
    return any(Path(mark).exists() for mark in marks) or "\0container=" in "\0" + read("/proc/1/environ")


def nftables_trouble() -> str:
    """Return why the kernel takes no nftables rules from this process, or "".

    Asks for the generation of the rule set, as `nft` does before anything else; needs no `nft`, and changes nothing.
    """
    kind, request, answer_to_error = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, 1, 2
    message = struct.pack("=LHHLLBBH", 20, kind, request, 1, 0, socket.AF_UNSPEC, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
            kernel.settimeout(5)
            kernel.send(message)
            answer = kernel.recv(4096)
    except OSError as problem:
        return problem.strerror or str(problem)
    (said,) = struct.unpack_from("=H", answer, 4)
    return os.strerror(-struct.unpack_from("=i", answer, 16)[0]) if said == answer_to_error else ""


def haproxy_owner() -> str:
    """Return whose the settings of HAProxy are; see RETURN."""
    if Path(HAPROXY_OURS).exists():
        return "ours"
    try:
        digest = hashlib.md5(Path(HAPROXY_SETTINGS).read_bytes()).hexdigest()  # noqa: S324  what dpkg has to compare with
    except OSError:
        return ""
    shipped = run("dpkg-query", "--show", "--showformat=${Conffiles}", "haproxy")
    return "" if f"{HAPROXY_SETTINGS} {digest}" in shipped else "foreign"


def worker_units(folder: str) -> list[str]:
    """Return the names of the units of workers, those of their health checks not among them."""
    return sorted(path.name for path in Path(folder).glob(WORKERS))


def probe(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return everything; see RETURN."""
    started, clock = time.time(), time.monotonic()
    resolved = resolve(
        [*parameters["resolve"], *parameters["reverse"], parameters["address"]], parameters["resolve_timeout"]
    )
    own = resolved.get(parameters["address"], [])
    wanted = [name for name in parameters["reverse"] if name in resolved]
    back = resolve(wanted, parameters["resolve_timeout"], names_of)
    found = {
        "time": started,
        "os": os_release(read("/etc/os-release") or read("/usr/lib/os-release")),
        "python": python_version(parameters["python"]),
        "machine": platform.machine(),
        "glibc": glibc_version(),
        "systemd": systemd_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes(),
        "container": in_container(),
        "package_lists": any(Path("/var/lib/apt/lists").glob("*_Packages*")),
        "packages": installed(run("dpkg-query", "--show", "--showformat=${db:Status-Abbrev} ${Package}\\n")),
        "broker": Path("/etc/systemd/system/redis-server.service.d/airflow.conf").exists(),
        "database": next((str(path) for path in sorted(Path("/etc/postgresql").glob(POSTGRESQL))), ""),
        "sqlite": 'SQL_ALCHEMY_CONN="sqlite:' in read("/etc/airflow/scheduler.env"),
        "free": {path: free_bytes(path) for path in parameters["paths"]},
        "asked": parameters["ports"],
        "listening": listeners(entry["port"] for entry in parameters["ports"]),
        "unresolved": [name for name in dict.fromkeys(parameters["resolve"]) if name not in resolved],
        "addresses": {
            name: sorted({place[0] for *_, place in resolved[name]})
            for name in parameters["resolve"]
            if name in resolved
        },
        "reverse": {name: back.get(name, []) for name in wanted},
        "own_addresses": list(dict.fromkeys(place[0] for *_, place in own)),
        "own_address_is_local": any(is_local(family, place) for family, *_, place in own),
        "firewall": Path(FIREWALL).exists(),
        "haproxy": haproxy_owner(),
        "workers": worker_units("/etc/systemd/system"),
        "nftables": nftables_trouble() if parameters["nftables"] else "",
    }
    found["elapsed"] = time.monotonic() - clock
    return found


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"port": {"type": "int", "required": True}, "unit": {"type": "str", "required": True}},
            },
            "resolve": {"type": "list", "elements": "str", "default": []},
            "address": {"type": "str", "default": ""},
            "reverse": {"type": "list", "elements": "str", "default": []},
            "resolve_timeout": {"type": "float", "default": 10},
            "paths": {"type": "list", "elements": "path", "default": []},
            "nftables": {"type": "bool", "default": False},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, probe=probe(module.params))


if __name__ == "__main__":
    main()
