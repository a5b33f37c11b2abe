# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Rules for DAGs: where they come from, and DAG bundles."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ansible_collections.dataops.airflow.plugins.module_utils import lock_file
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    LOCK_COMMAND,
    Catalogue,
    Inventory,
    check_path,
    subject_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, strings_in

GIT_URL = re.compile(r"(?:(https?|ssh|git|file)://[^\s/]*/?\S+|(?:[\w.-]+@)?[\w.-]+:(?!//)\S+|/\S+)")
"""What `git clone` takes: a URL, host:path as in scp, or a path on the control node."""

URL_PASSWORD = re.compile(r"[a-zA-Z][\w+.-]*://[^/\s@]*:[^/\s@]*@")
"""The start of a URL with a password in it."""

URL_USER = re.compile(r"https?://[^/\s:@]+@")
"""The start of a web URL with a user, in whose place a token may stand."""

BUNDLE_KEYS = ("name", "classpath", "kwargs", "team_name")
"""What an entry of `airflow_dag_bundles` may set, as in Airflow."""

OWN_BUNDLES = ("dags-folder", "canary")
"""The bundles that the collection makes."""


def check_dags(inventory: Inventory, catalogue: Catalogue, purpose: str) -> list[Problem]:
    """Check that the DAGs are in a folder that is there, or in a repository that is named with a fitting key."""
    problems = check_path(
        inventory,
        "airflow_dags",
        "directory",
        'an existing folder, by its full path (for example {{ inventory_dir }}/../../dags); "" for none',
        "correct the path",
    )
    names = ("url", "key", "username", "password")
    url, key, username, password = (
        str(inventory.value(f"airflow_dags_git_{name}", catalogue.defaults) or "") for name in names
    )
    folder = any(inventory.settings("airflow_dags").values())
    subject = subject_of(inventory, "airflow_dags_git_url")
    if not url:
        if purpose == "deliver" and not folder:
            allowed = "a folder in airflow_dags, or a repository in airflow_dags_git_url"
            problems.append(Problem("DAGs", "none: neither is set", allowed, "set one of them"))
        return problems
    if folder:
        problems.append(
            Problem(
                subject,
                "set, and so is airflow_dags",
                "one of them: a folder on the control node, or a repository",
                "remove the other one",
            )
        )
    shown = re.sub(r"(?<=://)[^/@]*@", "***@", url)
    match = GIT_URL.fullmatch(url)
    web = url.startswith("https://")
    ssh = bool(match) and match[1] in (None, "ssh") and not url.startswith("/")  # type: ignore[index]
    allowed = "a URL with https://, ssh:// or file://, or user@host:path; no password in it"
    if not match or URL_PASSWORD.match(url):
        found = f"{json.dumps(shown)}" + (", with a password in it" if match else "")
        remedy = (
            "take it out, and set airflow_dags_git_username and airflow_dags_git_password" if match else "correct it"
        )
        return [*problems, Problem(subject, found, allowed, remedy)]
    if URL_USER.match(url) and not password:
        # With a password beside it, it is a name and nothing else.
        found = f"{json.dumps(shown)}, with a user or a token in it, and airflow_dags_git_password is not set"
        remedy = "take it out; set airflow_dags_git_password to the token, and airflow_dags_git_username if need be"
        return [*problems, Problem(subject, found, allowed.replace("no password", "no password or token"), remedy)]
    if (username or password) and not web:
        problems.append(
            Problem(
                subject_of(inventory, "airflow_dags_git_password"),
                f"a login for {json.dumps(shown)}, which "
                + ("would show it to the network" if url.startswith("http://") else "takes none"),
                "a login for a URL with https://",
                "use the https:// URL of the repository" + ("; for ssh, set airflow_dags_git_key" if ssh else ""),
            )
        )
    if key and not ssh:
        problems.append(
            Problem(
                subject_of(inventory, "airflow_dags_git_key"),
                f"an SSH key for {json.dumps(shown)}, which takes none",
                "a key for a URL with ssh://, or for user@host:path",
                "use the SSH URL of the repository" + ("; for https, set airflow_dags_git_password" if web else ""),
            )
        )
    elif key and not re.search(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s", key):
        problems.append(
            Problem(
                subject_of(inventory, "airflow_dags_git_key"),
                f"a value of {len(key)} characters that is no private key",
                "the text of a private key, with its first and last line; no path",
                "in YAML, write it as a | block; or {{ lookup('ansible.builtin.file', PATH, rstrip=false) }}",
            )
        )
    return problems


def check_bundles(inventory: Inventory) -> list[Problem]:
    """Check the entries of `airflow_dag_bundles`, and that they hold no password."""
    variable = "airflow_dag_bundles"
    bundles = inventory.value(variable, {})
    subject = subject_of(inventory, variable)
    problems = []
    names: list[str] = []
    for number, bundle in enumerate(bundles if isinstance(bundles, list) else [], 1):
        if not isinstance(bundle, Mapping):
            continue  # the rule about types says so
        name = bundle.get("name")
        label = f"{subject}, {name if isinstance(name, str) and name else f'entry {number}'}"
        absent = [key for key in ("name", "classpath") if not isinstance(bundle.get(key), str) or not bundle[key]]
        unknown = [str(key) for key in bundle if key not in BUNDLE_KEYS]
        if absent or unknown:
            wrong = [f"no {key}" for key in absent] + [f"the key {key}" for key in unknown]
            problems.append(Problem(label, ", ".join(wrong), f"the keys {', '.join(BUNDLE_KEYS)}", "correct the entry"))
        if name in names or name in OWN_BUNDLES:
            found = "a name that " + ("the collection has taken" if name in OWN_BUNDLES else "another entry has")
            problems.append(Problem(label, found, f"a name of its own; not {', '.join(OWN_BUNDLES)}", "rename it"))
        names.append(str(name))
        texts = strings_in(list(dict(bundle.get("kwargs") or {}).values()))
        if any(URL_PASSWORD.match(text) or URL_USER.match(text) for text in texts):
            problems.append(
                Problem(
                    label,
                    "a URL with a password or token, which would be in airflow.cfg, for everybody on the host to read",
                    "a URL without one; the login is in an Airflow connection",
                    "set git_conn_id, and make that connection: see docs/dags.md",
                )
            )
    return problems


def check_bundle_packages(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that the lock has the provider of each bundle."""
    bundles = inventory.value("airflow_dag_bundles", {})
    if not isinstance(bundles, list) or not bundles or not inventory.lock_text:
        return []
    try:
        pins = {pin.name for pin in lock_file.parse(inventory.lock_text).pins}
    except lock_file.LockError:
        return []  # the rule about the lock says so
    problems = []
    for bundle in bundles:
        path = str(bundle.get("classpath", "")) if isinstance(bundle, Mapping) else ""
        if not path.startswith("airflow.providers."):
            continue
        parts = path.split(".")[2:]
        packages = ["apache-airflow-providers-" + "-".join(parts[:count]) for count in (1, 2)]
        if not pins.intersection(packages):
            problems.append(
                Problem(
                    f"{subject_of(inventory, 'airflow_dag_bundles')}, {bundle.get('name')}",
                    f"{path}, and the lock {inventory.lock} has no {packages[0]}",
                    "bundles whose provider is in the lock",
                    f"add {parts[0]} to airflow_extras, or the package to airflow_requirements; then\n{LOCK_COMMAND}",
                )
            )
    return problems
