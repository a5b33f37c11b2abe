"""fingerprint: the same for the same packages in any order, another one for every difference that matters."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.fingerprint import distributions, fingerprint


def install(folder: Path, name: str, version: str, record: str | None = "a.py,sha256=x,1\nb.py,sha256=y,2\n") -> Path:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    if record is not None:
        (info / "RECORD").write_text(record)
    return info


def test_distributions_are_listed_with_normalized_names(tmp_path: Path) -> None:
    install(tmp_path, "Flask_AppBuilder", "4.6.3")
    install(tmp_path, "zope.interface", "1.0", record=None)
    (tmp_path / "not_a_distribution").mkdir()
    found = distributions(tmp_path)
    assert list(found) == ["flask-appbuilder", "zope-interface"]
    assert found["flask-appbuilder"][0] == "4.6.3"
    assert len(found["flask-appbuilder"][1]) == 64
    assert found["zope-interface"] == ("1.0", "")
    assert distributions(tmp_path / "missing") == {}


def test_order_and_bytecode_do_not_matter(tmp_path: Path) -> None:
    for name, lines in (("one", "a.py,h,1\nb.py,h,2\n"), ("two", "b.py,h,2\na.py,h,1\n")):
        for package in ("x", "y") if name == "one" else ("y", "x"):
            install(tmp_path / name, package, "1.0", lines)
    (tmp_path / "two/x/__pycache__").mkdir(parents=True)
    assert fingerprint(tmp_path / "one", "3.11") == fingerprint(tmp_path / "two", "3.11")


def test_every_difference_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "a", "1.0")
    seen = [fingerprint(tmp_path, "3.11"), fingerprint(tmp_path, "3.12")]
    record = install(tmp_path, "b", "1.0") / "RECORD"
    seen.append(fingerprint(tmp_path, "3.11"))
    record.write_text(record.read_text().replace("sha256=x", "sha256=z"))
    seen.append(fingerprint(tmp_path, "3.11"))
    record.parent.rename(tmp_path / "b-1.1.dist-info")
    seen.append(fingerprint(tmp_path, "3.11"))
    monkeypatch.setattr(platform, "machine", lambda: "other")
    seen.append(fingerprint(tmp_path, "3.11"))
    assert len(set(seen)) == len(seen)
    assert all(len(digest) == 64 for digest in seen)
