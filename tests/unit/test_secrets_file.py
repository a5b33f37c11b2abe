"""secrets_file: bare, unchanged, missing keys, vaults, check mode, diff, interruption and bad input."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import yaml
from ansible import constants
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.dataops.airflow.plugins.action import secrets_file as action

from tests.playbook import run_playbook

WANTED: list[dict[str, Any]] = [
    {"name": "db_password", "kind": "password", "comment": "PostgreSQL\nrole airflow"},
    {"name": "jwt", "kind": "key"},
    {"name": "fernet", "kind": "fernet"},
]
NAMES = ["db_password", "jwt", "fernet"]
Vaults = list[tuple[str, VaultSecret]]


def vaults(**passwords: str) -> Vaults:
    return [(name, VaultSecret(password.encode())) for name, password in passwords.items()]


def call(
    path: Path, *, wanted: Any = None, check: bool = False, diff: bool = True, with_vaults: Vaults | None = None
) -> dict[str, Any]:
    loader = DataLoader()
    loader.set_vault_secrets(with_vaults or [])
    task = mock.MagicMock(async_val=0, check_mode=check, diff=diff)
    task.args = {"path": str(path), "secrets": WANTED if wanted is None else wanted}
    connection = mock.MagicMock(_shell=SimpleNamespace(tmpdir=None))
    plugin = action.ActionModule(task, connection, mock.MagicMock(), loader, None, None)
    return dict(plugin.run(task_vars={}))


def values(text: bytes | str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(text, action.Loader)  # noqa: S506  a SafeLoader
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def check_no_values(answer: dict[str, Any], text: bytes | str) -> None:
    shown = json.dumps(answer)
    assert all(str(value) not in shown for value in values(text).values())


def test_bare_then_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "group_vars/all/vault.yml"
    planned = call(path, check=True)
    assert planned["changed"] and planned["created"] == NAMES and not (tmp_path / "group_vars").exists()
    umask = os.umask(0o077)
    try:
        done = call(path)
    finally:
        os.umask(umask)
    assert done == planned and done["path"] == str(path) and done["encrypted"] is False
    assert (mode(path), mode(path.parent), mode(path.parent.parent)) == (0o600, 0o755, 0o755)
    assert done["diff"]["before"] == ""
    assert done["diff"]["after"] == "mode: 0600\nencrypted: no\ndb_password\njwt\nfernet\n"
    text = path.read_text()
    assert text.startswith("---\n# The secrets of this site.") and "ansible-vault encrypt vault.yml\n" in text
    assert "# PostgreSQL\n# role airflow\ndb_password: " in text
    check_no_values(done, text)
    made = values(text)
    assert list(made) == NAMES
    assert re.fullmatch("[A-Za-z0-9]{32}", made["db_password"])
    assert re.fullmatch("[A-Za-z0-9_-]{64,}", made["jwt"])
    assert len(base64.urlsafe_b64decode(made["fernet"])) == 32

    inode = path.stat().st_ino
    for check in (False, True):
        again = call(path, check=check)
        assert not again["changed"] and again["created"] == []
        assert again["diff"]["before"] == again["diff"]["after"]
    assert path.read_text() == text and path.stat().st_ino == inode
    assert [each.name for each in path.parent.iterdir()] == ["vault.yml"]
    assert "diff" not in call(path, diff=False)


def test_values_differ_and_lengths_are_kept() -> None:
    assert len({action.generate(kind, None) for kind in ("password", "key", "fernet") for _ in range(50)}) == 150
    assert len(action.generate("password", 20)) == 20 and len(action.generate("key", 100)) >= 100


@pytest.mark.parametrize(
    "text",
    [
        "db_password: 'mine'   # keep\n\n\n# jwt: not this\nfernet: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3132\n",
        "fernet: x\ndb_password: !unsafe '{{ raw }}'",
        "db_password: x\nfernet: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3132",
        "\ufeff---\r\ndb_password: |\r\n  two\r\n  lines\r\nfernet: 0\r\n",
        "db_password: ä\nfernet: {a: [1, 2]}\nother:\n  - jwt\n  - nested: {jwt: 1}\n",
    ],
)
def test_existing_text_is_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vault.yml"
    path.write_bytes(text.encode())
    path.chmod(0o600)
    planned = call(path, check=True)
    assert path.read_bytes() == text.encode()
    done = call(path)
    assert done == planned and done["changed"] and done["created"] == ["jwt"]
    assert path.read_bytes().startswith(text.encode())
    after = values(path.read_bytes())
    assert {name: value for name, value in after.items() if name != "jwt"} == values(text.encode()) and after["jwt"]
    check_no_values(done, path.read_text().partition("jwt:")[1] + path.read_text().rpartition("jwt:")[2])
    assert not call(path)["changed"]


@pytest.mark.parametrize("text", ["", "---\n", "# only a comment\n"])
def test_file_without_keys(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vault.yml"
    path.write_text(text)
    assert call(path)["created"] == NAMES
    assert path.read_text().startswith(text) and list(values(path.read_text())) == NAMES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b\n", "not valid YAML, line 2"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: !mine topsecret\n", "not valid YAML, line 1"),
        ("a: *topsecret\n", "not valid YAML, line 1"),
        ("a: topsecret\x01\n", "not valid YAML"),
        ("a: 2026-99-99\n", "not valid YAML"),
        ("- topsecret\n", "not a mapping"),
        ("topsecret\n", "not a mapping"),
        ("{a: topsecret}\n", "cannot be added at its end"),
        ("  a: topsecret\n", "cannot be added at its end"),
        ("a: topsecret\n...\n", "cannot be added at its end"),
        ("a: |\n  topsecret", "cannot be added at its end"),
        ("jwt: ''\n", "jwt is empty; delete its line"),
        ("jwt:\n", "jwt is empty"),
        ("jwt: '  '\n", "jwt is empty"),
    ],
)
def test_refused_files_stay(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "vault.yml"
    path.write_text(text)
    for check in (True, False):
        with pytest.raises(AnsibleError, match=message) as error:
            call(path, check=check)
        assert str(path) in str(error.value) and "topsecret" not in str(error.value)
        assert error.value.__cause__ is None
    assert path.read_text() == text


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "vault.yml"
    path.write_bytes(b"a: \xff\xfe\xfd topsecret\n")
    with pytest.raises(AnsibleError, match="not valid YAML"):
        call(path)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([{"name": "a b", "kind": "key"}], "'a b' is not a name"),
        ([{"name": "a", "kind": "key"}, {"name": "a", "kind": "key"}], "a is listed twice"),
        ([{"name": "a", "kind": "fernet", "length": 32}], "a fernet key has a fixed length"),
        ([{"name": "a", "kind": "password", "length": 15}], "a: length must be at least 16, not 15"),
        ([{"name": "a", "kind": "pin"}], "kind must be one of"),
        ([{"kind": "key"}], "name"),
        ([{"name": "a", "kind": "key", "value": "x"}], "value"),
    ],
)
def test_bad_input(tmp_path: Path, wanted: Any, message: str) -> None:
    with pytest.raises(AnsibleError, match=message):
        call(tmp_path / "sub/vault.yml", wanted=wanted)
    assert list(tmp_path.iterdir()) == []


def test_nothing_wanted(tmp_path: Path) -> None:
    answer = call(tmp_path / "vault.yml", wanted=[])
    assert not answer["changed"] and answer["diff"]["after"] == "" and not (tmp_path / "vault.yml").exists()


def test_lax_mode_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "vault.yml"
    call(path)
    text, inode = path.read_text(), path.stat().st_ino
    path.chmod(0o640)
    planned = call(path, check=True)
    assert planned["changed"] and planned["created"] == [] and mode(path) == 0o640
    assert planned["diff"]["before"].startswith("mode: 0640\n") and planned["diff"]["after"].startswith("mode: 0600\n")
    assert call(path) == planned and mode(path) == 0o600 and path.read_text() == text and path.stat().st_ino == inode
    path.chmod(0o400)
    assert not call(path)["changed"] and mode(path) == 0o400
    path.chmod(0o644)
    assert call(path, wanted=[*WANTED, {"name": "more", "kind": "key"}])["created"] == ["more"] and mode(path) == 0o600


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.yml").write_text("a: 1\n")
    (tmp_path / "vault.yml").symlink_to("real.yml")
    assert call(tmp_path / "vault.yml")["path"] == str(tmp_path / "real.yml")
    assert (tmp_path / "vault.yml").is_symlink() and values((tmp_path / "real.yml").read_text()).keys() >= set(NAMES)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give files away")
def test_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "vault.yml"
    path.write_text("a: 1\n")
    os.chown(path, 54321, 54322)
    call(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (54321, 54322)


def test_parent_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "all").touch()
    with pytest.raises(AnsibleError, match=r"all/vault\.yml: Not a directory"):
        call(tmp_path / "all/vault.yml")


def test_new_vault(tmp_path: Path) -> None:
    path, keys = tmp_path / "vault.yml", vaults(site="pw1", other="pw2")
    planned = call(path, check=True, with_vaults=keys)
    done = call(path, with_vaults=keys)
    assert done == planned and done["encrypted"] is True and "encrypted: yes\n" in done["diff"]["after"]
    assert path.read_bytes().startswith(b"$ANSIBLE_VAULT;1.2;AES256;site\n") and mode(path) == 0o600
    assert list(values(VaultLib(keys[:1]).decrypt(path.read_bytes()))) == NAMES
    content = path.read_bytes()
    assert not call(path, with_vaults=keys)["changed"] and path.read_bytes() == content
    with pytest.raises(AnsibleError, match="this run has no vault password"):
        call(path)
    with pytest.raises(AnsibleError, match="no vault password of this run opens it") as error:
        call(path, with_vaults=vaults(site="wrong"))
    assert error.value.__cause__ is None and path.read_bytes() == content


@pytest.mark.parametrize(("vault_id", "header"), [("prod", b"1.2;AES256;prod"), (None, b"1.1;AES256")])
def test_existing_vault_keeps_its_id(tmp_path: Path, vault_id: str | None, header: bytes) -> None:
    """Also an ID that names another password than the one that opens the file."""
    path, keys = tmp_path / "vault.yml", vaults(first="pw1", second="pw2")
    text = b"# mine\ndb_password: x\n\n"
    path.write_bytes(VaultLib(keys).encrypt(text, keys[1][1], vault_id=vault_id))
    before = path.read_bytes()
    assert call(path, check=True, with_vaults=keys)["created"] == ["jwt", "fernet"] and path.read_bytes() == before
    done = call(path, with_vaults=keys)
    assert done["created"] == ["jwt", "fernet"] and done["encrypted"]
    assert path.read_bytes().splitlines()[0] == b"$ANSIBLE_VAULT;" + header
    plain = VaultLib(keys[1:]).decrypt(path.read_bytes())
    assert plain.startswith(text) and list(values(plain)) == NAMES
    check_no_values({key: value for key, value in done.items() if key != "path"}, plain.replace(b": x", b": unlikely"))


def test_plain_file_is_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, keys = tmp_path / "vault.yml", vaults(first="pw1", second="pw2")
    call(path)
    text = path.read_bytes()
    planned = call(path, check=True, with_vaults=keys)
    assert planned["changed"] and planned["created"] == [] and planned["encrypted"] and path.read_bytes() == text
    assert "encrypted: no\n" in planned["diff"]["before"] and "encrypted: yes\n" in planned["diff"]["after"]
    monkeypatch.setattr(constants, "DEFAULT_VAULT_ENCRYPT_IDENTITY", "second", raising=False)
    assert call(path, with_vaults=keys) == planned
    assert (
        path.read_bytes().splitlines()[0].endswith(b";second") and VaultLib(keys[1:]).decrypt(path.read_bytes()) == text
    )


@pytest.mark.parametrize("with_vaults", [[], vaults(site="pw")])
def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_vaults: Vaults
) -> None:
    path = tmp_path / "vault.yml"
    path.write_text("a: 1\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", mock.Mock(side_effect=OSError(28, "No space left on device")))
        with pytest.raises(AnsibleError, match=r"vault\.yml: No space left on device"):
            call(path, with_vaults=with_vaults)
    assert path.read_text() == "a: 1\n" and [each.name for each in tmp_path.iterdir()] == ["vault.yml"]
    assert call(path, with_vaults=with_vaults)["created"] == NAMES


def test_content_is_private_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    replace: Callable[[Path, Path], Path] = Path.replace

    def watch(source: Path, target: Path) -> Path:
        seen.append(mode(source))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", watch)
    call(tmp_path / "vault.yml")
    assert seen == [0o600]


def test_simultaneous_runs_agree(tmp_path: Path) -> None:
    """Several hosts without run_once: the values that one has seen must be those that stay."""
    path = tmp_path / "vault.yml"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=call, args=(path,)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert len(re.findall("^jwt:", path.read_text(), re.MULTILINE)) == 1 and list(values(path.read_text())) == NAMES


PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: generate
      dataops.airflow.secrets_file: &args
        path: group_vars/all/vault.yml
        secrets:
          - {name: pw, kind: password, length: 40}
          - {name: jwt, kind: key, comment: signs}
          - {name: f, kind: fernet}
      register: first
    - {name: again, dataops.airflow.secrets_file: *args, register: again}
    - {name: use, ansible.builtin.include_vars: {file: group_vars/all/vault.yml}, no_log: true}
    - ansible.builtin.assert:
        that:
          - first.changed and first.created == ['pw', 'jwt', 'f'] and first.encrypted
          - not again.changed and again.created == []
          - pw | length == 40 and jwt | length >= 64
        quiet: true
"""


def test_playbook(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "password").write_text("open sesame")
    run = run_playbook(
        tmp_path, *("-i", "localhost,", "-c", "local", "play.yml", "-D", "-vvvvv", "--vault-id", "site@password")
    )
    assert run.returncode == 0, run.stdout + run.stderr
    content = (tmp_path / "group_vars/all/vault.yml").read_bytes()
    assert content.startswith(b"$ANSIBLE_VAULT;1.2;AES256;site\n")
    plain = VaultLib(vaults(site="open sesame")).decrypt(content)
    assert list(values(plain)) == ["pw", "jwt", "f"]
    assert all(value not in run.stdout + run.stderr for value in values(plain).values())
    assert "+pw\n+jwt\n+f" in run.stdout


DEFAULTS = """
db_password: ""
of_the_role: "{{ db_password }}"
"""
ROLE_TASKS = """
- name: generate
  dataops.airflow.secrets_file:
    path: "{{ inventory_dir }}/group_vars/all/vault.yml"
    secrets:
      - {name: db_password, kind: password}
      - {name: of_the_role, kind: password}
      - {name: fernet, kind: fernet}
      - {name: external, kind: key}
      - {name: unreachable, kind: key}
      - {name: locked, kind: key}
      - {name: number, kind: password}
      - {name: nothing, kind: password}
      - {name: blank, kind: password}
      - {name: nowhere, kind: key}
"""
ELSEWHERE = """
fernet: the site's own
external: "{{ lookup('ansible.builtin.env', 'VALUE_OF_THE_SITE') }}"
unreachable: "{{ lookup('ansible.builtin.file', '/no/such/file') }}"
locked: !vault |
  $ANSIBLE_VAULT;1.1;AES256
  3132
number: 0
nothing:
blank: "{{ ' ' }}"
"""


def test_what_the_site_has_elsewhere_is_not_generated(tmp_path: Path) -> None:
    """The new file would sort behind the other one, and override it."""
    files = {
        "play.yml": "- {hosts: all, gather_facts: false, tasks: [{import_role: {name: site}, run_once: true}]}",
        "roles/site/defaults/main.yml": DEFAULTS,
        "roles/site/tasks/main.yml": ROLE_TASKS,
        "inventory/hosts.yml": "all: {hosts: {one: , two: }}",
        "inventory/group_vars/all/airflow.yml": ELSEWHERE,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    vault = tmp_path / "inventory/group_vars/all/vault.yml"

    def run(*options: str) -> str:
        done = run_playbook(tmp_path, "-i", "inventory", "play.yml", *options, VALUE_OF_THE_SITE="from outside")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "changed=1" in run("--check") and not vault.exists()
    assert "changed=1" in run("-vvv")
    content = vault.read_text()
    assert list(values(content)) == ["db_password", "of_the_role", "nothing", "blank", "nowhere"]
    assert "changed=0" in run() and vault.read_text() == content
    # Gone from the site's own file: generated now, and nothing else changes.
    (tmp_path / "inventory/group_vars/all/airflow.yml").write_text(ELSEWHERE.replace("fernet: the site's own", ""))
    assert "changed=1" in run()
    assert vault.read_text().startswith(content) and list(values(vault.read_text()))[-1] == "fernet"


def test_nothing_is_made_where_the_site_has_all_elsewhere(tmp_path: Path) -> None:
    task = "dataops.airflow.secrets_file: {path: a/b.yml, secrets: [{name: x, kind: key}]}"
    play = f"- {{hosts: all, gather_facts: false, tasks: [{{{task}}}]}}"
    (tmp_path / "play.yml").write_text(play)
    done = run_playbook(tmp_path, "-i", "localhost,", "-c", "local", "play.yml", "-e", "x=mine")
    assert done.returncode == 0 and "changed=0" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "a").exists()
