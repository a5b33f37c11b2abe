"""sbom: a bill of materials from what packages say of themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.sbom import bill, packages


def add(folder: Path, name: str, *lines: str, version: str = "1.0") -> None:
    """Install a package."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    text = "\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines])
    (info / "METADATA").write_text(f"{text}\n\nThe description.\nLicense: none of this counts\n")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["License-Expression: Apache-2.0 OR MIT", "License: x"], "Apache-2.0 OR MIT"),
        (["License: long", "Classifier: License :: OSI Approved :: MIT License"], "MIT License"),
        (["Classifier: License :: OSI Approved :: A", "Classifier: License :: B", "Classifier: Topic :: C"], "A, B"),
        (["License: BSD"], "BSD"),
        (["License: The licence", "        in many lines"], "The licence"),
        ([], ""),
    ],
)
def test_licences(tmp_path: Path, lines: list[str], told: str) -> None:
    add(tmp_path, "Some_Package", *lines)
    assert list(packages(tmp_path)) == [("some-package", "1.0", told)]


def test_a_bill(tmp_path: Path) -> None:
    add(tmp_path, "b", "License-Expression: MIT")
    add(tmp_path, "a", version="2")
    content = json.loads(bill(tmp_path, "3.3.2-abc", "f" * 64))
    assert (content["bomFormat"], content["specVersion"]) == ("CycloneDX", "1.6")
    assert content["components"] == [
        {"type": "library", "bom-ref": "pkg:pypi/a@2", "name": "a", "version": "2", "purl": "pkg:pypi/a@2"},
        {
            "type": "library",
            "bom-ref": "pkg:pypi/b@1.0",
            "name": "b",
            "version": "1.0",
            "licenses": [{"license": {"name": "MIT"}}],
            "purl": "pkg:pypi/b@1.0",
        },
    ]
    assert bill(tmp_path, "3.3.2-abc", "f" * 64) == bill(tmp_path, "3.3.2-abc", "f" * 64)
    assert content["serialNumber"] != json.loads(bill(tmp_path, "3.3.2-abc", "0" * 64))["serialNumber"]


def test_the_bill_of_this_environment() -> None:
    """Of real packages: each has a version, and nearly each a licence."""
    folder = next(Path(sys.prefix).glob("lib/python*/site-packages"))
    found = list(packages(folder))
    assert len(found) > 50
    assert all(version for _name, version, _told in found)
    assert sum(bool(told) for _name, _version, told in found) > len(found) * 0.9
