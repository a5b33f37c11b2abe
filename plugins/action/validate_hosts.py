# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Checks what `dataops.airflow.host_probe` found, and fails with one message that lists all problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible_collections.dataops.airflow.plugins.module_utils.capacity import crowded
from ansible_collections.dataops.airflow.plugins.module_utils.host_rules import (
    check_answers,
    check_hosts,
    check_memory,
)
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import AIRFLOW_GROUPS, PURPOSES
from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import Lock, LockError, parse
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, report
from ansible_collections.dataops.airflow.plugins.module_utils.wheelhouse import check_wheelhouse, targets_of

AIRFLOW = Path(__file__).resolve().parents[2] / "roles" / "airflow"
LEFT_BEHIND = (
    "{host} runs on SQLite until now, and PostgreSQL begins empty. Not carried over: the history of runs, and "
    "connections, variables, pools and users that the inventory does not have. Kept: DAGs, settings, what the "
    "inventory has of these, secrets with the administrator's password, the files of task logs, and "
    "/var/lib/airflow/airflow.db itself, which nothing deletes: to go back, undo the edit and run again."
)
"""What somebody should know who leaves SQLite."""
REGISTERED = "__cluster_probe"
"""The variable that the result of `dataops.airflow.host_probe` is registered in."""


class ActionModule(ActionBase):  # type: ignore[misc]
    """See plugins/modules/validate_hosts.py for the documentation."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Validate the probed hosts of this play.

        :returns: ``changed`` (false) and ``msg``.
        :raises AnsibleActionFail: no host was probed, or there are problems; the message lists all of them.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "purpose": {"type": "str", "choices": list(PURPOSES), "default": "install"},
                "minimum_free": {"type": "dict"},
                "database_backend": {"type": "str", "choices": ["postgresql", "sqlite"], "default": "postgresql"},
                "workers": {"type": "list", "elements": "dict", "default": []},
                "local": {"type": "int", "default": 0},
                "hosts": {"type": "list", "elements": "dict", "default": []},
                "api_workers": {"type": "int", "default": 1},
                "connections": {"type": "int", "default": 0},
            }
        )
        variables = task_vars or {}
        probes: dict[str, dict[str, Any]] = {}
        unreachable: dict[str, str] = {}
        broken: dict[str, str] = {}
        for host in variables["ansible_play_hosts_all"]:
            of_host = variables["hostvars"][host]
            found = of_host.get(REGISTERED, {})
            if "probe" in found:
                probes[host] = found["probe"]
            elif found.get("unreachable"):
                unreachable[host] = str(found["msg"]).strip()
            elif found.get("failed"):
                broken[host] = str(found["msg"]).strip()
        if not probes and not unreachable and not broken:
            raise AnsibleActionFail(
                f"No host was probed: run dataops.airflow.host_probe first, registered as {REGISTERED}."
            )
        minimum, purpose = arguments["minimum_free"], arguments["purpose"]
        settings = self._settings(variables, probes)
        problems = check_answers(unreachable, broken, variables["groups"], purpose) + check_hosts(
            probes,
            variables["groups"],
            None if minimum is None else {path: int(size) for path, size in minimum.items()},
            *self._lock(settings),
            purpose,
        )
        warnings: list[str] = []
        if purpose == "install":
            problems += self._check_wheelhouse(variables, probes, settings)
            if settings:
                task_memory = int(settings.template(settings.available_variables["airflow_task_memory"]))
                problems += check_memory(probes, arguments["workers"], task_memory)
                connections = {"needed": arguments["connections"]}
                warnings += crowded({**arguments, "task_memory": task_memory, "connections": connections})
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise AnsibleActionFail(
                report(f"The hosts have {count}. Nothing was changed.", problems), result={"changed": False}
            )
        left = [host for host, probe in probes.items() if probe["sqlite"]]
        if purpose == "install" and left and arguments["database_backend"] != "sqlite":
            warnings.append(LEFT_BEHIND.format(host=left[0]))
        if warnings:
            result["warnings"] = warnings
        result.update(changed=False, msg=f"The hosts are fit for the cluster: {len(probes)} probed.")
        return result

    def _settings(self, variables: dict[str, Any], probes: dict[str, dict[str, Any]]) -> Templar | None:
        """Return what the role airflow sees on its first probed host; None where no such host was probed.

        What is read of it is equal on all hosts. The role's variables are not among those of preflight's play.
        """
        host = next((host for host in probes if host in self._members(variables)), None)
        if host is None:
            return None
        defaults, constants = (
            self._loader.load_from_file(str(AIRFLOW / part / "main.yml"), trusted_as_template=True)
            for part in ("defaults", "vars")
        )
        own = variables["hostvars"].raw_get(host)
        return Templar(loader=self._loader, variables={**defaults, **own, **constants, "role_path": str(AIRFLOW)})

    def _members(self, variables: dict[str, Any]) -> set[str]:
        return {host for group in AIRFLOW_GROUPS for host in variables["groups"].get(group, ())}

    def _lock_path(self, settings: Templar) -> Path:
        return Path(self._loader.path_dwim(settings.template(settings.available_variables["airflow_lock"])))

    def _lock(self, settings: Templar | None) -> tuple[Lock | None, str]:
        """Return the lock and its path; None where it cannot be read: dataops.airflow.validate_inventory says so."""
        if not settings:
            return None, ""
        path = self._lock_path(settings)
        try:
            return parse(path.read_text(encoding="utf-8")), str(path)
        except (OSError, UnicodeError, LockError):
            return None, str(path)

    def _check_wheelhouse(
        self, variables: dict[str, Any], probes: dict[str, dict[str, Any]], settings: Templar | None
    ) -> list[Problem]:
        """Check the wheelhouse of the site, if it has one, against what the hosts are."""
        folder = settings.template(settings.available_variables["airflow_wheelhouse"]) if settings else ""
        if not settings or not folder:
            return []
        members = self._members(variables)
        return check_wheelhouse(
            Path(self._loader.path_dwim(folder)),
            self._lock_path(settings),
            targets_of(probe for host, probe in probes.items() if host in members),
            (AIRFLOW / "files" / "locks" / "uv.txt").read_text(encoding="utf-8"),
        )
