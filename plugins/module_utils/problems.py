# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""A problem of an inventory or a host, and the words that it is told in. No text made here contains a secret."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    :param subject: what it is about: a variable, a group, a host.
    :param found: what is there. Never the value of a secret.
    :param allowed: what may be there.
    :param remedy: what to do.
    """

    subject: str
    found: str
    allowed: str
    remedy: str

    def __str__(self) -> str:
        lines = [self.subject]
        for label, text in (("found:", self.found), ("allowed:", self.allowed), ("remedy:", self.remedy)):
            first, *rest = text.splitlines() or [""]
            lines.append(f"  {label:<9}{first}")
            lines += [f"{'':11}{line}" for line in rest]
        return "\n".join(lines)


def report(title: str, problems: Sequence[Problem]) -> str:
    """Return one message that lists all problems under a title."""
    return "\n\n".join([title, *map(str, problems)])


def texts_in(value: Any) -> list[str]:
    """The items of a list as text; nothing for what is no list, which the rule about types reports."""
    return [str(item) for item in value] if isinstance(value, list) else []


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question after the nearest known name, or nothing."""
    names = list(known)
    near = [name] if name in names else difflib.get_close_matches(name, names, 1, 0.7)
    return f"did you mean {near[0]}?" if near else ""


def names_of(hosts: Sequence[str], limit: int = 4) -> str:
    """Names of hosts, those over a limit as a number."""
    shown = ", ".join(hosts[:limit])
    return f"{shown} and {len(hosts) - limit} more" if len(hosts) > limit else shown


def counted(items: Sequence[Any], noun: str) -> str:
    """A number of items with its noun, in the plural where that is right."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def lengths_of(values: Sequence[str]) -> str:
    """Lengths of texts, in characters."""
    return f"{', '.join(str(len(value)) for value in values)} characters"


def shown_value(value: Any) -> str:
    """A value for a message; a container's content stays out of it."""
    if isinstance(value, (list, dict)):
        return shown_type(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def shown_type(value: Any) -> str:
    """A value's type and size, and nothing of what it holds."""
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, (list, tuple)):
        return f"a list of {counted(value, 'item')}"
    if isinstance(value, Mapping):
        return f"a dictionary of {counted(list(value), 'key')}"
    return f"a value of type {type(value).__name__}"


def described(spec: Mapping[str, Any]) -> str:
    """What an argument spec allows."""
    if spec.get("choices"):
        return "one of " + ", ".join(json.dumps(choice, default=str) for choice in spec["choices"])
    kinds = {
        "str": "text",
        "path": "a path",
        "int": "an integer",
        "float": "a number",
        "bool": "true or false",
        "dict": "a dictionary",
        "list": "a list",
    }
    kind = str(spec.get("type", "str"))
    text = kinds.get(kind, kind)
    if kind == "list" and spec.get("elements"):
        text += f", each item {kinds.get(spec['elements'], spec['elements'])}"
    if spec.get("options"):
        text += f" with the keys {', '.join(spec['options'])}"
    return text


def without_values(message: str) -> str:
    """Cut a validator's message before the value that it quotes, which may hold a secret."""
    message = re.sub(r"(unable to convert to \w+): .*", r"\1", message, flags=re.DOTALL)
    message = re.sub(r"(, got|\. Got no match for): .*?( found in [^:]*)?$", r"\2", message, flags=re.DOTALL)
    return re.sub(r"<class '([^']*)'>", r"\1", message).strip()


def strings_in(value: Any) -> list[str]:
    """The texts in a list, or the text itself; empty ones are left out."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str) and item]
