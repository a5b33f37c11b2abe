"""airflow_config: who gets which option, and values that Airflow's parser reads back."""

from __future__ import annotations

import configparser
import json
import subprocess
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.dataops.airflow.plugins.filter.airflow_config import (
    config_text,
    directives_text,
    environment_text,
    option_text,
    options_for,
)

READERS = {"core.parallelism": ["scheduler"], "api.workers": ["api-server"]}
CONFIG: dict[str, dict[str, Any]] = {
    "core": {"parallelism": 8, "executor": "LocalExecutor", "load_examples": None},
    "api": {"workers": 2},
    "empty": {"nothing": None},
}


def test_options_go_to_their_readers() -> None:
    assert options_for(CONFIG, "scheduler", READERS) == {"core": {"parallelism": 8, "executor": "LocalExecutor"}}
    assert options_for(CONFIG, "worker", READERS) == {"core": {"executor": "LocalExecutor"}}
    assert options_for(CONFIG, "api-server", READERS) == {"core": {"executor": "LocalExecutor"}, "api": {"workers": 2}}


def test_the_operators_command_gets_every_option() -> None:
    wanted = {"core": {"parallelism": 8, "executor": "LocalExecutor"}, "api": {"workers": 2}}
    assert options_for(CONFIG, "cli", READERS) == wanted


def test_a_section_must_be_a_dict() -> None:
    with pytest.raises(AnsibleFilterError, match="section core of airflow_config"):
        options_for({"core": "parallelism = 8"}, "cli", {})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "100 %",
        "%(asctime)s %% $HOME ${x}",
        "a = b ; c # d",
        "'quoted' \"text\"",
        "é",
        "",
        8,
        0.5,
        True,
        [1, "50 %", None, True],
        {"key": "%s", "list": []},
    ],
)
def test_values_come_back(value: Any) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(f"[section]\noption = {option_text(value)}\n")
    found = parser["section"]["option"]
    assert (json.loads(found) if isinstance(value, (list, dict)) else found) == (
        value if isinstance(value, (list, dict)) else str(value)
    )


@pytest.mark.parametrize("value", ["a\nb = c", "a\r"])
def test_a_newline_is_refused_without_showing_the_value(value: str) -> None:
    with pytest.raises(AnsibleFilterError, match="holds a newline") as problem:
        option_text(value)
    assert "b = c" not in str(problem.value)
    assert option_text(["a\nb"]) == '["a\\nb"]'


def test_a_file_holds_its_sections_and_nothing_else() -> None:
    parser = configparser.ConfigParser()
    parser.read_string(config_text(CONFIG, "scheduler", READERS))
    assert {name: dict(parser[name]) for name in parser.sections()} == {
        "core": {"parallelism": "8", "executor": "LocalExecutor"}
    }


def test_a_shell_reads_the_environment_back() -> None:
    hostile = {"B": 'p@s:s/w%o#r\'d" $x `id` \\ \\" & ;', "A": 8, "C": ""}
    text = environment_text(hostile)
    assert [line[0] for line in text.splitlines()] == ["A", "B", "C"]
    script = "set -a\n" + text + "exec env --null"
    done = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, text=True, check=True)
    found = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    assert {name: found[name] for name in hostile} == {name: str(value) for name, value in hostile.items()}


def test_directives_are_lines_by_name() -> None:
    directives = {
        "UMask": "0027",
        "LimitNOFILE": 65536,
        "PrivateTmp": True,
        "OOMPolicy": None,
        "environment": ["A=1", "B=2"],
    }
    lines = ["environment=A=1", "environment=B=2", "LimitNOFILE=65536", "PrivateTmp=true", "UMask=0027"]
    assert directives_text(directives).split("\n") == lines
    assert directives_text({}) == ""
