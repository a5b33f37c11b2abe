# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Filters that turn dicts into the text of an airflow.cfg, of a unit's environment file and of its directives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.dataops.airflow.plugins.module_utils.directives import directive_lines

Config = Mapping[str, Mapping[str, Any]]


def options_for(config: Config, component: str, readers: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Select the options that a component gets.

    :param config: ``{section: {option: value}}``.
    :param component: name of the component; ``cli`` gets every option.
    :param readers: ``{"section.option": [components that read it]}``; an option that is not named is for all.
    :returns: the selection, without empty sections and without options whose value is ``None``.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for section, options in config.items():
        if not isinstance(options, Mapping):
            raise AnsibleFilterError(f"section {section} of airflow_config must be a dict of options")
        for option, value in options.items():
            allowed = readers.get(f"{section}.{option}")
            if value is not None and (component == "cli" or allowed is None or component in allowed):
                chosen.setdefault(section, {})[option] = value
    return chosen


def option_text(value: Any) -> str:
    """Write a value so that Airflow's parser reads it back: ``%`` doubled, lists and dicts as JSON.

    :raises AnsibleFilterError: for a value with a newline, which would start another option.
    """
    if isinstance(value, (list, tuple, dict)):
        text = json.dumps(value)
    elif isinstance(value, bool):
        text = str(value)
    else:
        text = str(value)
    if "\n" in text or "\r" in text:
        raise AnsibleFilterError(
            "a value of airflow_config holds a newline; Airflow's file has one line for each option"
        )
    return text.replace("%", "%%")


def config_text(config: Config, component: str, readers: Mapping[str, list[str]]) -> str:
    """Write the sections of a component's airflow.cfg; the arguments are those of :func:`options_for`."""
    lines: list[str] = []
    for section, options in sorted(options_for(config, component, readers).items()):
        lines += ["", f"[{section}]"]
        lines += [f"{name} = {option_text(value)}" for name, value in sorted(options.items())]
    return "".join(f"{line}\n" for line in lines)


def environment_text(variables: Mapping[str, Any]) -> str:
    """Write variables as both systemd (``EnvironmentFile=``) and a shell read them: in double quotes, escaped."""
    lines = [(name, re.sub(r'([\\"$`])', r"\\\1", str(value))) for name, value in sorted(variables.items())]
    return "".join(f'{name}="{value}"\n' for name, value in lines)


def directives_text(directives: Mapping[str, Any]) -> str:
    """Write directives of a unit: a line for each value of a list, none for ``None``; no line break at the end."""
    return "\n".join(directive_lines(dict(sorted(directives.items(), key=lambda item: item[0].lower()))))


class FilterModule:
    """Filters of this collection for the settings of Airflow's components."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions."""
        return {"config_text": config_text, "directives_text": directives_text, "environment_text": environment_text}
