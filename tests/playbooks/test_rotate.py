"""What rotate.yml does in which order: the real phases and vault file, with roles that only say what they were told."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.contract.collection import CHECKOUT

from .test_preflight import run
from .test_preflight import site as site

# What a role's entry point says, and where it breaks off.
SAYS = """---
- name: Say it
  ansible.builtin.debug:
    msg: >-
      SEEN {entry} on {{{{ inventory_hostname }}}}: {{{{ cluster_rotation.phase }}}}
      {{{{ {secret} | hash('sha256') | truncate(8, true, '') }}}}
      {{{{ __cluster_also_accepted.{secret} | default('nothing') | hash('sha256') | truncate(8, true, '') }}}}
- name: Break off
  ansible.builtin.fail:
    msg: broken off
  when: break_at is defined and break_at == '{entry} ' ~ cluster_rotation.phase
"""
ENTRIES = {
    "postgresql": ["logins"],
    "redis": ["users"],
    "airflow": ["rotate", "reencrypt", "outlast", "admin"],
}


@pytest.fixture
def vault(site: Path) -> Path:
    """The vault file of a site whose roles say what they see."""
    roles = site / "ansible_collections/dataops/airflow/roles"
    for tasks in (CHECKOUT / "roles/cluster/tasks").glob("rotation_*.yml"):
        shutil.copy(tasks, roles / "cluster/tasks")
    path = site / "mysite/group_vars/all/vault.yml"
    shutil.copy(CHECKOUT / "tests/golden/secrets.yml", path)
    return path


def rotate(site: Path, secret: str, *options: str, **variables: str) -> tuple[int, list[str], str]:
    """Run it; status, what was seen in order (`entry phase used accepted`, each once), and all that was said."""
    roles = site / "ansible_collections/dataops/airflow/roles"
    for role, entries in ENTRIES.items():
        for entry in entries:
            (roles / role / "tasks" / f"{entry}.yml").write_text(SAYS.format(entry=entry, secret=secret))
    status, said = run(site, "rotate", *options, secret=secret, **variables)
    seen = re.findall(r"SEEN (\w+) on \w+: (\w+) (\w+)\s+(\w+)", said)
    return status, list(dict.fromkeys(" ".join(one) for one in seen)), said


def word(value: str) -> str:
    """What SAYS tells of a value."""
    return hashlib.sha256(value.encode()).hexdigest()[:8]


def values(path: Path) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(path.read_text().replace("!unsafe ", ""))
    return found


NOTHING = word("nothing")


def test_three_phases_in_their_order(site: Path, vault: Path) -> None:
    name = "airflow_fernet_key"
    before = values(vault)
    status, seen, said = rotate(site, name)
    assert status == 0, said
    after = values(vault)
    old, new = word(before[name]), word(after[name])
    assert old != new
    assert seen == [
        f"rotate accept {old} {new}",
        f"rotate use {new} {old}",
        f"reencrypt use {new} {old}",
        f"rotate refuse {new} {NOTHING}",
    ]
    assert {**after, name: ""} == {**before, name: ""}, "nothing else is changed, and nothing is left behind"
    for value in (before[name], after[name]):
        assert value not in said


def test_a_server_accepts_both_before_its_clients_change(site: Path, vault: Path) -> None:
    name = "cluster_database_password"
    old = word(values(vault)[name])
    status, seen, said = rotate(site, name)
    assert status == 0, said
    after = values(vault)
    new = word(after[name])
    assert seen == [f"logins use {new} {old}", f"rotate use {new} {old}", f"logins refuse {new} {NOTHING}"]
    assert after["cluster_database_login"] == "airflow_2"
    assert "logins on db1" in said and "logins on control1" not in said
    for host in ("control1", "worker1", "worker2"):
        assert f"rotate on {host}" in said
    assert rotate(site, name)[0] == 0
    assert values(vault)["cluster_database_login"] == "airflow", "and back"


@pytest.mark.parametrize("entry", ["rotate accept", "outlast use", "rotate refuse"])
def test_a_break_off_is_finished_with_the_same_value(site: Path, vault: Path, entry: str) -> None:
    name = "airflow_jwt_secret"
    old = values(vault)[name]
    status, _seen, said = rotate(site, name, break_at=entry)
    assert status, said
    phase = entry.split()[1]
    state = values(vault)["cluster_rotation"]
    assert isinstance(state, dict) and (state["secret"], state["phase"]) == (name, phase)
    new = state["value"] if phase == "accept" else values(vault)[name]

    status, _seen, said = rotate(site, "airflow_api_secret_key")
    assert status and f"{name}, in the phase {phase}" in said and f"-e secret={name}" in said

    status, seen, said = rotate(site, name)
    assert status == 0, said
    assert values(vault)[name] == new != old
    assert "cluster_rotation" not in vault.read_text()
    steps = [one.rsplit(" ", 2)[0] for one in seen]
    whole = ["rotate accept", "rotate use", "outlast use", "rotate refuse"]
    assert steps == whole[whole.index(f"rotate {phase}") :], "from the phase in which it was, to the end"


def test_one_phase_for_what_has_one_value(site: Path, vault: Path) -> None:
    old = word(values(vault)["airflow_admin_password"])
    status, seen, said = rotate(site, "airflow_admin_password")
    assert status == 0, said
    new = word(values(vault)["airflow_admin_password"])
    assert seen == [f"admin use {new} {old}"]


@pytest.mark.parametrize("secret", ["", "airflow_fernet_keys"])
def test_a_wrong_name_is_answered_with_the_names(site: Path, vault: Path, secret: str) -> None:
    text = vault.read_text()
    status, said = run(site, "rotate", **({"secret": secret} if secret else {}))
    assert status and "allowed:" in said, said
    for name in yaml.safe_load(text.replace("!unsafe ", "")):
        assert name in said
    assert vault.read_text() == text


def test_every_host_is_needed(site: Path, vault: Path) -> None:
    text = vault.read_text()
    for options, variables in ((("--limit", "all:!worker2"), {}), ((), {"away": ["worker2"]})):
        status, said = run(site, "rotate", *options, **{"secret": "airflow_jwt_secret", **variables})
        assert status and "worker2" in said, said
        assert "SEEN" not in said
    assert vault.read_text() == text


def test_a_check_changes_nothing(site: Path, vault: Path) -> None:
    text = vault.read_text()
    status, seen, said = rotate(site, "airflow_fernet_key", "--check")
    assert (status, seen) == (0, []), said
    assert vault.read_text() == text
    assert "changed=0" not in said.partition("control1")[2].partition("\n")[0]


def test_what_another_file_overrides_is_refused(site: Path, vault: Path) -> None:
    text = vault.read_text()
    other = site / "mysite/host_vars"
    other.mkdir()
    (other / "control1.yml").write_text("airflow_environment: {A: b}\n")
    try:
        status, _seen, said = rotate(site, "airflow_fernet_key")
        assert status == 0, said
        vault.write_text(text)
        (other / "worker1.yml").write_text("airflow_flower_password: 'another one, of this host'\n")
        # Preflight speaks first, where values must be equal.
        status, said = run(site, "rotate", **{"secret": "airflow_fernet_key"})
    finally:
        shutil.rmtree(other)
    assert status and "airflow_flower_password" in said
    assert "another one, of this host" not in said
    assert vault.read_text() == text
