# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Brings a secret of a YAML file on the control node to a new value; see plugins/modules/rotate_secret.py."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.vault import VaultLib
from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.action.secrets_file import (
    Loader,
    Stored,
    generate,
    parse,
    read,
    write,
)
from ansible_collections.dataops.airflow.plugins.module_utils.turn import turn

PHASES = ["accept", "use", "refuse"]
DONE = "done"
STATE = "cluster_rotation"
COMMENT = "# A rotation that is not finished. The same command again finishes it: playbooks/rotate.yml -e secret="
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "path": {"type": "str", "required": True},
    "secret": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": ["password", "key", "fernet"], "required": True},
    "phases": {"type": "list", "elements": "str", "choices": PHASES, "required": True},
    "phase": {"type": "str", "choices": [*PHASES, DONE], "required": True},
    "with_new": {"type": "dict", "default": {}},
}


@dataclass(frozen=True)
class Value:
    """A scalar as the file has it: its text, and whether that is a vault's."""

    text: str
    sealed: bool = False

    def __str__(self) -> str:
        """YAML on one line; JSON's strings are YAML's."""
        return ("!vault " if self.sealed else "") + json.dumps(self.text, ensure_ascii=False)


@dataclass
class Document:
    """The text of a file, of which single keys are changed; the rest stays as it is, byte for byte."""

    text: str

    def nodes(self) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """(key, value) of each key."""
        root = yaml.compose(self.text, Loader)
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        return {str(key.value): (key, value) for key, value in pairs}

    def value(self, name: str) -> Value:
        """A scalar.

        :raises AnsibleActionFail: when it is computed, or no scalar.
        """
        node = self.nodes()[name][1]
        sealed = node.tag in ("!vault", "!vault-encrypted")
        if not isinstance(node, yaml.ScalarNode) or not str(node.value).strip():
            raise AnsibleActionFail(f"{name} has no value that is a text")
        if node.tag != "!unsafe" and any(mark in node.value for mark in ("{{", "{%")):
            raise elsewhere(name, "an expression")
        return Value(node.value.strip() if sealed else str(node.value), sealed)

    def put(self, name: str, value: str, comment: str = "") -> None:
        """Set a key to a value, which is YAML on one line."""
        node = self.nodes().get(name)
        if node is None:
            end = "" if not self.text or self.text.endswith("\n") else "\n"
            self.text += f"{end}{comment}{name}: {value}\n"
            return
        start, end_of_value = node[1].start_mark.index, node[1].end_mark.index
        # A block's text ends with its line.
        line_break = "\n" if self.text[start:end_of_value].endswith("\n") else ""
        self.text = self.text[:start] + value + line_break + self.text[end_of_value:]

    def drop(self, name: str, comment: str) -> None:
        """Remove a key that ``put`` added, with its comment."""
        key, value = self.nodes()[name]
        start, end = key.start_mark.index, value.end_mark.index
        line_end = self.text.find("\n", end)
        before = self.text[:start]
        if before.endswith(comment):
            before = before[: -len(comment)]
        self.text = before + (self.text[line_end + 1 :] if line_end >= 0 else "")


def elsewhere(name: str, found: str) -> AnsibleActionFail:
    return AnsibleActionFail(
        f"{name} is not to be changed here; nothing was changed.\n"
        f"  found:   {found}\n"
        "  allowed: a value of its own in this file, which is what every host has\n"
        "  remedy:  change it where it comes from, a store of secrets or another file, in the same phases: see\n"
        "           docs/rotation.md, `Secrets that come from elsewhere`"
    )


class ActionModule(ActionBase):  # type: ignore[misc,unused-ignore]
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENT_SPEC)
        path = Path(os.path.realpath(self._loader.path_dwim(args["path"])))
        try:
            with turn(path.parent):
                result.update(self._converge(path, args, task_vars or {}))
        except AnsibleActionFail as error:
            raise AnsibleActionFail(f"{path}: {error.message}") from None
        except OSError as error:
            raise AnsibleActionFail(f"{path}: {error.strerror}") from None
        return result

    def _converge(self, path: Path, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        secret, order = args["secret"], [*args["phases"], DONE]
        wanted = args["phase"]
        if wanted not in order:
            raise AnsibleActionFail(f"{secret} has no phase {wanted}")
        vault: VaultLib = self._loader._vault
        stored = read(path, vault)
        present = parse(stored.text)
        if secret not in present:
            raise elsewhere(secret, "no such key in this file")
        document = Document(stored.text.decode())
        state = present.get(STATE) or {"secret": secret, "phase": ""}
        if state["secret"] != secret:
            raise AnsibleActionFail(f"{state['secret']} is in the middle of its rotation; finish that first")

        reached = order.index(state["phase"]) if state["phase"] in order else -1
        if reached >= order.index(wanted) or (wanted == DONE and reached < 0):
            return {"changed": False, "phase": state["phase"] or DONE}
        if self._task.check_mode:
            return {"changed": True, "phase": wanted}
        if reached + 1 != order.index(wanted):
            raise AnsibleActionFail(f"{secret} cannot go from '{state['phase']}' to '{wanted}'")
        if reached < 0:
            self._require_sole(path, secret, variables)
        self._advance(document, args, Value(**_value_of(document, state)) if reached >= 0 else None)
        self._write(path, stored, document, present, args)
        return {"changed": True, "phase": wanted}

    def _require_sole(self, path: Path, secret: str, variables: dict[str, Any]) -> None:
        """Require that each value of the file is the one that the hosts have: this run reads the file once more."""
        told = self._loader.load_from_file(str(path), cache="none")
        hostvars = variables["hostvars"]
        for host in variables["ansible_play_hosts_all"]:
            raw = hostvars.raw_get(host)
            other = [str(name) for name in told if name not in raw or raw[name] != told[name]]
            if other:
                raise elsewhere(
                    secret, f"another value of {', '.join(other)} on {host}, from elsewhere in the inventory"
                )

    def _advance(self, document: Document, args: dict[str, Any], other: Value | None) -> None:
        """Write the next phase into the document."""
        secret, phase = args["secret"], args["phase"]
        if phase == DONE:
            document.drop(STATE, f"{COMMENT}{secret}\n")
            return
        used = document.value(secret)
        if other is None:
            other = self._new(args["kind"], used)
        if phase == "use":
            used, other = other, used
            document.put(secret, str(used))
            for name, value in args["with_new"].items():
                document.put(name, json.dumps(value))
        kept = '""' if phase == "refuse" else str(other)
        state = f'{{"secret": "{secret}", "phase": "{phase}", "value": {kept}}}'
        document.put(STATE, state, f"{COMMENT}{secret}\n")

    def _new(self, kind: str, old: Value) -> Value:
        """A new value, sealed as the old one is."""
        text = generate(kind, None)
        if not old.sealed:
            return Value(text)
        vault: VaultLib = self._loader._vault
        try:
            _, vault_id, key = vault.decrypt_and_get_vault_id(old.text.encode())
        except AnsibleError:
            raise AnsibleActionFail("holds a vaulted value that no vault password of this run opens") from None
        return Value(vault.encrypt(text, key, vault_id=vault_id).decode().strip(), sealed=True)

    def _write(
        self, path: Path, stored: Stored, document: Document, before: dict[str, Any], args: dict[str, Any]
    ) -> None:
        text = document.text.encode()
        touched = {STATE, args["secret"], *args["with_new"]}
        after = parse(text)
        if {key: value for key, value in after.items() if key not in touched} != {
            key: value for key, value in before.items() if key not in touched
        } or (STATE in after) is (args["phase"] == DONE):
            raise AnsibleActionFail("cannot be changed without changing more; write it as plain 'name: value' lines")
        vault: VaultLib = self._loader._vault
        write(path, vault.encrypt(text, stored.secret, vault_id=stored.vault_id) if stored.encrypted else text)


def _value_of(document: Document, state: dict[str, Any]) -> dict[str, Any]:
    """The other value of a rotation, with its tag."""
    pairs = document.nodes()[STATE][1].value
    node = next((value for key, value in pairs if key.value == "value"), None)
    if node is None or state["phase"] not in PHASES:
        raise AnsibleActionFail(f"{STATE} is not what rotate.yml wrote")
    return {"text": str(node.value), "sealed": node.tag.startswith("!vault")}
