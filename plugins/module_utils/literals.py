# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Which text of an inventory may go into a file of a host.

Units, `airflow.cfg`, `redis.conf` and the like have one line for each setting, and names that are written as they are.
What would end the line, or make another setting of it, is refused; everything else arrives as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Finding = tuple[str, str, str]
"""Where it is below the variable, what was found, and what is allowed. None of them holds a value."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
_ENDS_LINE = re.compile(r"[\x00\n\r]")
_WHAT = {"\n": "a line break", "\r": "a line break", "\0": "a NUL"}

QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@/-]*")
"""Name of a queue: an argument of the worker, which takes several with commas."""

HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Name of a host: a part of the worker's name, and a queue."""

NAMES = {
    "airflow_config": (
        re.compile(r"[^\s=:#;\[\]][^\s=:]*"),
        "the name of an option: no spaces, =, : or line breaks, and no #, ; or [ at the start",
    ),
    "airflow_environment": (re.compile("[A-Za-z_][A-Za-z0-9_]*"), "letters, digits and underscores, no digit first"),
    "airflow_service_options": (re.compile("[A-Z][A-Za-z0-9]*"), "a directive of systemd, such as MemoryMax"),
    "postgresql_parameters": (
        re.compile("[A-Za-z_][A-Za-z0-9_$]*([.][A-Za-z_][A-Za-z0-9_$]*)?"),
        "a parameter of PostgreSQL, such as work_mem",
    ),
    **dict.fromkeys(
        ("postgresql_service_options", "redis_service_options"),
        (re.compile("[A-Z][A-Za-z0-9]*"), "a directive of systemd, such as MemoryMax"),
    ),
    "redis_config": (re.compile("[A-Za-z][A-Za-z0-9-]*"), "a directive of redis.conf, such as timeout"),
}
"""Dictionaries whose keys become the names of settings, and what those may be."""

NO_FILE = {
    *("airflow_pools", "airflow_variables", "airflow_connections", "airflow_roles", "airflow_users"),
    *("airflow_dags_git_key", "airflow_dags_git_known_hosts"),
}
"""Variables that go into no file of a host: into the metadata database, and to git on the control node."""

_SECTION = re.compile(r"[^\[\]\x00-\x1f\x7f]+")
_HBA = {
    "database": re.compile(r'[^"\\\x00-\x1f\x7f]+'),
    "user": re.compile(r'[^"\\\x00-\x1f\x7f]+'),
    "address": re.compile("[A-Za-z0-9_.:/-]*"),
    "method": re.compile(r"[^\\\x00-\x1f\x7f]+"),
}


def misread(name: str, value: Any) -> Iterator[Finding]:
    """Yield what in the value of a variable would not arrive on a host as it is written.

    :param name: name of a public variable of the collection.
    :param value: its value, templates resolved.
    """
    if name in NO_FILE:
        return
    if name == "airflow_config":
        yield from _config(value)
    elif name == "airflow_service_options":
        yield from _service_options(value)
    elif name.endswith("_service_options"):
        yield from _directives(name, value)
    elif name == "airflow_environment":
        yield from _environment(value)
    elif name == "postgresql_hba_entries":
        yield from _hba_entries(value)
    else:
        if name in NAMES:
            yield from _keys(name, value)
        for where, text in _texts(value):
            yield from _one_line(where, text, _CONTROL)


def _one_line(where: str, text: str, pattern: re.Pattern[str]) -> Iterator[Finding]:
    found = pattern.search(text)
    if found:
        yield where, f"text with {_WHAT.get(found[0], 'a control character')} in it", "one line of plain text"


def _keys(name: str, value: Any, where: str = "") -> Iterator[Finding]:
    pattern, allowed = NAMES[name]
    for key in value if isinstance(value, Mapping) else ():
        if not pattern.fullmatch(str(key)):
            yield below(where, key), "a name that would become something else in the file", allowed


def _config(value: Any) -> Iterator[Finding]:
    for section, options in value.items() if isinstance(value, Mapping) else ():
        if not _SECTION.fullmatch(str(section)):
            yield below("", section), "a section that would become something else", "no brackets and no line breaks"
        if not isinstance(options, Mapping):
            yield below("", section), "no dictionary", "the section's options as {option: value}"
            continue
        yield from _keys("airflow_config", options, str(section))
        for option, text in options.items():
            # Lists and dictionaries are written as JSON, which has no line breaks.
            if isinstance(text, str):
                yield from _one_line(below(str(section), option), text, _ENDS_LINE)


def _service_options(value: Any) -> Iterator[Finding]:
    for component, options in value.items() if isinstance(value, Mapping) else ():
        if not isinstance(options, Mapping):
            yield below("", component), "no dictionary", "directives as {Name: value}"
            continue
        yield from _directives("airflow_service_options", options, str(component))


def _directives(name: str, value: Any, where: str = "") -> Iterator[Finding]:
    yield from _keys(name, value, where)
    for place, text in _texts(value, where):
        yield from _one_line(place, text, _CONTROL)
        if text.endswith("\\"):
            yield place, "text that ends with a backslash, which takes the next line along", "one line"


def _environment(value: Any) -> Iterator[Finding]:
    yield from _keys("airflow_environment", value)
    for where, text in _texts(value):
        if "\0" in text:
            yield where, "text with a NUL in it", "text of any other characters, also of several lines"


def _hba_entries(value: Any) -> Iterator[Finding]:
    for position, entry in enumerate(value if isinstance(value, list) else ()):
        for key, pattern in _HBA.items():
            text = entry.get(key) if isinstance(entry, Mapping) else None
            if text is not None and not pattern.fullmatch(str(text)):
                allowed = (
                    "letters, digits and _.:/-"
                    if key == "address"
                    else f"one line without backslashes{'' if key == 'method' else ' and double quotes'}, not empty"
                )
                yield below(f"entry {position + 1}", key), "text that would become something else", allowed


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text in a value at any depth, names of keys included, with the place where it is."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield below(where, key), str(key)
            yield from _texts(item, below(where, key))
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _texts(item, below(where, f"item {position + 1}"))


def below(where: str, key: Any) -> str:
    """The place of a key, in one line whatever the key is."""
    shown = re.sub(r"[^\x20-\x7e]", "?", str(key))
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return f"{where}.{shown}" if where else shown
