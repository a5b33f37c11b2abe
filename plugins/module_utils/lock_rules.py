# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Rules for the lock and for files on the control node that an installation reads."""

from __future__ import annotations

import json

from ansible_collections.dataops.airflow.plugins.module_utils import lock_file
from ansible_collections.dataops.airflow.plugins.module_utils.inventory import (
    LOCK_COMMAND,
    Catalogue,
    Inventory,
    check_path,
    kind_of_path,
    subject_of,
)
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, strings_in, texts_in

WHEELHOUSE_COMMAND = "ansible-playbook -i INVENTORY playbooks/wheelhouse.yml  (or dataops.airflow.wheelhouse)"


def check_lock(inventory: Inventory, catalogue: Catalogue) -> list[Problem]:
    """Check that the lock is there and intact, and that it satisfies the version, the extras and the requirements."""
    names = ("airflow_lock", "airflow_version", "airflow_extras", "airflow_requirements")
    if not inventory.hosts or not inventory.lock or any(map(inventory.fails, names)):
        return []
    version, extras, requirements = (inventory.value(name, catalogue.defaults) for name in names[1:])
    # The rule about types tells of these.
    version = str(version) if isinstance(version, (str, int, float)) and not isinstance(version, bool) else ""
    extras, requirements = texts_in(extras), texts_in(requirements)
    problems = [
        Problem(
            subject_of(inventory, "airflow_requirements"),
            f"{text}: {found}",
            'requirements by name and version, such as "boto3" or "pandas>=2,<3"',
            remedy,
        )
        for text, found, remedy in lock_file.malformed(requirements)
    ]
    if inventory.lock_text is None:
        return [*problems, _missing_lock(inventory, catalogue, version)]
    subject = f"lock {inventory.lock}"
    try:
        lock = lock_file.parse(inventory.lock_text)
    except lock_file.LockError as error:
        allowed = "pins (name==version), each with at least one hash, as playbooks/lock.yml writes them"
        return [*problems, Problem(subject, str(error), allowed, _lock_remedy(inventory))]
    if lock_file.edited_by_hand(inventory.lock_text):
        found = "it was edited by hand: its header does not have the digest of its text"
        allowed = "a lock as playbooks/lock.yml wrote it; versions are chosen in airflow_requirements"
        problems.append(Problem(subject, found, allowed, _lock_remedy(inventory)))
    wrong = lock_file.unsatisfied(lock, version, extras, requirements) if version else []
    if wrong:
        problems.append(
            Problem(
                subject,
                "\n".join(f"{wanted} is wanted, and it has {found}" for wanted, found in wrong),
                "a lock that satisfies airflow_version, airflow_extras and airflow_requirements"
                + ("" if version in catalogue.locks else _shipped(catalogue)),
                _lock_remedy(inventory),
            )
        )
    # A wheelhouse has them too; what it lacks is another rule's.
    lost = lock_file.lost_wheels(lock, inventory.built_wheels)
    if lost and not inventory.value("airflow_wheelhouse", catalogue.defaults):
        problems.append(
            Problem(
                f"{subject}, folder {lock_file.WHEELS} beside it",
                "\n".join(lost),
                "each wheel that the lock names, as it was built: no package index has it",
                f"put the folder back as it was when the lock was made (it is committed with it); or\n{LOCK_COMMAND}\n"
                "builds what is missing again",
            )
        )
    return problems


def check_paths(inventory: Inventory) -> list[Problem]:
    """Check that the files and folders on the control node that the inventory names are there."""
    problems = [
        *check_path(
            inventory,
            "airflow_wheelhouse",
            "directory",
            'an existing folder with the wheels of the lock; "" to install from the index',
            f"{WHEELHOUSE_COMMAND}\nmakes and fills it, where an index can be reached",
        ),
        *check_path(
            inventory,
            "airflow_webserver_config",
            "file",
            'an existing Python file, by its full path; "" for the users of Airflow\'s own database',
            "correct the path; docs/examples has files to start from",
        ),
    ]
    for path in dict.fromkeys(strings_in(list(inventory.settings("haproxy_certificate").values()))):
        trouble = inventory.certificates.get(path, "")
        if trouble or inventory.paths.get(path) != "file":
            problems.append(
                Problem(
                    subject_of(inventory, "haproxy_certificate"),
                    f"{json.dumps(path)}: {trouble or kind_of_path(inventory, path) + ' on the control node'}",
                    "a PEM file, by its full path, with a certificate, the certificates between it and its authority, "
                    "and the key of the first, without a passphrase",
                    "cat CERTIFICATE.pem CHAIN.pem KEY.pem > FILE    makes one; ansible-vault encrypt FILE hides it",
                )
            )
    certificates: dict[str, None] = {}
    for value in inventory.settings("cluster_ca_certificates").values():
        certificates.update(dict.fromkeys(strings_in(value)))
    for path in certificates:
        if inventory.paths.get(path) != "file":
            problems.append(
                Problem(
                    subject_of(inventory, "cluster_ca_certificates"),
                    f"{json.dumps(path)}, which is {kind_of_path(inventory, path)} on the control node",
                    "existing PEM files, by their full path",
                    "correct the path, or remove it from the list",
                )
            )
    return problems


def _missing_lock(inventory: Inventory, catalogue: Catalogue, version: str) -> Problem:
    """Tell of a lock that is not there: the one that was named, or one for the version."""
    named = inventory.value("airflow_lock", {})
    if named:
        return Problem(
            subject_of(inventory, "airflow_lock"),
            f"{json.dumps(named)}, which is {kind_of_path(inventory, named)} on the control node",
            "an existing file, by its full path; without the variable, airflow-lock.txt beside the inventory, or else "
            "the lock that ships with the collection",
            _lock_remedy(inventory),
        )
    return Problem(
        subject_of(inventory, "airflow_version"),
        f"{json.dumps(version)}, for which no lock ships, and none lies beside the inventory",
        f"a version with a lock{_shipped(catalogue)}",
        _lock_remedy(inventory),
    )


def _shipped(catalogue: Catalogue) -> str:
    return f"; locks ship for {', '.join(catalogue.locks)}" if catalogue.locks else "; this copy ships none"


def _lock_remedy(inventory: Inventory) -> str:
    own = any(inventory.settings("airflow_lock").values())
    return f"{LOCK_COMMAND}\nmakes one, as airflow-lock.txt beside the inventory" + (
        "; remove airflow_lock to use it" if own else ""
    )
