# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Bill of materials of a Python environment in CycloneDX's JSON, made from what its packages say of themselves.

Only the standard library is needed, and a fifth of a second for 200 packages.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

NAME = "sbom.cdx.json"
"""The file in a release folder."""

_CLASSIFIER = "License :: "


def packages(site_packages: Path) -> Iterator[tuple[str, str, str]]:
    """Yield name, version and licence of each installed package, by name; a licence that is not told is empty."""
    found = {}
    for metadata in site_packages.glob("*.dist-info/METADATA"):
        text = metadata.read_text(encoding="utf-8", errors="replace")
        said = HeaderParser().parsestr(text.partition("\n\n")[0])
        name = (said["Name"] or metadata.parent.name.partition("-")[0]).lower().replace("_", "-").replace(".", "-")
        found[name] = (said["Version"] or "", licence(said))
    for name, (version, words) in sorted(found.items()):
        yield name, version, words


def licence(said: Message) -> str:
    """What a package's metadata say of its licence: the expression, else the classifiers, else a name of one line."""
    expression = said["License-Expression"]
    if expression:
        return " ".join(expression.split())
    classifiers = [value for value in said.get_all("Classifier", []) if value.startswith(_CLASSIFIER)]
    names = [value.rpartition(" :: ")[2] for value in classifiers]
    if names:
        return ", ".join(names)
    text = (said["License"] or "").strip()
    return text if len(text) <= 80 and "\n" not in text else text.splitlines()[0].strip()[:80]


def bill(site_packages: Path, name: str, fingerprint: str) -> str:
    """The bill of an environment as JSON, equal wherever the environment is.

    :param site_packages: folder of the installed packages.
    :param name: name of the release.
    :param fingerprint: digest of the environment, which the bill's serial number is made of.
    """
    components: list[dict[str, Any]] = []
    for package, version, words in packages(site_packages):
        purl = f"pkg:pypi/{package}@{version}"
        component: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": package, "version": version}
        if words:
            component["licenses"] = [{"license": {"name": words}}]
        components.append({**component, "purl": purl})
    content = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, fingerprint)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "release",
                "name": "airflow",
                "version": name,
                "properties": [{"name": "dataops.airflow:fingerprint", "value": fingerprint}],
            }
        },
        "components": components,
    }
    return json.dumps(content, indent=1) + "\n"
