"""host_probe: parsers against sample files, the whole module against this machine."""

from __future__ import annotations

import errno
import json
import os
import platform
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import host_probe

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   104        0 4711 1 0000000000000000 100 0
   1: 0100007F:1538 0100007F:A2B4 01 00000000:00000000 00:00000000 00000000   104        0 4712 1 0000000000000000 20 4
   2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000   999        0 4713 1 0000000000000000 100 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1538 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 104 0 4714 1 0 100 0
   1: 000080FE00000000FF005450B6AD1DFE:22B8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 104 0 4715 1 0 100 0
"""  # noqa: E501


def call(capsys: pytest.CaptureFixture[str], check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run the module in this process; its JSON answer."""
    capsys.readouterr()
    with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
        host_probe.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"])
def listening(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    """Port and address of a socket of this process."""
    family, address = request.param
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen()
        yield server.getsockname()[1], address


@pytest.mark.skipif(sys.byteorder != "little", reason="the samples are from a little-endian machine")
def test_sockets_are_parsed() -> None:
    assert host_probe.parse_sockets(TCP) == [(5432, "127.0.0.1", 4711), (8080, "0.0.0.0", 4713)]
    assert host_probe.parse_sockets(TCP6) == [(5432, "::1", 4714), (8888, "fe80::5054:ff:fe1d:adb6", 4715)]
    assert host_probe.parse_sockets("") == []


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/airflow-worker.service\n", "airflow-worker.service"),
        ("0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n", "postgresql@15-main.service"),
        ("0::/system.slice/airflow-worker.service/payload\n", "airflow-worker.service"),
        ("0::/machine.slice/libpod-4f.scope/system.slice/redis-server.service\n", "redis-server.service"),
        ("9:name=systemd:/machine.slice/libpod-4f.scope/init.scope\n8:pids:/x.service\n0::/\n", "init.scope"),
        ("1:name=systemd:/system.slice/ssh.service\n0::/\n", "ssh.service"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope"),
        ("0::/\n", ""),
        ("0::/a:b.service\n", "a:b.service"),
        ("", ""),
    ],
)
def test_units_are_parsed(text: str, unit: str) -> None:
    assert host_probe.parse_unit(text) == unit


def test_a_listening_process_is_found(listening: tuple[int, str], capsys: pytest.CaptureFixture[str]) -> None:
    port, address = listening
    asked = [{"port": port, "unit": "airflow-worker"}, {"port": 1, "unit": "x"}]
    probe = call(capsys, ports=asked)["probe"]
    assert probe["asked"] == asked
    (entry,) = probe["listening"]
    assert (entry["port"], entry["address"], entry["pid"]) == (port, address, os.getpid())
    assert entry["process"] == Path("/proc/self/comm").read_text().strip()


def test_only_asked_ports_are_told(listening: tuple[int, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, ports=[{"port": listening[0] % 65535 + 1, "unit": "x"}])["probe"]["listening"] == []


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["localhost", "127.0.0.1", "fd00::1", "nope.invalid", "nope.invalid", "a..b", ""]
    assert call(capsys, resolve=names)["probe"]["unresolved"] == ["nope.invalid", "a..b", ""]


@pytest.mark.parametrize(
    ("address", "own", "local"),
    [
        ("127.0.1.1", ["127.0.1.1"], True),
        ("203.0.113.5", ["203.0.113.5"], False),
        ("2001:db8::1", ["2001:db8::1"], False),
        ("nope.invalid", [], False),
        ("", [], False),
    ],
)
def test_the_own_address(address: str, own: list[str], local: bool, capsys: pytest.CaptureFixture[str]) -> None:
    probe = call(capsys, address=address)["probe"]
    assert (probe["own_addresses"], probe["own_address_is_local"]) == (own, local)
    assert probe["unresolved"] == [], "only what O(resolve) names"


def test_the_own_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["203.0.113.5", "127.0.1.1", "203.0.113.5"]
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 0)) for place in places]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    probe = call(capsys, address="me", resolve=["me"])["probe"]
    assert probe["own_addresses"] == places[:2]
    assert probe["own_address_is_local"] is True, "one of them is enough"


def test_names_are_looked_up_in_reverse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"w1": ["10.0.0.1", "10.0.0.2"], "w2": ["10.0.0.3"], "self": ["127.0.1.1"]}
    back = {"10.0.0.1": "w1.example.org", "10.0.0.2": "w1", "127.0.0.1": "localhost"}

    def forth(name: str, *_: Any, **__: Any) -> list[Any]:
        if name not in known:
            raise OSError
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 0)) for place in known[name]]

    def named(place: tuple[str, int], flags: int) -> tuple[str, str]:
        if place[0] not in back:
            raise OSError
        return back[place[0]], "0"

    monkeypatch.setattr(socket, "getaddrinfo", forth)
    monkeypatch.setattr(socket, "getnameinfo", named)
    probe = call(capsys, resolve=["w1"], reverse=["w1", "w2", "self", "gone"])["probe"]
    assert probe["reverse"] == {"w1": ["w1.example.org", "w1"], "w2": [], "self": ["localhost"]}
    assert call(capsys, resolve=["w1"])["probe"]["reverse"] == {}


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *_, **__: time.sleep(2 if name == "slow" else 0))
    started = time.monotonic()
    assert list(host_probe.resolve(["slow", "fast"], 0.2)) == ["fast"]
    assert time.monotonic() - started < 1


def test_free_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "a" / "b")
    free = call(capsys, paths=[str(tmp_path), missing])["probe"]["free"]
    assert set(free) == {str(tmp_path), missing}
    assert free[missing] == pytest.approx(free[str(tmp_path)], rel=0.05)
    assert free[missing] > 0


def test_python(tmp_path: Path) -> None:
    full = platform.python_version()
    assert host_probe.python_version(sys.executable) == {"version": full.rpartition(".")[0], "full": full}
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.13.5\n")
    other.chmod(0o755)
    assert host_probe.python_version(str(other)) == {"version": "3.13", "full": "3.13.5"}
    assert host_probe.python_version(str(tmp_path / "none")) == {"version": "", "full": ""}


@pytest.mark.parametrize(("says", "version"), [("glibc 2.36", "2.36"), ("other 1.2", ""), (None, "")])
def test_glibc(says: str | None, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_probe.os, "confstr", lambda name: {"CS_GNU_LIBC_VERSION": says}[name])
    assert host_probe.glibc_version() == version


def test_another_c_library_has_no_such_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise ValueError(name)

    monkeypatch.setattr(host_probe.os, "confstr", unknown)
    assert host_probe.glibc_version() == ""


def test_os_release() -> None:
    text = '# comment\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'
    assert host_probe.os_release(text) == {
        "id": "debian",
        "version_id": "12",
        "pretty": "Debian GNU/Linux 12 (bookworm)",
    }
    assert host_probe.os_release("") == {"id": "", "version_id": "", "pretty": ""}


def test_installed_packages() -> None:
    table = "ii  redis-server\nhi  postgresql\nrc  sudo\nun  acl\niU  procps\nii  redis-server\n\n"
    assert host_probe.installed(table) == ["postgresql", "redis-server"]
    assert host_probe.installed("") == []


def test_units_of_workers(tmp_path: Path) -> None:
    assert host_probe.worker_units(str(tmp_path / "none")) == []
    others = [
        "airflow-worker-check.service",
        "airflow-worker-check@a.service",
        "airflow-worker.service.d",
        "redis.service",
    ]
    for name in ["airflow-worker@heavy.service", "airflow-worker.service", *others]:
        (tmp_path / name).touch()
    assert host_probe.worker_units(str(tmp_path)) == ["airflow-worker.service", "airflow-worker@heavy.service"]


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    before = time.time()
    answer = call(capsys, check=True)
    probe = answer["probe"]
    assert answer["changed"] is False
    assert before <= probe["time"] <= time.time()
    assert probe["elapsed"] < 5
    assert probe["cpus"] >= 1
    assert probe["memory_bytes"] > 2**28
    assert probe["os"]["pretty"]
    assert isinstance(probe["container"], bool)
    assert isinstance(probe["package_lists"], bool)
    assert "dpkg" in probe["packages"] and "no-such-package" not in probe["packages"]
    assert probe["systemd"] >= 0
    assert probe["machine"] == platform.machine()
    assert probe["glibc"] == platform.libc_ver()[1]


def test_addresses_of_what_resolves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"w1": ["fd00::5", "10.0.0.5", "10.0.0.5"]}

    def forth(name: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        if name not in known:
            raise OSError
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0)) for address in known[name]]

    monkeypatch.setattr(socket, "getaddrinfo", forth)
    probe = call(capsys, resolve=["w1", "gone"])["probe"]
    assert probe["addresses"] == {"w1": ["10.0.0.5", "fd00::5"]}
    assert probe["unresolved"] == ["gone"]


class Kernel:
    """Answers a request for nftables."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        """Nothing to wait for."""

    def send(self, message: bytes) -> None:
        """Take a whole message."""
        assert struct.unpack_from("=LHH", message) == (len(message), 0x0A10, 1)

    def recv(self, size: int) -> bytes:
        """The answer."""
        return self.answer


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (struct.pack("=LHHLLBBH", 20, 0x0A0F, 0, 1, 0, 0, 0, 0), ""),
        (struct.pack("=LHHLLi", 36, 2, 0, 1, 0, -errno.EPERM), os.strerror(errno.EPERM)),
    ],
)
def test_a_kernel_with_and_without_nftables(answer: bytes, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_probe.socket, "socket", lambda *_: Kernel(answer))
    assert host_probe.nftables_trouble() == trouble


def test_a_kernel_without_netfilter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(host_probe.socket, "socket", refuse)
    assert host_probe.nftables_trouble() == "Protocol not supported"


def test_whose_haproxy_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, settings = tmp_path / "airflow.conf", tmp_path / "haproxy.cfg"
    shipped = f" {settings} 5d41402abc4b2a76b9719d911017c592\n"
    monkeypatch.setattr(host_probe, "HAPROXY_OURS", str(ours))
    monkeypatch.setattr(host_probe, "HAPROXY_SETTINGS", str(settings))
    monkeypatch.setattr(host_probe, "run", lambda *_: shipped)
    assert host_probe.haproxy_owner() == ""
    settings.write_text("hello")
    assert host_probe.haproxy_owner() == "", "as the distribution ships it"
    settings.write_text("hello, world")
    assert host_probe.haproxy_owner() == "foreign"
    ours.write_text("")
    assert host_probe.haproxy_owner() == "ours"
