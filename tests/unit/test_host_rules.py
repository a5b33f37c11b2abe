"""host_rules: each rule with hosts that pass and with ones that do not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.host_rules import (
    MINIMUM_FREE,
    RELEASES,
    check_hosts,
    check_memory,
    clock_offset,
    is_unit,
)
from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import Lock
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem

GROUPS = {
    "postgresql": ["db"],
    "redis": ["db"],
    "schedulers": ["ctl"],
    "webservers": ["ctl"],
    "dag_processors": ["ctl"],
    "flower": ["ctl"],
    "workers": ["w1"],
}


def probe(**changes: Any) -> dict[str, Any]:
    """What the probe of a good host says."""
    return {
        "time": 1000.0,
        "elapsed": 0.1,
        "clock_offset": 0.1,
        "clock_uncertainty": 0.2,
        "os": {"id": "debian", "version_id": "12", "pretty": "Debian GNU/Linux 12 (bookworm)"},
        "python": {"version": "3.11", "full": "3.11.2"},
        "systemd": 252,
        "cpus": 2,
        "memory_bytes": 4 * 1024**3,
        "container": True,
        "free": {RELEASES: MINIMUM_FREE},
        "asked": [],
        "listening": [],
        "unresolved": [],
        "reverse": {},
        "own_addresses": [],
        "own_address_is_local": True,
        "database": "",
        **changes,
    }


def check(minimum_free: dict[str, int] | None = None, **hosts: dict[str, Any]) -> list[Problem]:
    """Problems of a good cluster with some hosts' probes changed."""
    own = {"db": ["10.0.0.1"], "ctl": ["10.0.0.2"], "w1": ["10.0.0.3"]}
    probes = {host: probe(**{"own_addresses": own[host], **hosts.get(host, {})}) for host in own}
    problems: list[Problem] = check_hosts(probes, GROUPS, minimum_free)
    return problems


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


def system(name: str, version: str) -> dict[str, str]:
    return {"id": name, "version_id": version, "pretty": f"{name} {version}"}


def python(full: str) -> dict[str, str]:
    return {"full": full, "version": ".".join(full.split(".")[:2])}


def test_a_kernel_that_takes_no_rules() -> None:
    problem = only(check(db={"nftables": "Operation not permitted"}, w1={"nftables": "Operation not permitted"}))
    assert problem.subject == "nftables on db, w1"
    assert problem.found == "the kernel refuses: Operation not permitted"
    for word in ("NET_ADMIN", "cluster_firewall"):
        assert word in problem.remedy
    assert check_hosts({"db": probe(nftables="Operation not permitted")}, GROUPS, purpose="operate") == []


def test_a_balancer_of_somebody_else() -> None:
    groups = {**GROUPS, "load_balancers": ["db"]}
    probes = {"db": probe(haproxy="foreign"), "ctl": probe(haproxy="foreign")}
    problem = only(check_hosts(probes, groups))
    assert problem.subject == "HAProxy on db" and "cluster_webserver_host" in problem.remedy
    assert check_hosts({"db": probe(haproxy="ours")}, groups) == []
    assert check_hosts(probes, groups, purpose="operate") == []


def test_good_hosts_have_no_problem() -> None:
    assert check() == []
    assert check_hosts({}, GROUPS) == []


@pytest.mark.parametrize(
    ("name", "version"), [("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")]
)
def test_known_systems(name: str, version: str) -> None:
    assert check(db={"os": system(name, version)}) == []


@pytest.mark.parametrize(
    ("name", "version"), [("debian", "11"), ("debian", ""), ("ubuntu", "20.04"), ("rocky", "12"), ("", "")]
)
def test_unknown_systems(name: str, version: str) -> None:
    problem = only(check(db={"os": system(name, version)}, ctl={"os": system(name, version)}))
    assert problem.subject == "operating system of db, ctl"
    assert problem.allowed == "Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04"


def test_old_systemd() -> None:
    problem = only(check(w1={"systemd": 241}))
    assert (problem.subject, problem.found) == ("systemd of w1", "version 241")
    assert only(check(w1={"systemd": 0})).found == "the host does not run systemd"
    assert check(w1={"systemd": 245}) == []


@pytest.mark.parametrize("full", ["3.9.2", "3.14.0", "2.7.18"])
def test_unsupported_python(full: str) -> None:
    problem = only(check(w1={"python": python(full)}))
    assert (problem.subject, problem.found, problem.allowed) == ("Python of w1", full, "3.10 to 3.13")


def test_no_python() -> None:
    assert "package python3" in only(check(w1={"python": python("")})).remedy


def test_python_matters_only_where_airflow_runs() -> None:
    assert check(db={"python": python("3.9.2")}) == []


def test_different_pythons_are_named_with_their_hosts() -> None:
    problem = only(check(w1={"python": python("3.13.5"), "os": system("debian", "13")}))
    assert problem.found == "3.11 on ctl (Debian GNU/Linux 12 (bookworm))\n3.13 on w1 (debian 13)"
    assert check(w1={"python": python("3.11.9")}) == [], "the patch level may differ"


def lock(**header: str) -> list[Problem]:
    """Problems of hosts with Python 3.11 on x86_64, and of one with 3.13 on aarch64, with a lock for something."""
    probes = {
        "ctl": probe(machine="x86_64"),
        "w1": probe(machine="aarch64", python=python("3.13.5")),
        "db": probe(python=python("3.10.1")),
    }
    problems = check_hosts(probes, GROUPS, lock=Lock({"airflow": "3.3.2", **header}, []))
    return [problem for problem in problems if problem.subject.startswith("lock")]


def test_a_lock_for_the_hosts() -> None:
    assert lock() == []
    assert lock(python="3.11") == []
    assert lock(python="3.10", until="3.13") == []
    assert lock(wheels="docopt-0.6.2-py2.py3-none-any.whl") == []


def test_a_lock_for_another_python() -> None:
    problem = only(lock(python="3.12"))
    assert problem.subject == "lock on ctl"
    assert problem.found == "it is for Python 3.12 and newer, and the host has Python 3.11 on x86_64"
    assert "playbooks/lock.yml" in problem.remedy and "airflow_python" in problem.remedy
    assert only(lock(python="3.11", until="3.11")).found.startswith(
        "it is for Python 3.11, and the host has Python 3.13"
    )
    assert only(lock(python="3.10", until="3.12")).found.startswith("it is for Python 3.10 to 3.12, and")


def test_a_lock_for_another_machine() -> None:
    problem = only(lock(platform="linux x86_64"))
    assert (problem.subject, problem.found) == (
        "lock on w1",
        "it is for linux x86_64, and the host has Python 3.13 on aarch64",
    )
    assert len(lock(wheels="a-1-cp311-cp311-linux_x86_64.whl")) == 1
    assert lock(wheels="a-1-cp311-cp311-linux_x86_64.whl")[0].subject == "lock on w1"
    assert [problem.subject for problem in lock(wheels="a-1-cp311-abi3-linux_x86_64.whl")] == ["lock on w1"]


def test_the_remedy_for_different_pythons() -> None:
    assert "airflow_python" in only(check(w1={"python": python("3.13.5")})).remedy


def test_pythons_are_ordered_as_numbers() -> None:
    problem = only(check(ctl={"python": python("3.12.1")}, w1={"python": python("3.10.1")}))
    assert problem.found.index("3.10") < problem.found.index("3.12")


def test_clocks_that_differ() -> None:
    problem = only(check(w1={"clock_offset": -6.0}))
    assert problem.subject == "clocks"
    assert "w1 is 6.0 s behind the controller (±0.2 s)" in problem.found
    assert "db is 0.1 s ahead of the controller (±0.2 s)" in problem.found


def test_clocks_are_compared_with_each_other_not_with_the_controller() -> None:
    far = {"clock_offset": 3600.0}
    assert check(db=far, ctl=far, w1=far) == []


def test_uncertainty_counts_in_favour_of_the_hosts() -> None:
    assert check(w1={"clock_offset": 5.4}) == []
    assert check(w1={"clock_offset": 5.6})
    assert check(w1={"clock_offset": 9.0, "clock_uncertainty": 4.0}) == []


def test_a_host_without_a_measured_clock() -> None:
    broken = probe()
    del broken["clock_offset"]
    assert check_hosts({"ctl": broken, "w1": probe()}, GROUPS) == []


def test_the_offset_is_that_of_ntp() -> None:
    offset, uncertainty = clock_offset(sent=100.0, received=102.0, started=1001.0, ended=1001.5)
    assert offset == pytest.approx(900.25)
    assert uncertainty == pytest.approx(0.75)
    assert clock_offset(100.0, 100.1, 100.0, 100.2)[1] == 0.0


def listener(port: int, unit: str, address: str = "0.0.0.0", **changes: Any) -> dict[str, Any]:
    return {"port": port, "address": address, "pid": 42, "process": "nginx", "unit": unit, **changes}


def test_a_port_that_somebody_else_has() -> None:
    problem = only(
        check(
            ctl={
                "asked": [{"port": 8080, "unit": "airflow-api-server"}],
                "listening": [listener(8080, "nginx.service"), listener(8080, "nginx.service", "::")],
            }
        )
    )
    assert problem.subject == "port 8080 on ctl"
    assert problem.found == "taken by nginx, process 42, unit nginx.service, on 0.0.0.0, ::"
    assert problem.allowed == "free, or taken by airflow-api-server"


def test_a_port_of_a_process_that_cannot_be_seen() -> None:
    entry = listener(8080, "", pid=None, process="")
    problem = only(check(ctl={"asked": [{"port": 8080, "unit": "x"}], "listening": [entry]}))
    assert "become: true" in problem.found


def test_a_port_of_its_own_unit() -> None:
    asked = [{"port": 5432, "unit": "postgresql"}, {"port": 6379, "unit": "redis-server.service"}]
    listening = [listener(5432, "postgresql@15-main.service"), listener(6379, "redis-server.service")]
    assert check(db={"asked": asked, "listening": listening}) == []


@pytest.mark.parametrize(
    ("unit", "expected", "same"),
    [
        ("airflow-worker.service", "airflow-worker", True),
        ("airflow-worker.service", "airflow-worker.service", True),
        ("postgresql@15-main.service", "postgresql", True),
        ("postgresql@15-main.service", "postgresql@15-main", True),
        ("postgresql@15-main.service", "postgresql@*.service", True),
        ("postgresql@15-main.service", "postgresql@.service", True),
        ("airflow-worker2.service", "airflow-worker", False),
        ("", "airflow-worker", False),
        ("session-1.scope", "airflow-worker", False),
    ],
)
def test_units(unit: str, expected: str, same: bool) -> None:
    assert is_unit(unit, expected) is same


def test_names_that_do_not_resolve() -> None:
    problem = only(check(ctl={"unresolved": ["w1"]}, db={"unresolved": ["w1"]}))
    assert (problem.subject, problem.found) == ("name w1", "not resolved on db, ctl")


def test_a_client_that_postgresql_would_not_know() -> None:
    assert check(db={"reverse": {"W1": ["other", "w1"]}}) == []
    problem = only(check(db={"reverse": {"w1": ["w1.example.org"], "ctl": ["ctl"]}}))
    assert problem.subject == "name w1"
    assert "on db, the addresses of w1 lead back to w1.example.org: PostgreSQL" in problem.found
    assert problem.remedy == "set cluster_address of that host to its IPv4 address"
    assert "lead back to no name" in only(check(db={"reverse": {"w1": []}})).found
    assert check_hosts({"db": probe(reverse={"w1": []})}, GROUPS, purpose="operate") == []


@pytest.mark.parametrize("own", [["127.0.1.1"], ["10.0.0.9", "127.0.0.1"], ["::1"]])
def test_a_name_that_is_loopback_on_its_own_host(own: list[str]) -> None:
    problem = only(check(db={"own_addresses": own}))
    assert problem.subject == "address of db"
    assert problem.found == (
        f"on db itself, its cluster_address is {own[-1]}: no other host would reach PostgreSQL and Redis there"
    )
    assert "/etc/hosts on db" in problem.remedy
    assert "Flower" in only(check(ctl={"own_addresses": own})).found
    assert check(w1={"own_addresses": own}) == [], "a worker listens on all addresses"


def test_other_hosts_count_though_they_were_not_probed() -> None:
    loopback = probe(own_addresses=["127.0.1.1"])
    assert only(check_hosts({"db": loopback}, GROUPS)).subject == "address of db"
    alone = {group: ["db"] for group in ("postgresql", "schedulers", "webservers", "dag_processors")}
    assert check_hosts({"db": loopback}, {**alone, "all": ["db", "x"], "monitoring": ["x"]}) == []


def test_an_address_that_no_interface_has() -> None:
    problem = only(check(db={"own_addresses": ["203.0.113.5"], "own_address_is_local": False}))
    assert problem.subject == "address of db"
    assert "203.0.113.5, which no interface of db has: PostgreSQL and Redis could not listen there" in problem.found
    assert "set cluster_address of that host to the address on its interface" in problem.remedy
    assert check(w1={"own_address_is_local": False}) == [], "a worker listens on all addresses"
    foreign = probe(own_addresses=["203.0.113.5"], own_address_is_local=False)
    assert only(check_hosts({"db": foreign}, {"postgresql": ["db"], "schedulers": ["db"]})), "on a single host, too"


def test_an_own_address_that_is_not_known() -> None:
    assert check(db={"own_addresses": [], "own_address_is_local": False}) == []


def test_without_celery_there_is_neither_redis_nor_flower() -> None:
    groups = {**GROUPS, "postgresql": ["w1"], "redis": ["db"], "workers": []}
    assert check_hosts({host: probe(own_addresses=["127.0.1.1"]) for host in ("db", "ctl")}, groups) == []


def test_a_balancer_needs_an_address_of_its_own_host() -> None:
    groups = {**GROUPS, "load_balancers": ["lb"], "workers": []}
    problem = only(check_hosts({"lb": probe(own_addresses=["127.0.1.1"])}, groups))
    assert problem.found.endswith("no other host would reach HAProxy there")
    foreign = probe(own_addresses=["203.0.113.5"], own_address_is_local=False)
    assert "HAProxy could not listen there" in only(check_hosts({"lb": foreign}, groups)).found


def test_the_balancers_port() -> None:
    asked = [{"port": 8081, "unit": "haproxy.service"}]
    assert check(db={"asked": asked, "listening": [listener(8081, "haproxy.service")]}) == []
    problem = only(check(db={"asked": asked, "listening": [listener(8081, "nginx.service")]}))
    assert (problem.subject, problem.allowed) == ("port 8081 on db", "free, or taken by haproxy.service")


def test_free_space_for_releases() -> None:
    little = {"free": {RELEASES: MINIMUM_FREE - 1}}
    assert only(check(w1=little)).subject == f"free space for {RELEASES} on w1"
    assert check(db=little) == [], "no Airflow there"
    assert check(w1={"free": {"/srv": 0}}) == [], "not probed"


def test_only_an_installation_needs_space_and_a_fitting_lock() -> None:
    lock = Lock({"airflow": "3.3.2", "platform": "linux s390x"})
    probes = {"w1": probe(free={RELEASES: 0}, unresolved=["x"], machine="x86_64")}
    assert len(check_hosts(probes, GROUPS, None, lock)) == 3
    assert only(check_hosts(probes, GROUPS, None, lock, purpose="operate")).subject == "name x"


def test_free_space_of_the_nearest_probed_parent() -> None:
    little = {"free": {"/": MINIMUM_FREE, "/opt": 0, "/opt/air": MINIMUM_FREE}}
    assert only(check(w1=little)).subject == f"free space for {RELEASES} on w1"
    assert check(w1={"free": {"/": 0, "/opt": MINIMUM_FREE}}) == []


def test_hosts_outside_the_cluster_do_not_matter() -> None:
    stranger = probe(os=system("rocky", "9"), systemd=0, clock_offset=99.0, unresolved=["x"], python=python("3.6.1"))
    assert check_hosts({"w1": probe(), "monitoring": stranger}, GROUPS) == []


@pytest.mark.parametrize(
    ("memory", "slots", "allowed", "remedy"),
    [
        (2622, 16, "", ""),
        (2621, 16, "as many slots as fit: 15", "set airflow_worker_concurrency of w1 to 15"),
        (512, 4, "as many slots as fit: 2", "set airflow_worker_concurrency of w1 to 2"),
        (256, 1, "as many slots as fit: 0", "give w1 more memory"),
    ],
)
def test_a_worker_fits_into_its_host(memory: int, slots: int, allowed: str, remedy: str) -> None:
    workers = [{"host": "w1", "concurrency": str(slots)}, {"host": "left out", "concurrency": 999}]
    found = check_memory({"w1": probe(memory_bytes=memory * 2**20)}, workers, 100)
    assert [(problem.allowed, problem.remedy) for problem in found] == ([(allowed, remedy)] if allowed else [])
    assert all(f"{memory} MB; " in problem.found for problem in found)


@pytest.mark.parametrize(
    ("memory_max", "found", "remedy"),
    [
        ("2623M", "", ""),
        ("3G", "", ""),
        (
            "1.5G",
            "1.5G, 1536 MB; ",
            "set airflow_worker_concurrency of w1 to 8 or raise airflow_worker_memory_max of w1",
        ),
        (
            "50%",
            "50%, 2048 MB; ",
            "set airflow_worker_concurrency of w1 to 12 or raise airflow_worker_memory_max of w1",
        ),
        ("64M", "64M, 64 MB; ", "raise airflow_worker_memory_max of w1"),
    ],
)
def test_a_worker_fits_into_its_limit(memory_max: str, found: str, remedy: str) -> None:
    workers = [{"host": "w1", "concurrency": 16, "memory_max": memory_max}]
    problems = check_memory({"w1": probe(memory_bytes=4 * 2**30)}, workers, 100)
    assert [problem.remedy for problem in problems] == ([remedy] if remedy else [])
    assert all(problem.found.startswith(f"airflow_worker_memory_max {found}") for problem in problems)


def test_a_worker_that_grows_fits_with_all_its_processes() -> None:
    workers = [{"host": "w1", "concurrency": 16, "autoscale": "16,12"}]
    problem = only(check_memory({"w1": probe(memory_bytes=2**30)}, workers, 100))
    assert "airflow_worker_autoscale 16,12 needs 2622 MB" in problem.found
    assert problem.remedy == "set airflow_worker_autoscale of w1 to 5,5"


@pytest.mark.parametrize(
    ("memory", "limit", "subject", "remedy"),
    [
        # 2 * 142 MB, and 155 MB for each of 6 slots.
        (1214, "", "", ""),
        (1213, "", "memory of w1", "lower airflow_worker_concurrency of w1, or concurrency of gpu in its "),
        (300, "", "memory of w1", "give w1 more memory, or fewer airflow_worker_instances"),
        (4096, "297M", "", ""),
        (4096, "296M", "memory of gpu on w1", "raise memory_max of gpu in airflow_worker_instances of w1"),
    ],
)
def test_the_workers_of_a_host_fit_together(memory: int, limit: str, subject: str, remedy: str) -> None:
    workers = [
        {"host": "w1", "instance": "", "concurrency": 5},
        {"host": "w1", "instance": "gpu", "concurrency": 1, "memory_max": limit},
    ]
    found = check_memory({"w1": probe(memory_bytes=memory * 2**20)}, workers, 100)
    assert [problem.subject for problem in found] == ([subject] if subject else [])
    assert all(problem.remedy.startswith(remedy) for problem in found)


def test_free_space_elsewhere() -> None:
    problem = only(check({"/srv": 1024**3}, db={"free": {"/srv": 1024**3 // 2}}))
    assert (problem.found, problem.allowed) == ("0.5 GiB", "at least 1.0 GiB")


def test_all_problems_are_found_at_once() -> None:
    assert len(check(db={"systemd": 0, "os": system("rocky", "9")}, w1={"unresolved": ["x"]})) == 3


CONF = "/etc/postgresql/15/main/conf.d/airflow.conf"


def test_the_databases_are_not_left_behind() -> None:
    (problem,) = check(ctl={"database": CONF})
    assert problem.subject == "group postgresql, db"
    assert "are on ctl" in problem.found and f"rename {CONF} on ctl" in problem.remedy


@pytest.mark.parametrize(
    "hosts",
    [
        {},
        {"db": {"database": CONF}},
        {"db": {"database": CONF}, "ctl": {"database": CONF}},
    ],
)
def test_databases_that_are_where_they_should_be(hosts: dict[str, Any]) -> None:
    assert check(**hosts) == []


def test_databases_that_a_limited_run_does_not_look_for() -> None:
    assert check_hosts({"ctl": probe(database=CONF)}, GROUPS) == []


def test_a_machine_has_one_name() -> None:
    (problem,) = check(ctl={"own_addresses": ["10.0.0.9", "fd00::9"]}, w1={"own_addresses": ["fd00::9"]})
    assert problem.subject == "address of ctl and w1" and "fd00::9" in problem.found
    loopback = {"own_addresses": ["127.0.0.1"]}
    problems = check(ctl=loopback, w1=loopback)
    assert [problem.subject for problem in problems] == ["address of ctl"], "of another rule"
