# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Rules for KubernetesExecutor: what a host needs to talk to a cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    LOCK_COMMAND,
    Catalogue,
    Inventory,
    executors,
    kind_of_path,
    subject_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, names_of, texts_in

KUBERNETES_EXTRA = "cncf.kubernetes"

KUBECONFIG_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""Keys of a kubeconfig that name another file, which the hosts would not have."""


def check_kubernetes(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that KubernetesExecutor, where it is among the executors, has what it needs on a host."""
    if "KubernetesExecutor" not in executors(inventory, catalogue):
        return []
    problems = []
    extras = inventory.value("airflow_extras", catalogue.defaults)
    known = {re.sub("[-_.]+", ".", extra) for extra in texts_in(extras)}
    if isinstance(extras, list) and not known & {KUBERNETES_EXTRA, "all"}:
        problems.append(
            Problem(
                subject_of(inventory, "airflow_extras"),
                f"no {KUBERNETES_EXTRA}, which has KubernetesExecutor",
                f"{KUBERNETES_EXTRA} among the extras, and a lock that was made with it",
                f"add {KUBERNETES_EXTRA} to airflow_extras, and run\n{LOCK_COMMAND}",
            )
        )
    repository = "airflow_kubernetes_worker_container_repository"
    for name in (repository, "airflow_kubernetes_worker_container_tag"):
        # The default of the tag is the version, which another rule looks at.
        set_here = inventory.value(name, {repository: ""})
        if set_here == "" and not inventory.fails(name):
            problems.append(
                Problem(
                    subject_of(inventory, name),
                    "no value: pods would have no image",
                    "an image with the same Airflow and your DAGs, its repository and its tag apart",
                    f"set {name} in group_vars/all",
                )
            )
    template = inventory.value("airflow_kubernetes_pod_template_file", {})
    if template and inventory.paths.get(template) != "file":
        problems.append(
            Problem(
                subject_of(inventory, "airflow_kubernetes_pod_template_file"),
                f"{json.dumps(template)}, which is {kind_of_path(inventory, template)} on the control node",
                'an existing file, by its full path; "" for the collection\'s',
                "correct the path, or remove the variable",
            )
        )
    return [*problems, *_check_kubeconfig(inventory)]


def _check_kubeconfig(inventory: Inventory) -> list[Problem]:
    """Check the kubeconfig alone. Nothing of what it holds but names is shown."""
    name = "airflow_kubernetes_kubeconfig"
    path = inventory.value(name, {})
    if inventory.fails(name):
        return []
    config = inventory.kubeconfig if isinstance(inventory.kubeconfig, Mapping) else {}
    parts = {key: _named(config.get(key), key.removesuffix("s")) for key in ("clusters", "users", "contexts")}
    context = parts["contexts"].get(str(config.get("current-context")))
    wanted = {key: context.get(key) for key in ("cluster", "user")} if isinstance(context, Mapping) else {}
    lost = [f"{key} {wanted[key]}" for key in wanted if str(wanted[key]) not in parts[f"{key}s"]]
    elsewhere = [
        f"{key} of {kind} {entry}"
        for kind, entries in parts.items()
        for entry, content in entries.items()
        for key in (content if isinstance(content, Mapping) else ())
        if key in KUBECONFIG_FILES
    ]
    if not path:
        found = "no value: the scheduler would not reach the Kubernetes cluster"
    elif inventory.paths.get(path) != "file":
        found = f"{json.dumps(path)}, which is {kind_of_path(inventory, path)} on the control node"
    elif inventory.kubeconfig is None:
        found = f"{json.dumps(path)}, which cannot be read: no YAML, or encrypted and without its password"
    elif not parts["clusters"]:
        found = f"{json.dumps(path)}, in which there are no clusters"
    elif not wanted:
        found = f"{json.dumps(path)}, whose current-context is not among its contexts"
    elif lost:
        found = f"{json.dumps(path)}, whose current-context names what is not there: {', '.join(lost)}"
    elif elsewhere:
        found = f"{json.dumps(path)}, which names files that the hosts do not have: {names_of(elsewhere)}"
    else:
        return []
    return [
        Problem(
            subject_of(inventory, name),
            found,
            "a kubeconfig on the control node, by its full path, with a current-context and all certificates inside",
            "write one with kubectl config view --raw --flatten --minify, and encrypt it with ansible-vault encrypt",
        )
    ]


def _named(entries: Any, key: str) -> dict[str, Any]:
    """Return name -> content of a list in a kubeconfig."""
    found = entries if isinstance(entries, list) else []
    return {str(entry.get("name")): entry.get(key) for entry in found if isinstance(entry, Mapping)}
