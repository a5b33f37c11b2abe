"""The roles keep the collection's rules: one interface, one place for derived values, nothing unused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .collection import (
    CHECKOUT,
    CONTRACT,
    ROLES,
    arguments,
    code,
    defaults,
    files,
    load,
    playbooks,
    relative,
    specs,
    task_files,
    tasks_in,
    variables,
)

each_role = pytest.mark.parametrize("name", ROLES)
TEMPLATES = files("roles/*/templates/**/*")
READERS = [
    *task_files(),
    *TEMPLATES,
    *files("roles/*/vars/**/*.yml", "roles/*/defaults/**/*.yml", "molecule/**/*.yml"),
    *playbooks(),
]
"""Files in which Ansible reads variables."""
FOREIGN_NAMES = {"airflow_executor", "airflow_python"}
"""Public variables of the role cluster that do not start with its name."""


def is_template(value: Any) -> bool:
    """Whether a default is computed."""
    return "{{" in str(value) or "{%" in str(value)


def test_every_role_has_an_interface() -> None:
    assert ROLES
    assert [name for name in ROLES if not specs(name).get("main")] == []


@each_role
def test_defaults_and_argument_specs_have_the_same_options(name: str) -> None:
    options = specs(name)["main"].get("options", {})
    assert list(options) == list(defaults(name)), "same names in the same order"
    others = [entry for entry, spec in specs(name).items() if spec.get("options", {}) != options]
    assert others == [], "entry points with other options than main: use the YAML anchor"


@each_role
def test_defaults_and_argument_specs_agree(name: str) -> None:
    wrong = {}
    for option, spec in specs(name)["main"].get("options", {}).items():
        value = defaults(name)[option]
        if is_template(value):
            if "default" in spec or "Default" not in spec["description"]:
                wrong[option] = "is an expression: the spec describes it (`Default: ...`) and has no default"
        elif "default" not in spec or (spec["default"], type(spec["default"])) != (value, type(value)):
            wrong[option] = f"{value!r} in defaults/main.yml, {spec.get('default')!r} in the spec"
    assert wrong == {}


def flat(options: dict[str, Any], above: str = "") -> dict[str, dict[str, Any]]:
    """Options and the options inside them, by dotted name."""
    found = {}
    for option, spec in options.items():
        found[f"{above}{option}"] = spec
        found.update(flat(spec.get("options", {}), f"{above}{option}."))
    return found


@each_role
def test_every_option_is_typed_and_described(name: str) -> None:
    wrong = [
        option
        for option, spec in flat(specs(name)["main"].get("options", {})).items()
        if "type" not in spec
        or not str(spec.get("description", "")).endswith((".", ".)"))
        or (spec["type"] == "list" and "elements" not in spec)
    ]
    assert wrong == []


@each_role
def test_secrets_have_no_default(name: str) -> None:
    options = specs(name)["main"].get("options", {})
    wrong = [o for o, spec in options.items() if spec["description"].endswith("Secret.") and defaults(name)[o] != ""]
    assert wrong == []
    unmarked = [
        option
        for option, spec in options.items()
        if re.search(r"password|secret|fernet", option) and not spec["description"].endswith("Secret.")
    ]
    assert unmarked == [], "their descriptions end with `Secret.`"
    shown = [
        option
        for option, spec in options.items()
        if spec["description"].endswith("Secret.")
        and not re.search(r"password|secret|key", option)
        and not spec.get("no_log")
    ]
    assert shown == [], "`no_log: true` hides from preflight's report what its name does not tell to be a secret"


def role_calls() -> list[tuple[str, str, str]]:
    """(file, role, entry point) of everything that runs a role."""
    calls = []
    for path in [*playbooks(), *task_files(), *files("molecule/**/*.yml")]:
        content = load(path)
        for task in tasks_in(content if isinstance(content, list) else []):
            call = arguments(task, "import_role", "include_role")
            if call:
                target = str(call.get("name") or call.get("role")).rpartition(".")[2]
                calls.append((relative(path), target, str(call.get("tasks_from", "main"))))
    return calls


def test_entry_points_have_argument_specs() -> None:
    calls = role_calls()
    assert calls
    assert [call for call in calls if call[2].endswith((".yml", ".yaml"))] == [], "a suffix skips the spec silently"
    assert [call for call in calls if call[2] not in specs(call[1])] == []


def test_argument_specs_belong_to_entry_points() -> None:
    missing = [
        f"{name}: {entry}"
        for name in ROLES
        for entry in specs(name)
        if entry != "main" and not (CHECKOUT / "roles" / name / "tasks" / f"{entry}.yml").is_file()
    ]
    assert missing == []


def test_every_task_file_is_reachable() -> None:
    reached = {CHECKOUT / "roles" / role / "tasks" / f"{entry}.yml" for _file, role, entry in role_calls()}
    # What a playbook of a user's own reaches by the role's name.
    reached |= set(files("roles/*/tasks/main.yml"))
    for path in task_files():
        for task in tasks_in(load(path)):
            target = arguments(task, "import_tasks", "include_tasks")
            if target is not None:
                reached.add(path.parent / (target["file"] if isinstance(target, dict) else target))
    # The contract as a whole is variables alone.
    reached.discard(CHECKOUT / "roles" / CONTRACT / "tasks/main.yml")
    assert sorted(relative(path) for path in reached if not path.is_file()) == []
    assert [relative(path) for path in files("roles/*/tasks/**/*.yml") if path not in reached] == []


def test_every_template_and_file_is_used() -> None:
    text = "\n".join(code(path) for path in READERS)
    unused = [
        relative(path)
        for path in [*TEMPLATES, *files("roles/*/files/**/*")]
        if path.name not in text and not {"locks", "constraints", "__pycache__"} & set(path.parts)
    ]
    assert unused == []


def test_the_contract_touches_no_host() -> None:
    reading = (
        "assert",
        "debug",
        "fail",
        "import_tasks",
        "include_vars",
        "host_probe",
        "stat",
        "validate_hosts",
        "validate_inventory",
        "wait_for",
    )
    others = [
        f"{relative(path)}: {task.get('name')}"
        for path in task_files(CONTRACT)
        for task in tasks_in(load(path))
        if arguments(task, *reading) is None and task.get("delegate_to") != "localhost"
    ]
    assert others == [
        "roles/cluster/tasks/report.yml: Draw when each task waited and ran",
        "roles/cluster/tasks/rotation_done.yml: Forget the rotation",
        "roles/cluster/tasks/rotation_phase.yml: Bring the rotation to the phase: {{ __cluster_rotation_step }}",
        "roles/cluster/tasks/secrets.yml: Generate the secrets that are missing",
    ], "on the control node"


@pytest.mark.parametrize("name", [name for name in ROLES if name != CONTRACT])
def test_only_the_contract_reads_other_hosts(name: str) -> None:
    found = [
        f"{relative(path)}: {match[0]}"
        for path in files(
            *(f"roles/{name}/{part}/**/*" for part in ("tasks", "handlers", "templates", "vars", "defaults"))
        )
        for match in re.finditer(r"\bgroups\s*[\[.]|\bhostvars\b", code(path))
    ]
    assert found == [], f"derive it in roles/{CONTRACT}/vars/main.yml"


def registered(path: Path) -> list[str]:
    """Names that the tasks of a file register."""
    return [task["register"] for task in tasks_in(load(path)) if "register" in task]


def defined() -> set[str]:
    """Every variable with two underscores that something defines."""
    names = {key for name in ROLES for key in variables(name)}
    for path in [*task_files(), *playbooks(), *files("molecule/**/*.yml")]:
        content = load(path)
        for item in [*tasks_in(content), *content] if isinstance(content, list) else []:
            names.update(item.get("vars", {}), [item.get("register")])
            names.add(item.get("loop_control", {}).get("loop_var"))
    for path in READERS:
        names.update(re.findall(r"\{%-?\s*set\s+(\w+)", path.read_text()))
        names.update(re.findall(r"template_vars=\{'(\w+)'", path.read_text()))
    return names


def test_every_internal_variable_that_is_read_is_defined() -> None:
    known = defined()
    unknown = {
        f"{relative(path)}: {name}"
        for path in READERS
        for name in re.findall(r"(?<!\w)__[a-z]\w*", code(path))
        if name not in known
    }
    assert sorted(unknown) == []


def test_every_variable_is_read() -> None:
    readers = [code(path) for path in [*READERS, *files("plugins/**/*.py", "lab/**/*.yml")]]
    unread = []
    for name in ROLES:
        for variable in [*defaults(name), *variables(name)]:
            # Not the line that defines it.
            reading = re.compile(rf"(?<!\w){variable}\b(?!:)|(?<=\S)[ \t]+{variable}\b")
            if not any(reading.search(text) for text in readers):
                unread.append(f"{name}: {variable}")
    assert unread == []


@each_role
def test_names_tell_whose_they_are(name: str) -> None:
    wrong = [key for key in defaults(name) if not key.startswith(f"{name}_") and key not in FOREIGN_NAMES]
    internal = (f"__{name}_", f"{name}_") if name == CONTRACT else (f"__{name}_",)
    wrong += [key for key in variables(name) if not key.startswith(internal)]
    wrong += [key for path in task_files(name) for key in registered(path) if not key.startswith(f"__{name}_")]
    assert wrong == []


def hidden_names(text: str) -> list[str]:
    """Whole variables, not keys or results of filters, that get a default in a template."""
    matches = re.finditer(r"([A-Za-z_]\w*)\s*\|\s*(?:default|d)\(", text)
    return [match[1] for match in matches if not text[: match.start()].rstrip().endswith((".", "|"))]


def test_hidden_names_are_found() -> None:
    assert hidden_names("{{ a | default(1) }} {{ (b|d(2)) }} {% if not c | default('') %}") == ["a", "b", "c"]
    assert (
        hidden_names("{{ a.b | default(1) + c['d'] | default(2) + e | first | default(3) + f(g) | default(4) }}") == []
    )


def test_no_default_hides_a_missing_variable() -> None:
    found = {relative(path): names for path in [*task_files(), *TEMPLATES] if (names := hidden_names(code(path)))}
    assert found == {}, "give the variable a value in defaults/ or vars/"


def test_no_ignored_errors_and_no_set_fact() -> None:
    found = [
        f"{relative(path)}: {word}"
        for path in [*task_files(), *playbooks()]
        for word in ("ignore_errors", "ignore_unreachable", *(["set_fact"] if "roles" in path.parts else []))
        if re.search(rf"\b{word}\b", code(path))
    ]
    # A plan acts on no host, and is made before there are any; preflight says of each host what its silence means; a
    # copy of logs ends with a task that fails where one of the hosts was silent; a first scheduler that is silent has
    # no say in what a run with --limit brings.
    assert found == [
        "roles/airflow/tasks/dags_source.yml: ignore_unreachable",
        "roles/airflow/tasks/keep_logs.yml: ignore_unreachable",
        "roles/airflow/tasks/limited.yml: ignore_unreachable",
        "roles/cluster/tasks/preflight.yml: ignore_unreachable",
        "playbooks/plan.yml: ignore_unreachable",
    ]


@pytest.mark.parametrize("path", playbooks(), ids=relative)
def test_playbooks_are_short_and_say_how_to_run_them(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    header = re.match(r"---\n((?:#.*\n)+)", text)
    assert header, "starts with `---` and a comment"
    assert "ansible-playbook " in header[1]


def test_main_task_files_are_tables_of_contents() -> None:
    long = [relative(path) for path in files("roles/*/tasks/main.yml") if len(path.read_text().splitlines()) > 40]
    assert long == []


def test_the_contract_stays_small() -> None:
    assert len(defaults(CONTRACT)) <= 35
    assert len([key for key in variables(CONTRACT) if not key.startswith("__")]) <= 25
