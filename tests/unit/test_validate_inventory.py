"""validate_inventory as a task: what it collects, and what people see when an inventory is wrong."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import (
    edited_by_hand,
    parse,
    render,
    unsatisfied,
)

from tests.playbook import run_play

CHECKOUT = Path(__file__).resolve().parents[2]
PLUGINS = (
    "action/validate_inventory.py",
    "modules/validate_inventory.py",
    *(f"module_utils/{path.name}" for path in (CHECKOUT / "plugins/module_utils").glob("*_rules.py")),
    "module_utils/inventory.py",
    "module_utils/literals.py",
    "module_utils/lock_file.py",
    "module_utils/problems.py",
    "module_utils/stored_settings.py",
)
ROLE = CHECKOUT / "roles" / "airflow"
ROLE_DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
ROLE_CONSTANTS = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
SIGNING_KEY = "k7Qz-" * 13
SECRETS = {
    "cluster_database_password": "a@:/%#'\" $ b-Kq9",
    "airflow_fernet_key": base64.urlsafe_b64encode(bytes(range(100, 132))).decode(),
    "airflow_jwt_secret": SIGNING_KEY,
    "airflow_api_secret_key": SIGNING_KEY,
    "airflow_admin_password": "Kq9-Kq9-mmmA-7",
}
CELERY = {"cluster_results_password": "Kq9-Kq9-mmmB-7", "cluster_redis_password": "Kq9-Kq9-mmmC-7"}
SPECS = {
    "cluster": {
        "main": {
            "options": {
                "cluster_address": {"type": "str"},
                "cluster_database_port": {"type": "int"},
                "airflow_executor": {"type": "str"},
                **{name: {"type": "str"} for name in [*SECRETS, *CELERY] if name.startswith("cluster_")},
            }
        }
    },
    "airflow": {
        "main": {
            "options": {
                "airflow_version": {"type": "str"},
                "airflow_extras": {"type": "list", "elements": "str"},
                "airflow_requirements": {"type": "list", "elements": "str"},
                "airflow_lock": {"type": "path"},
                "airflow_worker_concurrency": {"type": "int"},
                "airflow_dags": {"type": "path"},
                "airflow_memory": {"type": "int"},
                **{name: {"type": "str"} for name in SECRETS if name.startswith("airflow_")},
            }
        },
        "restore": {"options": {"airflow_backup": {"type": "path"}}},
    },
    "postgresql": {"main": {"options": {}}},
    "redis": {"main": {"options": {}}},
    "haproxy": {"main": {"options": {"haproxy_certificate": {"type": "path"}}}},
}
DEFAULTS = {
    "airflow": {
        "airflow_version": "3.3.2",
        "airflow_home": "/var/lib/airflow",
        "airflow_extras": ["celery", "postgres"],
        "airflow_requirements": [],
        "airflow_lock": ROLE_DEFAULTS["airflow_lock"],
    },
    "cluster": {"cluster_database_port": 5432},
}
CONSTANTS = {
    "cluster": {"cluster_executor": "{{ airflow_executor or 'derived' }}"},
    "airflow": {name: ROLE_CONSTANTS[name] for name in ("__airflow_site_lock", "__airflow_shipped_lock")},
}
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "any_errors_fatal": True,
        "tasks": [
            {"name": "Register something", "ansible.builtin.set_fact": {"__cluster_probe": 1, "cluster_seen": 1}},
            {"name": "Validate", "dataops.airflow.validate_inventory": None, "run_once": True},
        ],
    }
]


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection with these plugins and small roles, so that the real roles' contents do not matter."""
    path = tmp_path_factory.mktemp("collections")
    root = path / "ansible_collections" / "dataops" / "airflow"
    for name in PLUGINS:
        target = root / "plugins" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / "plugins" / name, target)
    for role, specs in SPECS.items():
        write(root / "roles" / role / "meta" / "argument_specs.yml", {"argument_specs": specs})
        write(root / "roles" / role / "defaults" / "main.yml", DEFAULTS.get(role, {}))
        write(root / "roles" / role / "vars" / "main.yml", CONSTANTS.get(role, {}))
    for version in ("3.2.0", "3.3.2"):
        path_of_lock = root / "roles" / "airflow" / "files" / "locks" / f"airflow-{version}.txt"
        path_of_lock.parent.mkdir(parents=True, exist_ok=True)
        path_of_lock.write_text(lock(version))
    return path


def lock(version: str = "3.3.2", *pins: str, **header: str) -> str:
    """Text of a lock."""
    head = {"airflow": version, "extras": "celery,postgres", **header}
    lines = [f"{pin} --hash=sha256:{'0' * 64}\n" for pin in (f"apache-airflow=={version}", *pins)]
    return str(render(head, "".join(lines)))


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def inventory(**groups: Any) -> dict[str, Any]:
    """An inventory with three hosts: db1, ctl1 and worker1."""
    children = {
        "control": {"hosts": {"ctl1": {"ansible_host": "10.0.0.2"}}},
        "postgresql": {"hosts": {"db1": {"ansible_host": "10.0.0.1"}}},
        "redis": {"hosts": {"db1": {}}},
        **{group: {"children": {"control": {}}} for group in ("schedulers", "webservers", "dag_processors")},
        "workers": {"hosts": {"worker1": {"ansible_host": "10.0.0.3"}}},
    }
    return {"all": {"vars": {**SECRETS, **CELERY}, "children": {**children, **groups}}}


def validate(collections: Path, site: Path, hosts: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the task on an inventory."""
    write(site / "hosts.yml", hosts)
    write(site / "play.yml", PLAY)
    return run_play(site, *options, collections=collections)


def test_a_valid_inventory_passes(collections: Path, tmp_path: Path) -> None:
    done = validate(collections, tmp_path, inventory(), "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The inventory is valid: 3 host(s), CeleryExecutor." in done.stdout
    assert "changed=0" in done.stdout


def test_a_bad_inventory_fails_with_all_problems_in_one_message(collections: Path, tmp_path: Path) -> None:
    hosts = inventory(
        workers={
            "hosts": {
                "worker1": {"ansible_host": "10.0.0.1", "airflow_worker_concurrency": "many"},
                "worker2": {"airflow_worker_concurency": 4, "airflow_dags": "{{ nowhere }}/dags"},
            }
        }
    )
    wrong = {"airflow_version": "3.0.0", "cluster_database_password": "changeme", "cluster_executor": "x"}
    hosts["all"]["vars"].update(wrong, airflow_dags="dags")
    # Only one host is asked for, in check mode: the whole inventory is looked at nevertheless.
    done = validate(collections, tmp_path, hosts, "--limit", "worker1", "--check")
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert "The inventory has 8 problems. Nothing was changed." in text
    assert text.index("The inventory has") == text.index("The inventory has 8")
    line = (tmp_path / "hosts.yml").read_text().splitlines().index("          airflow_worker_concurrency: many") + 1
    assert (
        "airflow_worker_concurrency on worker1 (1 of 4 hosts)\n"
        f'  found:   "many" (hosts.yml:{line})\n'
        "  allowed: an integer\n"
        "  remedy:  correct the value of airflow_worker_concurrency\n"
    ) in text
    for subject in (
        "airflow_worker_concurency",
        "cluster_executor",
        "airflow_dags on worker2",
        "address 10.0.0.1",
        "airflow_version (hosts.yml:",
        "cluster_database_password",
        "airflow_dags (hosts.yml:",
    ):
        assert f"\n{subject}" in text, f"{subject}\n{text}"
    assert "did you mean airflow_worker_concurrency?" in text
    assert "'nowhere' is undefined" in text
    assert "changeme" not in text
    assert SIGNING_KEY not in text


def test_the_shipped_lock_is_compared_with_the_site(collections: Path, tmp_path: Path) -> None:
    hosts = inventory()
    hosts["all"]["vars"].update(airflow_version="3.2.0", airflow_extras=["postgres", "celery"])
    done = validate(collections, tmp_path, hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    done = validate(collections, tmp_path, hosts, "-e", '{"airflow_extras": ["amazon"], "airflow_requirements": ["x"]}')
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert "roles/airflow/files/locks/airflow-3.2.0.txt\n  found:   apache-airflow[amazon] is wanted" in text
    assert "x is wanted, and it has no x" in text


def test_the_lock_beside_the_inventory_comes_first(collections: Path, tmp_path: Path) -> None:
    hosts = inventory()
    hosts["all"]["vars"].update(airflow_requirements=["boto3"])
    assert validate(collections, tmp_path, hosts).returncode != 0
    site = tmp_path / "airflow-lock.txt"
    site.write_text(lock("3.3.2", "boto3==1.40.1", requirements='["boto3"]'))
    done = validate(collections, tmp_path, hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    site.write_text(site.read_text().replace("1.40.1", "1.40.2"))
    done = validate(collections, tmp_path, hosts)
    assert f"lock {site}\n  found:   it was edited by hand" in done.stdout + done.stderr
    named = tmp_path / "other.txt"
    named.write_text(lock("3.3.2", "boto3==2"))
    done = validate(collections, tmp_path, hosts, "-e", "airflow_lock={{inventory_dir}}/other.txt")
    assert done.returncode == 0, done.stdout + done.stderr


def test_wheels_are_looked_for_beside_the_lock(collections: Path, tmp_path: Path) -> None:
    wheel = "boto3-1.40.1-py3-none-any.whl"
    (tmp_path / "airflow-lock.txt").write_text(lock("3.3.2", "boto3==1.40.1", wheels=wheel))
    done = validate(collections, tmp_path, inventory())
    assert f".wheels beside it\n  found:   {wheel} is missing\n" in done.stdout + done.stderr
    (tmp_path / ".wheels").mkdir()
    (tmp_path / ".wheels" / wheel).write_text("another one")
    done = validate(collections, tmp_path, inventory())
    assert f"found:   {wheel} has a hash that the lock does not have" in done.stdout + done.stderr


def test_a_certificate_goes_with_its_key(collections: Path, tmp_path: Path) -> None:
    parts = {}
    for name in ("one", "two"):
        argv = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ]
        argv += ["-subj", "/CN=airflow.example.org", "-out", f"{name}.pem", "-keyout", f"{name}.key"]
        subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)
        parts[name] = [(tmp_path / f"{name}.{end}").read_text() for end in ("pem", "key")]
    file = tmp_path / "airflow.pem"
    hosts = inventory(load_balancers={"hosts": {"db1": {"haproxy_certificate": str(file)}}})
    for text, words in (
        (None, "missing on the control node"),
        (parts["one"][0], "haproxy_certificate"),
        (parts["one"][0] + parts["two"][1], "KEY_VALUES_MISMATCH"),
        ("".join(parts["one"]), ""),
    ):
        if text is not None:
            file.write_text(text)
        done = validate(collections, tmp_path, hosts)
        said = done.stdout + done.stderr
        assert (done.returncode == 0) is (not words), said
        assert (words in said and "remedy:" in said) or not words
        assert parts["two"][1].splitlines()[1] not in said


def test_the_shipped_lock_is_for_the_defaults() -> None:
    version = ROLE_DEFAULTS["airflow_version"]
    text = (ROLE / "files" / "locks" / f"airflow-{version}.txt").read_text()
    assert not edited_by_hand(text) and "sha256" in parse(text).header
    assert unsatisfied(parse(text), version, ROLE_DEFAULTS["airflow_extras"], []) == []
    constraints = (ROLE / "files" / "constraints" / f"airflow-{version}.txt").read_text().splitlines()
    wanted = [line for line in constraints if line and not line.startswith("#")]
    assert wanted and unsatisfied(parse(text), version, [], wanted) == []


def test_extra_variables_are_checked_too(collections: Path, tmp_path: Path) -> None:
    done = validate(collections, tmp_path, inventory(), "-e", "airflow_verison=3.3.2")
    assert done.returncode != 0
    assert "did you mean airflow_version?" in done.stdout + done.stderr


def test_options_of_every_entry_point_are_known(collections: Path, tmp_path: Path) -> None:
    done = validate(collections, tmp_path, inventory(), "-e", "airflow_backup=/backup/1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_group_files_vaults_and_defaults_are_seen(collections: Path, tmp_path: Path) -> None:
    hosts = inventory()
    del hosts["all"]["vars"]["airflow_jwt_secret"]
    (tmp_path / "dags").mkdir()
    (tmp_path / "password").write_text("open sesame\n")
    write(tmp_path / "group_vars" / "all" / "vault.yml", {"airflow_jwt_secret": SIGNING_KEY})
    write(tmp_path / "group_vars" / "all" / "dags.yml", {"airflow_dags": "{{ inventory_dir }}/dags"})
    write(
        tmp_path / "group_vars" / "workers.yml",
        {
            "airflow_memory": "{{ ansible_facts.memtotal_mb }}",
            "airflow_worker_concurrency": "{{ cluster_database_port }}",
        },
    )
    vault = str(Path(sys.executable).with_name("ansible-vault"))
    command = [vault, "encrypt", "--vault-password-file", "password", "group_vars/all/vault.yml"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = validate(collections, tmp_path, hosts, "--vault-password-file", "password")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_secret_whose_template_fails_stays_secret(collections: Path, tmp_path: Path) -> None:
    hosts = inventory()
    hosts["all"]["vars"].update({"cluster_database_password": "pre-{{ swordfish }}-post"})
    done = validate(collections, tmp_path, hosts)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "cluster_database_password on db1, ctl1, worker1" in text
    assert "swordfish" not in text


def test_a_local_cluster_on_one_host(collections: Path, tmp_path: Path) -> None:
    groups = ("postgresql", "schedulers", "webservers", "dag_processors")
    hosts = {"all": {"vars": SECRETS, "hosts": {"localhost": {}}, "children": {}}}
    hosts["all"]["children"] = {group: {"hosts": {"localhost": {}}} for group in groups}
    done = validate(collections, tmp_path, hosts, "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LocalExecutor" in done.stdout
