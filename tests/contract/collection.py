"""What the contract tests read: the files of this checkout, parsed once."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (CHECKOUT / "roles").iterdir() if path.is_dir())
CONTRACT = "cluster"
"""The role whose variables every other role may read."""


class Loader(yaml.SafeLoader):
    """Knows Ansible's tags, of which only the text matters here."""


for _tag in ("!vault", "!unsafe"):
    Loader.add_constructor(_tag, lambda loader, node: node.value)


@cache
def load(path: Path) -> Any:
    """Content of a YAML file; None where there is no file."""
    return yaml.load(path.read_text(), Loader) if path.is_file() else None  # noqa: S506  a SafeLoader


def role(name: str, part: str) -> Any:
    """Content of ``roles/<name>/<part>``; an empty dict where there is no file."""
    return load(CHECKOUT / "roles" / name / part) or {}


def defaults(name: str) -> dict[str, Any]:
    """A role's interface."""
    return dict(role(name, "defaults/main.yml"))


def variables(name: str) -> dict[str, Any]:
    """A role's own constants and derived values."""
    return dict(role(name, "vars/main.yml"))


def specs(name: str) -> dict[str, Any]:
    """A role's argument specs by entry point."""
    return dict(role(name, "meta/argument_specs.yml").get("argument_specs", {}))


def files(*patterns: str) -> list[Path]:
    """Files of the checkout that match, sorted."""
    return sorted({path for pattern in patterns for path in CHECKOUT.glob(pattern) if path.is_file()})


def task_files(name: str = "*") -> list[Path]:
    """Task and handler files of one role, or of all."""
    return files(f"roles/{name}/tasks/**/*.yml", f"roles/{name}/handlers/**/*.yml")


def playbooks() -> list[Path]:
    """Every playbook of the product."""
    return files("site.yml", "playbooks/**/*.yml")


def relative(path: Path) -> str:
    """A path as one sees it from the checkout."""
    return str(path.relative_to(CHECKOUT))


def tasks_in(items: Any) -> Iterator[dict[str, Any]]:
    """Every task of a task list or a playbook, those inside blocks included, and the roles of a play."""
    for item in items or []:
        if not isinstance(item, dict):
            continue
        nested = ("block", "rescue", "always", "pre_tasks", "tasks", "post_tasks", "handlers")
        if not any(key in item for key in nested):
            yield item
        for entry in item.get("roles", []) if "hosts" in item else []:
            yield {"ansible.builtin.import_role": {"name": entry} if isinstance(entry, str) else entry}
        for key in nested:
            yield from tasks_in(item.get(key))


def arguments(task: dict[str, Any], *modules: str) -> Any:
    """What a task hands to one of the modules, whatever the length of its name; None if it calls another one."""
    return next((task[key] for key in task if key.rpartition(".")[2] in modules), None)


def code(path: Path) -> str:
    """The text of a YAML file, template or Python file without its comments."""
    text = path.read_text()
    if path.suffix == ".j2":
        return re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL)
    return re.sub(r"(?m)(^|(?<=\s))#(?!\}).*$", "", text)


def tracked() -> list[Path]:
    """Files that are in git, or would be after ``git add``."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    paths = [CHECKOUT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]
