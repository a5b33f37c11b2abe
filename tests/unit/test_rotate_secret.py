"""rotate_secret: every phase, break-offs, vaults, refusals; what it does not touch stays as it is."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret, VaultSecretsContext, is_encrypted
from ansible_collections.dataops.airflow.plugins.action import rotate_secret as action

from tests.unit.test_secrets_file import values, vaults

FILE = """\
---
# Secrets of the site.
other: 'kept as it is'   # and its comment
redis: "the old one"  # ours
after: !unsafe '{{ text }}'
"""
PHASES = ["use", "refuse"]


def call(
    path: Path,
    phase: str,
    *,
    name: str = "redis",
    phases: list[str] | None = None,
    check: bool = False,
    kind: str = "password",
    with_new: dict[str, str] | None = None,
    with_vaults: Any = None,
    elsewhere: dict[str, Any] | None = None,
) -> dict[str, Any]:
    loader = DataLoader()
    loader.set_vault_secrets(with_vaults or [])
    task = mock.MagicMock(async_val=0, check_mode=check, diff=True)
    task.args = {
        "path": str(path),
        "secret": name,
        "kind": kind,
        "phases": phases or PHASES,
        "phase": phase,
        "with_new": with_new or {},
    }
    plugin = action.ActionModule(
        task, mock.MagicMock(_shell=SimpleNamespace(tmpdir=None)), mock.MagicMock(), loader, None, None
    )
    host = dict(loader.load_from_file(str(path), cache="none") or {}) if path.exists() else {}
    hostvars = SimpleNamespace(raw_get=lambda of: {**host, **(elsewhere or {})} if of == "b" else host)
    return dict(plugin.run(task_vars={"hostvars": hostvars, "ansible_play_hosts_all": ["a", "b"]}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "vault.yml"
    file.write_text(FILE)
    return file


def test_two_phases(path: Path) -> None:
    assert call(path, "use") == {"changed": True, "phase": "use"}
    found = values(path.read_text())
    new = found["redis"]
    assert new != "the old one" and len(new) == 32
    assert found["cluster_rotation"] == {"secret": "redis", "phase": "use", "value": "the old one"}
    assert path.read_text().startswith(FILE.replace('"the old one"', f'"{new}"'))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    call(path, "refuse")
    found = values(path.read_text())
    assert found["redis"] == new
    assert found["cluster_rotation"] == {"secret": "redis", "phase": "refuse", "value": ""}

    call(path, "done")
    assert path.read_text() == FILE.replace('"the old one"', f'"{new}"')


def test_three_phases(path: Path) -> None:
    three = ["accept", "use", "refuse"]
    call(path, "accept", phases=three, kind="key")
    before = values(path.read_text())
    assert before["redis"] == "the old one"
    new = before["cluster_rotation"]["value"]
    assert len(new) >= 64
    call(path, "use", phases=three, kind="key")
    found = values(path.read_text())
    assert (found["redis"], found["cluster_rotation"]["value"]) == (new, "the old one")


@pytest.mark.parametrize("reached", ["use", "refuse"])
def test_a_run_that_was_broken_off_goes_on(path: Path, reached: str) -> None:
    for phase in PHASES[: PHASES.index(reached) + 1]:
        call(path, phase)
    text = path.read_text()
    for phase in PHASES[: PHASES.index(reached) + 1]:
        assert call(path, phase) == {"changed": False, "phase": reached}
    assert path.read_text() == text, "no second new value, and no step back"


def test_once_done_there_is_nothing_to_forget(path: Path) -> None:
    assert call(path, "done")["changed"] is False
    assert path.read_text() == FILE


def test_what_goes_with_the_new_value(path: Path) -> None:
    call(path, "use", with_new={"login": "airflow_2"})
    assert values(path.read_text())["login"] == "airflow_2"
    call(path, "refuse", with_new={"login": "airflow"})
    call(path, "done")
    assert values(path.read_text())["login"] == "airflow_2", "only with the new value"
    call(path, "use", with_new={"login": "airflow"})
    assert values(path.read_text())["login"] == "airflow"
    assert path.read_text().count("login:") == 1


@pytest.mark.parametrize(("phase", "message"), [("refuse", "cannot go"), ("accept", "no phase")])
def test_no_phase_is_left_out(path: Path, phase: str, message: str) -> None:
    with pytest.raises(AnsibleActionFail, match=message):
        call(path, phase)
    assert path.read_text() == FILE


def test_check_mode_writes_nothing(path: Path) -> None:
    assert call(path, "use", check=True) == {"changed": True, "phase": "use"}
    assert call(path, "refuse", check=True)["changed"] is True
    assert path.read_text() == FILE


def test_an_encrypted_file_stays_encrypted(path: Path) -> None:
    keys = vaults(site="one password")
    vault = VaultLib(keys)
    path.write_bytes(vault.encrypt(FILE, keys[0][1], vault_id="site"))
    for phase in (*PHASES, "done"):
        call(path, phase, with_vaults=keys)
        text = path.read_bytes()
        assert is_encrypted(text) and text.splitlines()[0].endswith(b";site")
    found = values(vault.decrypt(path.read_bytes()))
    assert found["redis"] != "the old one" and "cluster_rotation" not in found
    with pytest.raises(AnsibleActionFail, match="no vault password"):
        call_without_reading(path)


def call_without_reading(path: Path) -> None:
    """With no password: the inventory could not be read either, so that this test does not."""
    with mock.patch.object(DataLoader, "load_from_file", return_value={}):
        call(path, "use")


@pytest.mark.parametrize("phases", [PHASES, ["accept", "use", "refuse"]])
def test_a_vaulted_value_stays_one(path: Path, phases: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    keys: Any = [("default", VaultSecret(b"one password"))]
    # What ansible-playbook does when it starts.
    monkeypatch.setattr(VaultSecretsContext, "_current", VaultSecretsContext(secrets=keys))
    vault = VaultLib(keys)
    old = vault.encrypt("the old one", keys[0][1]).decode().strip()
    block = "redis: !vault |\n" + "".join(f"  {line}\n" for line in old.splitlines())
    path.write_text(f"---\n{block}after: 1\n")
    call(path, phases[0], phases=phases, with_vaults=keys)
    if phases[0] == "accept":
        assert vault.decrypt(values(path.read_text())["cluster_rotation"]["value"].encode()) != b"the old one"
        call(path, "use", phases=phases, with_vaults=keys)
    text = path.read_text()
    assert "the old one" not in text
    found = values(text)
    assert vault.decrypt(found["cluster_rotation"]["value"].encode()) == b"the old one"
    new = vault.decrypt(found["redis"].encode())
    assert len(new) == 32 and new not in path.read_bytes()
    # As Ansible reads it.
    loader = DataLoader()
    loader.set_vault_secrets(keys)
    read = loader.load_from_file(str(path), cache="none")
    assert str(read["redis"]).encode() == new and str(read["cluster_rotation"]["value"]) == "the old one"
    for phase in ("refuse", "done"):
        call(path, phase, phases=phases, with_vaults=keys)
    assert list(values(path.read_text())) == ["redis", "after"]
    assert vault.decrypt(values(path.read_text())["redis"].encode()) == new


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("redis: \"{{ lookup('env', 'REDIS') }}\"", "an expression"),
        ("unlike: it", "no such key"),
    ],
)
def test_what_comes_from_elsewhere_is_refused(path: Path, line: str, found: str) -> None:
    path.write_text(f"---\n{line}\n")
    with pytest.raises(AnsibleActionFail, match=found) as refusal:
        call(path, "use")
    assert "remedy:" in str(refusal.value)
    assert path.read_text() == f"---\n{line}\n"


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnsibleActionFail, match="no such key"):
        call(tmp_path / "vault.yml", "use")


def test_what_is_overridden_is_refused_by_name_alone(path: Path) -> None:
    with pytest.raises(AnsibleActionFail, match="another value of other on b") as refusal:
        call(path, "use", elsewhere={"other": "a secret of b"})
    assert "a secret of b" not in str(refusal.value)
    assert path.read_text() == FILE


def test_one_at_a_time(path: Path) -> None:
    call(path, "use")
    with pytest.raises(AnsibleActionFail, match="redis is in the middle"):
        call(path, "use", name="other")


@pytest.mark.parametrize("text", ["{redis: old, other: 1}\n", "---\nredis: old\n...\n"])
def test_a_form_that_cannot_be_kept_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(AnsibleActionFail):
        call(path, "use")
    assert path.read_text() == text
