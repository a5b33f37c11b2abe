# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Collect the whole inventory as plain data, check it, and fail with one message that lists all problems."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible.vars.manager import VariableManager
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    HIDDEN,
    PLAN,
    PURPOSES,
    Catalogue,
    Inventory,
    executor,
    local_paths,
    may_wait_for_facts,
    tls_paths,
)
from ansible_collections.dataops.airflow.plugins.module_utils.inventory_rules import ROLES, check_inventory
from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import WHEELS
from ansible_collections.dataops.airflow.plugins.module_utils.problems import report

COLLECTION = Path(__file__).resolve().parents[2]
BUDGET = "__cluster_connection_budget"
"""The variable of the role cluster with the connections that PostgreSQL must admit."""

Values = dict[str, Any]


class ActionModule(ActionBase):  # type: ignore[misc]
    """See plugins/modules/validate_inventory.py for the documentation."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Values | None = None) -> Values:
        """Validate the inventory.

        :returns: ``changed`` (false) and ``msg``, one line about the cluster.
        :raises AnsibleActionFail: there are problems; the message lists all of them.
        """
        result: Values = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "purpose": {"type": "str", "choices": [*PURPOSES, PLAN], "default": "install"},
                "exclude_prefixes": {"type": "list", "elements": "str", "default": []},
            }
        )
        inventory, catalogue = self._collect(task_vars or {}, arguments["exclude_prefixes"])
        problems = check_inventory(inventory, catalogue, arguments["purpose"])
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise AnsibleActionFail(
                report(f"The inventory has {count}. Nothing was changed.", problems), result={"changed": False}
            )
        result.update(
            changed=False,
            msg=f"The inventory is valid: {len(inventory.hosts)} host(s), {executor(inventory, catalogue)}.",
        )
        return result

    def _collect(self, task_vars: Values, ignored: list[str]) -> tuple[Inventory, Catalogue]:
        """Return the inventory and the collection's own knowledge as plain data.

        The names come from a variable manager of our own: it knows inventories and --extra-vars, but neither what this
        run registered nor what roles define. The templates see all that the roles' templates will see.
        """
        hostvars = task_vars["hostvars"]
        manager = VariableManager(loader=self._loader, inventory=hostvars._inventory)
        roles = {role: COLLECTION / "roles" / role for role in ROLES}
        defaults = self._variables(path / "defaults" / "main.yml" for path in roles.values())
        constants_of = {role: self._variables([path / "vars" / "main.yml"]) for role, path in roles.items()}
        constants = {name: value for values in constants_of.values() for name, value in values.items()}
        prefixes = tuple(f"{under}{role}_" for role in ROLES for under in ("", "__"))

        variables: dict[str, Values] = {}
        failures: dict[str, dict[str, str]] = {}
        origins: dict[str, dict[str, str]] = {}
        templated_defaults: Values = {}
        connections: int | None = None
        role_path = {"role_path": str(roles["airflow"])}  # the one role whose defaults speak of its files
        groups = {name: list(members) for name, members in task_vars["groups"].items()}
        for host in Inventory(groups, {}).hosts:
            set_here = manager.get_vars(host=hostvars._inventory.get_host(host), include_hostvars=False)
            context = {**defaults, **hostvars.raw_get(host), **constants, "hostvars": hostvars}
            templar = Templar(loader=self._loader, variables=context)
            variables[host], failures[host], origins[host] = {}, {}, {}
            for key, raw in set_here.items():
                name = str(key)
                if not name.startswith(prefixes) and name != "ansible_host":
                    continue
                origins[host][name] = _origin(raw) or _origin(key)
                try:
                    variables[host][name] = _plain(templar.template(raw))
                except Exception as error:  # whatever a user's template raises is a problem to report
                    failures[host][name] = _reason(name, raw, error)
            if not templated_defaults:
                templated_defaults = _template_what_works(
                    Templar(loader=self._loader, variables={**context, **role_path}), defaults
                )
                budget = {BUDGET: constants[BUDGET]} if BUDGET in constants else {}
                found = _template_what_works(Templar(loader=self._loader, variables=context), budget).get(BUDGET)
                connections = int(str(found)) if str(found).isdecimal() else None

        paths = {path: _kind(self._loader.path_dwim(path)) for path in local_paths(variables)}
        locks = [
            path.stem.removeprefix("airflow-") for path in sorted(roles["airflow"].glob("files/locks/airflow-*.txt"))
        ]
        inventory = Inventory(groups, variables, failures, origins, paths, ignored)
        lock = inventory.value("airflow_lock", {}) or templated_defaults.get("airflow_lock")
        lock = self._loader.path_dwim(lock) if isinstance(lock, str) and lock else ""
        kubeconfig = inventory.value("airflow_kubernetes_kubeconfig", {})
        return (
            replace(
                inventory,
                lock=lock,
                lock_text=_text(lock),
                built_wheels=_wheels(lock),
                kubeconfig=self._yaml(kubeconfig) if paths.get(kubeconfig) == "file" else None,
                connections=connections,
                certificates=self._certificates(inventory.settings("haproxy_certificate").values()),
                pem=self._pem(variables),
            ),
            Catalogue(
                options={role: options for role, path in roles.items() if (options := _options(path))},
                constants={name: role for role, values in constants_of.items() for name in values},
                defaults=templated_defaults,
                locks=locks,
            ),
        )

    def _yaml(self, path: str) -> Any:
        """Return what a YAML file holds, decrypted if need be; None where that does not work."""
        try:
            return yaml.safe_load(self._loader.get_text_file_contents(self._loader.path_dwim(path)))
        except Exception:  # whatever is wrong with it may show a part of a secret
            return None

    def _certificates(self, paths: Iterable[Any]) -> dict[str, str]:
        """Return path -> what is wrong with the certificate and the key in it; vaulted files are decrypted for that."""
        troubles = {}
        for path in {path for path in paths if isinstance(path, str) and path}:
            place = self._loader.path_dwim(path)
            if _kind(place) == "file":
                try:
                    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                        self._loader.get_real_file(place), password=lambda: ""
                    )
                except (AnsibleError, OSError) as error:
                    troubles[path] = (
                        re.sub(r"\s+", " ", str(getattr(error, "reason", "") or error)) or type(error).__name__
                    )
        return troubles

    def _pem(self, variables: Mapping[str, Values]) -> dict[str, bytes]:
        """Return path -> content of the site's own certificates and keys, decrypted where they are in a vault."""
        found = {}
        for path in tls_paths(variables):
            try:
                found[path] = self._loader.get_text_file_contents(self._loader.path_dwim(path)).encode()
            except (AnsibleError, OSError, UnicodeError):
                continue  # a rule says so
        return found

    def _variables(self, paths: Any) -> Values:
        """Return the variables of some files of the collection, as templates. A missing file has none."""
        values: Values = {}
        for path in paths:
            if path.is_file():
                values.update(self._loader.load_from_file(str(path), trusted_as_template=True) or {})
        return values


def _text(path: str) -> str | None:
    """Return the text of a file; None where there is none, or it is not text."""
    try:
        return Path(path).read_text(encoding="utf-8") if path else None
    except (OSError, UnicodeError):
        return None


def _wheels(lock: str) -> dict[str, str]:
    """Return name -> SHA-256 of the wheels that lie in the folder for built ones beside a lock."""
    files = sorted((Path(lock).parent / WHEELS).glob("*.whl")) if lock else []
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def _options(role: Path) -> Values:
    """Return the union of the options of all entry points of a role; nothing if it has no argument specs."""
    path = role / "meta" / "argument_specs.yml"
    if not path.is_file():
        return {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C takes a tenth of the time
    entry_points = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["argument_specs"]  # noqa: S506
    return {name: spec for entry in entry_points.values() for name, spec in (entry.get("options") or {}).items()}


def _template_what_works(templar: Templar, defaults: Mapping[str, Any]) -> Values:
    """Return the defaults whose templates can be computed; the others depend on what the inventory lacks."""
    values = {}
    for name, raw in defaults.items():
        try:
            values[str(name)] = _plain(templar.template(raw))
        except Exception:  # noqa: S112  not a problem of the inventory by itself
            continue
    return values


def _plain(value: Any) -> Any:
    """Return a copy made of built-in types only, without the tags that Ansible's own types carry."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return value


def _reason(name: str, raw: Any, error: Exception) -> str:
    """Return why a template failed, on one line; for a secret without any detail; empty if it may wait for facts."""
    if may_wait_for_facts(name, raw):
        return ""
    if name in HIDDEN:
        return (
            f"its template or its vault fails ({type(error).__name__}); the detail is withheld, as it may hold a secret"
        )
    return re.sub(r"\s+", " ", f"its template fails: {error}")


def _origin(value: Any) -> str:
    """Return `file:line` of a value from an inventory, relative to the working directory; "" where unknown."""
    try:
        from ansible._internal._datatag._tags import Origin
    except ImportError:  # private to ansible-core: without it, messages only lack the place
        return ""
    origin = Origin.get_tag(value)
    if not origin or not origin.path:
        return ""
    relative = os.path.relpath(origin.path)
    path = origin.path if relative.startswith("..") else relative
    return f"{path}:{origin.line_num}" if origin.line_num else path


def _kind(path: str) -> str:
    place = Path(path).expanduser()
    return "directory" if place.is_dir() else "file" if place.is_file() else "missing"
