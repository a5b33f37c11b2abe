"""The collection as a user gets it: built, installed, and called by its name; and the first commands in a checkout."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import textwrap
from pathlib import Path

import pytest
import yaml
from contract.collection import CHECKOUT, files, load, playbooks, relative, tracked

SHIPPED = ("changelogs/", "dags/", "docs/", "inventories/", "meta/", "playbooks/", "plugins/", "roles/")
LEFT_OUT = ("docs/generate.py", "inventories/mysite/")
FORBIDDEN = re.compile(
    r"(^|/)(\.[^/]+|__pycache__|bench|lab|molecule|tests|vault\.yml|Makefile|ansible\.cfg|requirements\.(in|txt))(/|$)"
)


def run(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without the settings of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        shlex.split(command),
        cwd=cwd,
        env={**kept, "HOME": str(cwd), "ANSIBLE_NOCOLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("build")
    done = run(f"ansible-galaxy collection build --output-path {output}", CHECKOUT, HOME=str(output))
    assert done.returncode == 0, done.stderr
    (built,) = output.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def site(tarball: Path) -> Path:
    """A user's folder, outside the checkout, with the collection installed below it."""
    folder = tarball.parent / "site"
    folder.mkdir()
    shutil.copy(tarball, folder)
    # The dependencies come with the bundle; --offline keeps the answer from depending on a server.
    command = "ansible-galaxy collection install dataops-airflow-*.tar.gz --force --offline -p collections"
    done = run(f"sh -c {shlex.quote(command)}", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def call(command: str, site: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that finds the installed collection first."""
    return run(command, site, ANSIBLE_COLLECTIONS_PATH=str(site / "collections"))


def nowhere(inventory: Path, *hosts: str) -> None:
    """Give hosts addresses at which nobody can answer."""
    (inventory / "host_vars").mkdir(parents=True)
    for host in hosts:
        (inventory / f"host_vars/{host}.yml").write_text(f"---\nansible_host: {host}.invalid\n")


def test_the_tarball_holds_what_it_should(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        held = {member.name for member in archive if not member.isdir()}
    assert sorted(name for name in held if FORBIDDEN.search(name)) == []
    names = {relative(path) for path in tracked()}
    wanted = {name for name in names if name.startswith(SHIPPED) and not name.startswith(LEFT_OUT)}
    assert sorted(wanted - held) == []
    top = {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "FILES.json",
        "LICENSE",
        "MANIFEST.json",
        "README.md",
        "SECURITY.md",
        "requirements.yml",
        "site.yml",
    }
    assert sorted(held - wanted - top) == []
    assert top <= held
    assert "roles/airflow/files/locks/airflow-3.3.2.txt" in held


def test_the_dependencies_are_those_that_are_used() -> None:
    dependencies = load(CHECKOUT / "galaxy.yml")["dependencies"]
    listed = {entry["name"]: entry["version"] for entry in load(CHECKOUT / "requirements.yml")["collections"]}
    assert listed == dependencies
    texts = [path.read_text() for path in files("roles/*/*/**/*.yml", "playbooks/**/*.yml", "roles/*/*/**/*.j2")]
    used = {name for text in texts for name in re.findall(r"\b([a-z_]+\.[a-z_]+)\.[a-z_]+:?", text)}
    known = set(re.findall(r"\b(?:community|ansible|containers)\.[a-z]+\b", " ".join(used)))
    assert known - {"ansible.builtin"} == set(dependencies)


def test_the_installed_collection_refuses_a_bad_inventory(site: Path) -> None:
    (site / "bad.yml").write_text(yaml.safe_dump({"workers": {"hosts": {"worker1.invalid": {}}}}))
    done = call("ansible-playbook dataops.airflow.preflight -i bad.yml", site)
    assert done.returncode != 0
    assert "Nothing was changed." in done.stdout + done.stderr
    assert "group schedulers" in done.stdout + done.stderr
    assert "UNREACHABLE" not in done.stdout


def test_the_installed_collection_works_by_its_name(site: Path) -> None:
    installed = site / "collections/ansible_collections/dataops/airflow"
    shutil.copytree(installed / "inventories/cluster", site / "mysite")
    variables = site / "mysite/group_vars/all/airflow.yml"
    variables.write_text(yaml.safe_dump({"airflow_dags": str(installed / "dags")}))

    done = call("ansible-playbook -i mysite dataops.airflow.secrets", site)
    assert done.returncode == 0, done.stdout + done.stderr
    vault = site / "mysite/group_vars/all/vault.yml"
    assert vault.stat().st_mode & 0o777 == 0o600
    assert "airflow_fernet_key" in load(vault)

    done = call("ansible-playbook -i mysite dataops.airflow.site --list-tasks", site)
    assert done.returncode == 0, done.stderr
    assert f"playbook: {installed}/playbooks/site.yml" in done.stdout
    assert "Validate the inventory" in done.stdout
    done = call("ansible-playbook -i mysite dataops.airflow.verify --list-tasks", site)
    assert "Run the canary" in done.stdout, done.stderr
    names = [f"dataops.airflow.{path.stem}" for path in playbooks() if path.parent.name == "playbooks"]
    done = call(f"ansible-playbook -i mysite --syntax-check {' '.join(names)}", site)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_lock_is_made_with_the_primary(site: Path) -> None:
    """With --limit, its task would be skipped on every host, and the run would look like a good one."""
    inventory = site / "limited"
    shutil.copytree(site / "collections/ansible_collections/dataops/airflow/inventories/cluster", inventory)
    done = call("ansible-playbook -i limited dataops.airflow.lock --limit worker1,worker2", site)
    assert done.returncode != 0
    text = done.stdout + done.stderr
    for words in ("leaves control1 out. Nothing was changed.", "found:   worker1, worker2", "--limit control1"):
        assert words in text, text
    assert not (inventory / "airflow-lock.txt").exists()


def test_a_plan_needs_no_host_that_answers(site: Path) -> None:
    inventory = site / "planned"
    shutil.copytree(site / "collections/ansible_collections/dataops/airflow/inventories/cluster", inventory)
    (inventory / "group_vars/workers.yml").write_text("---\nairflow_worker_concurrency: 3\n")
    nowhere(inventory, "db1", "control1", "worker1", "worker2")
    done = call(f"ansible-playbook -i planned dataops.airflow.plan -e json={site}/plan.json", site)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = json.loads((site / "plan.json").read_text())
    assert plan["queues"]["default"] == {"workers": ["worker1", "worker2"], "slots": 6}
    assert (plan["cluster"]["name"], plan["cluster"]["tasks"]) == ("worker slots", 6)
    assert plan["one_more_worker"]["parallelism"] == [2 * 6, 2 * 9]
    assert plan["one_more_worker"]["restarts"] == ["the scheduler"]
    assert "tasks 6 -> 9" in done.stdout


def test_one_host_grows_as_the_readme_says(site: Path) -> None:
    installed = site / "collections/ansible_collections/dataops/airflow"
    shutil.copytree(installed / "inventories/single_host", site / "grown")
    (site / "grown/group_vars/all/airflow.yml").write_text("---\n")
    hosts = site / "grown/hosts.yml"
    blocks = re.findall(r"(?m)^ +```yaml\n((?: +\w+: \{.*\n)+) +```", (CHECKOUT / "README.md").read_text())
    (lines,) = [block for block in blocks if "workers:" in block]
    added = textwrap.indent(textwrap.dedent(lines), " " * 4)
    hosts.write_text(hosts.read_text().replace("  children:\n", f"  children:\n{added}", 1))
    nowhere(site / "grown", "control1", "worker1")
    done = call("ansible-playbook -i grown dataops.airflow.secrets", site)
    assert done.returncode == 0, done.stdout + done.stderr
    done = call("ansible-playbook -i grown dataops.airflow.preflight -v", site)
    assert "The inventory is valid: 2 host(s), CeleryExecutor." in done.stdout, done.stdout + done.stderr


def test_the_first_commands_in_a_checkout(tmp_path: Path) -> None:
    left_out = shutil.ignore_patterns(
        ".[a-z]*", "__pycache__", "mysite", "vault.yml", "molecule", "bench", "lab", "tests"
    )
    checkout = tmp_path / "checkout"
    shutil.copytree(CHECKOUT, checkout, ignore=left_out)
    # What `make setup` makes.
    (checkout / ".venv").symlink_to(CHECKOUT / ".venv")
    link = checkout / ".ansible/collections/ansible_collections/dataops/airflow"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../../..")

    nowhere(checkout / "nowhere", "db1", "control1", "worker1", "worker2")

    script = """
        set -eu
        . .venv/bin/activate
        cp -r inventories/cluster inventories/mysite
        cp -r nowhere/host_vars inventories/mysite/
        ansible-playbook -i inventories/mysite playbooks/secrets.yml
        ansible-playbook -i inventories/mysite playbooks/verify.yml --syntax-check
        ansible-playbook -i inventories/mysite playbooks/rollback.yml --syntax-check
        ansible-playbook -i inventories/mysite playbooks/plan.yml -e json=plan.json
        test -s plan.json
        ansible-playbook -i inventories/cluster playbooks/plan.yml
        ansible-playbook -i inventories/mysite playbooks/plan.yml > refused.txt \
          -e '{"airflow_config": {"core": {"parallelism": 0}}}' && exit 1
        grep -q 'integer >= 1' refused.txt
        ansible-playbook -i inventories/mysite playbooks/lock.yml
        test -s inventories/mysite/airflow-lock.txt
        ! ansible-playbook -i inventories/mysite playbooks/worker_remove.yml -e worker=worker2 -e confirm=true
        ansible-playbook -i inventories/mysite site.yml
    """
    done = run(f"sh -c {shlex.quote(script)}", checkout)
    # Nobody answers at these addresses: the run ends after it validated the inventory, before any change.
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(r"TASK .*Validate the inventory\] \*+\s+ok: \[db1\]", done.stdout)
    last = done.stdout.rpartition("Validate the inventory")[2] + done.stderr
    assert "connection to db1" in last and "connection to control1" in last, last
    assert "connection to worker1" not in last, "workers are not what holds it up"
    assert not re.search(r"changed=[1-9]", done.stdout.rpartition("PLAY RECAP")[2])
