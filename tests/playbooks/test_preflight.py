"""Which playbooks are held up by what: the real ones, with hosts that only preflight is told of."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.collection import CHECKOUT, load, playbooks
from tests.playbook import run_playbook

INSTALL = {"airflow", "firewall", "haproxy", "postgresql", "redis", "site"}
OPERATE = {"restart", "rollback", "rotate", "settings", "verify", "worker_remove"}
DELIVER = {"dags"}
GO_BACK = {"dags_rollback"}
# Every host says the same: what the present release runs on, but no space for another one.
PROBE = {
    "os": {"id": "debian", "version_id": "12", "pretty": "Debian GNU/Linux 12 (bookworm)"},
    "python": {"version": "3.11", "full": "3.11.2"},
    "machine": "x86_64",
    "glibc": "2.36",
    "systemd": 252,
    "free": {"/opt/airflow/releases": 0},
    "memory_bytes": 4 * 1024**3,
    "broker": False,
    "sqlite": False,
    "asked": [],
    "listening": [],
    "reverse": {},
    "own_addresses": [],
    "own_address_is_local": True,
    "database": "",
    "firewall": False,
    "haproxy": "",
    "workers": [],
}
KEPT = [("cluster", "preflight"), ("cluster", "probe"), ("airflow", "dags_source")]
STANDS_IN = f"""
from ansible.plugins.action import ActionBase

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        if task_vars["inventory_hostname"] in task_vars.get("away", []):
            return {{"unreachable": True, "msg": "ssh: No route to host"}}
        if task_vars["inventory_hostname"] in task_vars.get("broken", []):
            return {{"failed": True, "msg": "sudo: a password is required"}}
        unresolved = [name for name in self._task.args["resolve"] if name.startswith("dead")]
        return {{"changed": False, "probe": {{**task_vars.get("probe", {PROBE!r}), "unresolved": unresolved}}}}
"""
NOBODY = {"ansible_connection": "ssh", "ansible_ssh_executable": "/bin/false"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This collection with nothing behind preflight, and an inventory of it."""
    root = tmp_path_factory.mktemp("preflight")
    collection = root / "ansible_collections/dataops/airflow"
    (collection / "plugins/action").mkdir(parents=True)
    (collection / "playbooks").symlink_to(CHECKOUT / "playbooks")
    for part in ("filter", "module_utils", "modules"):
        (collection / "plugins" / part).symlink_to(CHECKOUT / "plugins" / part)
    for action in (CHECKOUT / "plugins/action").glob("*.py"):
        if action.stem != "host_probe":
            (collection / "plugins/action" / action.name).symlink_to(action)
    (collection / "plugins/action/host_probe.py").write_text(STANDS_IN)
    for role in (CHECKOUT / "roles").iterdir():
        (collection / "roles" / role.name / "tasks").mkdir(parents=True)
        for folder in role.iterdir():
            if folder.name != "tasks":
                (collection / "roles" / role.name / folder.name).symlink_to(folder)
        for tasks in (role / "tasks").glob("*.yml"):
            kept = (role.name, tasks.stem) in KEPT
            text = tasks.read_text() if kept else "---\n[]\n"
            (collection / "roles" / role.name / "tasks" / tasks.name).write_text(text)
    shutil.copytree(CHECKOUT / "inventories/cluster", root / "mysite", ignore=shutil.ignore_patterns("vault.yml"))
    shutil.copy(CHECKOUT / "tests/golden/secrets.yml", root / "mysite/group_vars/all/vault.yml")
    return root


def run(site: Path, playbook: str, *options: str, **variables: Any) -> tuple[int, str]:
    """Run a playbook; its status and what it says."""
    path = f"ansible_collections/dataops/airflow/playbooks/{playbook}.yml"
    extra = json.dumps({**NOBODY, **variables})
    done = run_playbook(site, path, "-i", "mysite", "-e", extra, *options, collections=site)
    return done.returncode, done.stdout + done.stderr


def test_every_playbook_says_what_it_is_for() -> None:
    purposes = {}
    for path in playbooks():
        for play in load(path):
            if "preflight.yml" in play.values():
                purposes[path.stem] = play.get("vars", {}).get("purpose", "install")
    wanted = {"install": INSTALL, "operate": OPERATE, "deliver": DELIVER, "go_back": GO_BACK}
    assert purposes == {playbook: purpose for purpose, names in wanted.items() for playbook in names}
    (preflight,) = load(CHECKOUT / "playbooks/preflight.yml")
    assert preflight["vars"]["purpose"] == "install"


def test_an_installation_is_held_up_by_its_lock_and_its_space(site: Path) -> None:
    status, said = run(site, "airflow", airflow_lock="/nonexistent/lock.txt")
    assert status and '"/nonexistent/lock.txt", which is missing' in said.replace("\\", ""), said
    status, said = run(site, "airflow", airflow_dags="", probe={**PROBE, "memory_bytes": 700 * 2**20})
    assert status and "free space for /opt/airflow/releases on control1" in said, said
    assert "memory of worker2" in said and "set airflow_worker_concurrency of worker2 to 3" in said, said


def test_a_scheduler_whose_own_tasks_do_not_fit_is_told_of(site: Path) -> None:
    """Two workers have half of its slots; Airflow's 32 are its own."""
    probe = {**PROBE, "free": {"/opt/airflow/releases": 2**40}}
    executors = "CeleryExecutor,LocalExecutor"
    status, said = run(site, "airflow", airflow_dags="", probe=probe, airflow_executor=executors)
    assert status == 0 and "control1 has 4096 MB" in said and "19 slots fit" in said, said
    fewer = {"core": {"parallelism": 32}}
    status, said = run(site, "airflow", airflow_dags="", probe=probe, airflow_executor=executors, airflow_config=fewer)
    assert status == 0 and "control1 has" not in said, said


def test_a_worker_that_left_stops_while_the_servers_know_it(site: Path) -> None:
    probe = {**ENOUGH, "workers": ["airflow-worker.service"]}
    status, said = run(site, "site", airflow_dags="", probe=probe)
    before, closing, _ = said.partition("TASK [Open the ports to those who need them")
    assert status == 0 and closing, said
    stopped = re.findall(r"airflow for (.*)", before.partition("TASK [Stop the workers that left this host]")[2])
    assert sorted(", ".join(stopped).split(", ")) == ["control1", "db1"], said
    assert "airflow for" not in before.partition("TASK [Stop the workers that left this host]")[0]


def test_the_connections_are_those_of_the_inventory(site: Path) -> None:
    """The sum that the role cluster computes: five pools of control1, two workers of four slots, and the rest."""
    needed = 15 * 5 + 2 * (4 + 4) + 5 + 15
    status, said = run(site, "preflight", postgresql_max_connections=needed - 1, airflow_dags="", probe=ENOUGH)
    assert status and f"{needed - 1} connections; the components of this inventory may open {needed}" in said, said
    status, said = run(site, "preflight", postgresql_max_connections=needed, airflow_dags="", probe=ENOUGH)
    assert status == 0, said


@pytest.mark.parametrize("value", ["changeme", ""])
def test_a_secret_that_is_none_is_refused_by_name(site: Path, value: str) -> None:
    status, said = run(site, "preflight", airflow_jwt_secret=value, airflow_dags="", probe=ENOUGH)
    assert status, said
    for words in ("airflow_jwt_secret", "found:", "playbooks/secrets.yml", "Nothing was changed"):
        assert words in said, words
    assert "Compare the hosts with each other" not in said, "no host was asked"


@pytest.mark.parametrize(
    ("variables", "subject"),
    [
        ({"airflow_worker_instances": ["gpu"]}, "airflow_worker_instances"),
        ({"airflow_worker_queues": "gpu"}, "airflow_worker_queues"),
        ({"airflow_config": ["x"]}, "airflow_config"),
    ],
)
def test_what_others_are_computed_from_is_checked_before_they_are(
    site: Path, variables: dict[str, Any], subject: str
) -> None:
    status, said = run(site, "preflight", airflow_dags="", probe=ENOUGH, **variables)
    assert status and subject in said and "found:" in said and "Nothing was changed" in said, said


@pytest.mark.parametrize("limit", ["db1", "worker1"])
def test_a_first_scheduler_that_cannot_be_asked_holds_up_nobody(site: Path, limit: str) -> None:
    """Which DAGs it has would be compared with the folder, where some hosts of Airflow are left out."""
    (site / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (site / "ssh").chmod(0o755)
    told = {"airflow_dags": str(CHECKOUT / "molecule/workers/files/dags"), "ansible_ssh_executable": str(site / "ssh")}
    status, said = run(site, "site", "--limit", limit, probe=ENOUGH, **told)
    assert status == 0, said
    assert ("worker1 -> control1]: UNREACHABLE!" in said) is (limit == "worker1")


def test_no_parallelism_is_refused(site: Path) -> None:
    status, said = run(site, "preflight", airflow_config={"core": {"parallelism": 0}}, airflow_dags="", probe=ENOUGH)
    assert status and "option parallelism of the section core" in said and "an integer >= 1" in said, said


@pytest.mark.parametrize("playbook", ["rollback", "worker_remove"])
def test_a_way_out_is_not(site: Path, playbook: str) -> None:
    status, said = run(site, playbook, airflow_lock="/nonexistent/lock.txt", airflow_wheelhouse="/nonexistent")
    assert status == 0, said
    assert "Compare the hosts with each other" in said


def test_only_the_worker_that_leaves_needs_no_name(site: Path) -> None:
    hosts = site / "mysite/host_vars"
    hosts.mkdir()
    for worker in ("worker1", "worker2"):
        (hosts / f"{worker}.yml").write_text(yaml.safe_dump({"cluster_address": f"dead-{worker}.example.org"}))
    try:
        status, said = run(site, "worker_remove", "--limit", "all,!worker1,!worker2", worker="worker2", mode="forced")
    finally:
        shutil.rmtree(hosts)
    assert status and "not resolved on db1, control1" in said, said
    assert "name dead-worker1.example.org" in said
    assert "dead-worker2" not in said


def failed(said: str) -> dict[str, str]:
    """Host to its number of failed tasks."""
    return dict(re.findall(r"(?m)^(\w+) +: .*failed=(\d)", said))


ENOUGH = {**PROBE, "free": {"/opt/airflow/releases": 2**40}}


@pytest.mark.parametrize("playbook", ["site", "dags_rollback"])
def test_a_worker_that_cannot_be_reached_holds_up_nobody(site: Path, playbook: str) -> None:
    status, said = run(site, playbook, away=["worker2"], airflow_dags="", probe=ENOUGH)
    assert status, said
    for words in (
        "worker2 cannot be reached",
        "No route to host",
        "remedy:",
        "-e worker=worker2 -e confirm=true -e mode=forced",
    ):
        assert words in said, words
    assert failed(said) == {"control1": "0", "db1": "0", "worker1": "0", "worker2": "1"}


@pytest.mark.parametrize(("playbook", "host"), [("site", "control1"), ("rollback", "worker2"), ("verify", "worker2")])
def test_who_is_needed_and_away_is_named(site: Path, playbook: str, host: str) -> None:
    status, said = run(site, playbook, away=[host], airflow_dags="", probe=ENOUGH)
    assert status, said
    for words in ("Nothing was changed", f"connection to {host}", "No route to host", "remedy:"):
        assert words in said, words
    assert "the others go on" not in said


def test_a_worker_that_cannot_be_probed_holds_all(site: Path) -> None:
    status, said = run(site, "site", broken=["worker2"], airflow_dags="", probe=ENOUGH)
    assert status, said
    for words in ("Nothing was changed", "probe of worker2", "sudo: a password is required", "remedy:"):
        assert words in said, words
