# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Generates missing secrets into a YAML file on the control node; see plugins/modules/secrets_file.py."""

from __future__ import annotations

import base64
import os
import re
import secrets
import stat
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.vault import VaultLib, is_encrypted, match_encrypt_secret, parse_vaulttext_envelope
from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils.turn import turn

MODE = 0o600
SECRET_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": ["password", "key", "fernet"], "required": True},
    "length": {"type": "int"},
    "comment": {"type": "str"},
}
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "path": {"type": "str", "required": True},
    "secrets": {"type": "list", "elements": "dict", "required": True, "options": SECRET_SPEC},
}
HEADER = """\
---
# The secrets of this site. dataops.airflow added the keys that were missing, and never changes one that is here.
# Keep this file encrypted: ansible-vault encrypt {name}
"""


class Loader(yaml.SafeLoader):
    """Knows Ansible's tags, of which only the text matters here."""


for _tag in ("!vault", "!vault-encrypted", "!unsafe"):
    # Stripped, because a value at the end of a file may lack its line break until something is added.
    Loader.add_constructor(_tag, lambda loader, node: str(node.value).strip())


def parse(text: bytes) -> dict[Any, Any]:
    """The mapping in a YAML text. Errors never quote the text."""
    try:
        found = yaml.load(text, Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise AnsibleActionFail(f"is not valid YAML{where}") from None
    except (yaml.YAMLError, ValueError, TypeError):
        raise AnsibleActionFail("is not valid YAML") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise AnsibleActionFail("is not a mapping of names to values")
    return found


def generate(kind: str, length: int | None) -> str:
    if kind == "fernet":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    if kind == "key":
        return secrets.token_urlsafe(length or 64)
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length or 32))


def check_wanted(wanted: list[dict[str, Any]]) -> None:
    names = [secret["name"] for secret in wanted]
    for secret in wanted:
        name, length = secret["name"], secret["length"]
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise AnsibleActionFail(f"'{name}' is not a name for a variable")
        if names.count(name) > 1:
            raise AnsibleActionFail(f"{name} is listed twice")
        if length is not None and secret["kind"] == "fernet":
            raise AnsibleActionFail(f"{name}: a fernet key has a fixed length; leave out 'length'")
        if length is not None and length < 16:
            raise AnsibleActionFail(f"{name}: length must be at least 16, not {length}")


def append(text: bytes, missing: list[dict[str, Any]]) -> bytes:
    """The text, unchanged, with generated values for the missing keys after it."""
    lines = []
    for secret in missing:
        lines += [f"# {line}" for line in (secret["comment"] or "").splitlines()]
        lines.append(f'{secret["name"]}: "{generate(secret["kind"], secret["length"])}"')
    addition = "".join(f"{line}\n" for line in lines).encode()
    if text and not text.endswith(b"\n"):
        addition = b"\n" + addition
    expected = {**parse(text), **parse(addition)}
    try:
        same = parse(text + addition) == expected
    except AnsibleActionFail:
        same = False
    if not same:  # a flow mapping, an indented one, an end-of-document mark, a block that keeps its last empty lines
        raise AnsibleActionFail(
            "keys cannot be added at its end without changing what is there; write it as plain 'name: value' lines"
        )
    return text + addition


@dataclass(frozen=True)
class Stored:
    """The file as it is."""

    text: bytes  # decrypted
    mode: int | None  # None when there is no file
    secret: Any = None  # the vault password that opened it
    vault_id: str | None = None

    @property
    def encrypted(self) -> bool:
        return self.secret is not None


def read(path: Path, vault: VaultLib) -> Stored:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Stored(b"", None)
    mode = stat.S_IMODE(path.stat().st_mode)
    if not is_encrypted(text):
        return Stored(text, mode)
    if not vault.secrets:
        raise AnsibleActionFail("is encrypted, and this run has no vault password (--ask-vault-pass, --vault-id)")
    try:
        # Not the ID that this returns, which is the opening password's: the file keeps the one that it names.
        plain, _, secret = vault.decrypt_and_get_vault_id(text)
        vault_id = parse_vaulttext_envelope(text)[3]
    except AnsibleError:
        raise AnsibleActionFail("is encrypted, and no vault password of this run opens it") from None
    return Stored(bytes(plain), mode, secret, str(vault_id))


def write(path: Path, content: bytes) -> None:
    """Replace the file; owned by whoever owned it."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            if path.exists() and (path.stat().st_uid, path.stat().st_gid) != (os.getuid(), os.getgid()):
                os.fchown(fd, path.stat().st_uid, path.stat().st_gid)
            os.fchmod(fd, MODE)
            os.fsync(fd)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


class ActionModule(ActionBase):  # type: ignore[misc,unused-ignore]
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENT_SPEC)
        check_wanted(args["secrets"])
        wanted = [secret["name"] for secret in args["secrets"]]
        elsewhere = {name for name in wanted if self._is_set(name, task_vars or {})}
        path = Path(os.path.realpath(self._loader.path_dwim(args["path"])))
        try:
            if not self._task.check_mode and len(elsewhere) < len(wanted):
                self._make_folders(path.parent)
            with turn(path.parent):
                result.update(self._converge(path, args["secrets"], elsewhere))
        except AnsibleActionFail as error:
            raise AnsibleActionFail(f"{path}: {error.message}") from None
        except OSError as error:
            raise AnsibleActionFail(f"{path}: {error.strerror}") from None
        return result

    def _is_set(self, name: str, variables: dict[str, Any]) -> bool:
        """Whether the site has a value: this file's own, or one from elsewhere, which this file would override."""
        if name not in variables:
            return False
        try:
            value = self._templar.template(variables[name])
            return value is not None and bool(str(value).strip())
        except Exception:  # a lookup that fails now, a vault that this run cannot open: the site has defined it
            return True

    def _make_folders(self, folder: Path) -> None:
        for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            missing.mkdir(exist_ok=True)
            missing.chmod(0o755)

    def _converge(self, path: Path, wanted: list[dict[str, Any]], elsewhere: set[str]) -> dict[str, Any]:
        vault: VaultLib = self._loader._vault
        stored = read(path, vault)
        present = parse(stored.text)
        missing = [secret for secret in wanted if secret["name"] not in present and secret["name"] not in elsewhere]
        for name in (secret["name"] for secret in wanted if secret["name"] in present):
            if present[name] is None or (isinstance(present[name], str) and not present[name].strip()):
                raise AnsibleActionFail(f"{name} is empty; delete its line to have it generated")

        old = stored.text if stored.mode is not None else HEADER.format(name=path.name).encode()
        new = append(old, missing) if missing else stored.text
        exists = stored.mode is not None
        encrypt = bool(vault.secrets) and (exists or bool(missing))
        rewrite = bool(missing) or (encrypt and not stored.encrypted)
        lax = stored.mode is not None and bool(stored.mode & ~MODE)
        if not self._task.check_mode:
            if rewrite:
                write(path, self._seal(vault, stored, new) if encrypt else new)
            elif lax:
                path.chmod(MODE)
        created = [secret["name"] for secret in missing]
        answer = {"changed": rewrite or lax, "created": created, "path": str(path), "encrypted": encrypt}
        if self._task.diff:
            names = [str(name) for name in present]
            before = _summary(names, stored.encrypted, stored.mode) if exists else ""
            mode = MODE if rewrite or lax else stored.mode
            after = _summary(names + created, encrypt, mode) if exists or rewrite else ""
            answer["diff"] = {"before": before, "after": after, "before_header": str(path), "after_header": str(path)}
        return answer

    def _seal(self, vault: VaultLib, stored: Stored, text: bytes) -> bytes:
        secret, vault_id = stored.secret, stored.vault_id
        if not stored.encrypted:
            vault_id, secret = match_encrypt_secret(vault.secrets, constants.DEFAULT_VAULT_ENCRYPT_IDENTITY)
        return bytes(vault.encrypt(text, secret, vault_id=vault_id))


def _summary(names: list[str], encrypted: bool, mode: int | None) -> str:
    facts = [f"mode: {mode or 0:04o}", f"encrypted: {'yes' if encrypted else 'no'}", *names]
    return "".join(f"{fact}\n" for fact in facts)
