"""The documentation says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .collection import CHECKOUT, ROLES, defaults, files, playbooks, relative, variables

PAGES = [*files("*.md", "docs/**/*.md", "roles/*/README.md", "lab/*.md")]
each_page = pytest.mark.parametrize("page", PAGES, ids=relative)


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"run docs/generate.py\n{done.stdout}{done.stderr}"


def anchors(page: Path) -> set[str]:
    """Anchors that a page's headings get."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if "://" not in target and not (place.exists() and (not anchor or anchor in anchors(place))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "modules.md"], ids=relative)
def test_names_exist(page: Path) -> None:
    text = page.read_text()
    known = {name for role in ROLES for name in [*defaults(role), *variables(role)]}
    prefixes = "|".join(ROLES)
    named = set(re.findall(rf"`((?:__)?(?:{prefixes})_\w+)`", text))
    modules = {path.stem for path in files("plugins/modules/*.py")}
    assert sorted(named - known - modules) == []
    called = set(re.findall(r"(?:playbooks/|dataops\.airflow\.)([a-z_]+)\b(?!\.py)", text))
    assert sorted(called - {path.stem for path in playbooks()} - modules) == []


@each_page
def test_paths_of_the_checkout_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:roles|playbooks|inventories|tests|docs|changelogs|plugins|lab|dags)/[\w./-]+)`", page.read_text()
    )
    examples = ("inventories/mysite", "inventories/host_vars")
    missing = [name for name in named if not name.startswith(examples) and not (CHECKOUT / name).exists()]
    assert missing == []


def test_the_picture_shows_the_default_ports() -> None:
    shown = set(re.findall(r'class="port"[^>]*>(\d+)<', (CHECKOUT / "docs/topology.svg").read_text()))
    ports = {str(value) for name, value in defaults("cluster").items() if name.endswith("_port")}
    assert shown - {"22"} <= ports
    assert len(shown) > 4
