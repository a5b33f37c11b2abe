#!/usr/bin/env python3
"""Write what is elsewhere into Markdown: argument specs, constants of roles, DOCUMENTATION of modules, measured faults.

usage: docs/generate.py           write docs/roles/*.md, docs/modules.md, roles/*/README.md, the tables in README.md
                                  and docs/faults.md
       docs/generate.py --check   write nothing; show what is stale and end with 1 if anything is
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
ROLES = ("cluster", "certificates", "postgresql", "redis", "haproxy", "firewall", "airflow")
NOTE = "<!-- Written by docs/generate.py: do not edit. -->"

# What README.md shows of the variables, between two marks, and where one sets it.
FIRST_VARIABLES = {
    "airflow_dags": "group_vars/all/airflow.yml",
    "airflow_config": "group_vars/all/airflow.yml",
    "airflow_environment": "group_vars/all/airflow.yml",
    "airflow_worker_concurrency": "group_vars/workers.yml",
    "airflow_worker_autoscale": "group_vars/workers.yml",
    "airflow_worker_queues": "group_vars/workers.yml",
    "airflow_worker_memory_max": "group_vars/workers.yml",
    "airflow_worker_cpu_quota": "group_vars/workers.yml",
    "airflow_worker_instances": "host_vars/HOST.yml",
    "airflow_worker_serial": "group_vars/all/airflow.yml",
    "airflow_worker_stop_timeout": "group_vars/all/airflow.yml",
    "cluster_address": "hosts.yml",
    "cluster_database_host": "group_vars/all/cluster.yml",
    "cluster_redis_host": "group_vars/all/cluster.yml",
    "cluster_webserver_host": "group_vars/all/cluster.yml",
    "cluster_ca_certificates": "group_vars/all/cluster.yml",
}
MARKS = ("<!-- variables: written by docs/generate.py -->\n", "<!-- end of variables -->\n")
FAULT_MARKS = ("<!-- faults: written by docs/generate.py -->\n", "<!-- end of faults -->\n")

# role -> (title, constant with what the role derives, variable of the user that wins over it)
DERIVED = {
    "airflow": (
        ("Options of `airflow.cfg`", "__airflow_derived_config", "airflow_config"),
        ("systemd directives of every unit", "__airflow_service", "airflow_service_options"),
    ),
    "postgresql": (("Parameters of PostgreSQL", "__postgresql_derived_parameters", "postgresql_parameters"),),
    "redis": (("Directives of `redis.conf`", "__redis_derived_config", "redis_config"),),
}

Data = Mapping[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with ``--check`` compare them; return the exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = {path: text for path, text in pages() if not path.is_file() or path.read_text() != text}
    for path, text in stale.items():
        name = str(path.relative_to(ROOT))
        if arguments:
            before = path.read_text() if path.is_file() else ""
            lines = difflib.unified_diff(before.splitlines(), text.splitlines(), name, f"{name} (generated)", "", "", 1)
            print("\n".join(line.rstrip("\n") for line in lines))
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(name)
    return 1 if arguments and stale else 0


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page's path and text."""
    for role in ROLES:
        yield ROOT / "docs" / "roles" / f"{role}.md", role_page(role)
        yield ROOT / "roles" / role / "README.md", role_readme(role)
    yield ROOT / "docs" / "modules.md", modules_page()
    for name, (begin, end), content in (
        ("README.md", MARKS, first_variables()),
        ("docs/faults.md", FAULT_MARKS, faults()),
    ):
        before, rest = (ROOT / name).read_text().split(begin)
        yield ROOT / name, f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


# -- roles ----------------------------------------------------------------------------------------------------------


def role_readme(role: str) -> str:
    """Return the short page beside a role, which points at the long one."""
    description = load(f"roles/{role}/meta/main.yml")["galaxy_info"]["description"]
    return (
        f"{NOTE}\n\n# {role}\n\n{description}.\n\n"
        f"Entry points and variables: [docs/roles/{role}.md](../../docs/roles/{role}.md). "
        "The role belongs to its collection: see the [README](../../README.md) of `dataops.airflow`.\n"
    )


def role_page(role: str) -> str:
    """Return the page of a role."""
    entries = load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    description = load(f"roles/{role}/meta/main.yml")["galaxy_info"]["description"]
    rows = [[f"`{name}`", prose(entry["short_description"])] for name, entry in entries.items()]
    blocks = [
        NOTE,
        f"# Role {role}",
        f"{description}.",
        "## Entry points",
        table(["Entry point", "What it does"], rows),
        "## Variables",
        f"Set them in `group_vars/all/{role}.yml` of the inventory, and what differs between hosts in the `group_vars` "
        "of a group. Preflight refuses differences in what must be equal.",
        table(["Variable", "Type", "Default", "Meaning"], list(option_rows(role_options(role)))),
    ]
    if role == "airflow":
        blocks += components()
    for title, constant, variable in DERIVED.get(role, ()):
        rows = list(flat(load(f"roles/{role}/vars/main.yml")[constant]))
        blocks += [
            f"## {title}",
            f"What the role sets; `{variable}` wins over it. A name in a value is a variable of the roles.",
            table(["Name", "Value"], rows),
        ]
    return "\n\n".join(blocks) + "\n"


def components() -> list[str]:
    """Return the tables of Airflow's components and of the secrets that each gets."""
    constants = load("roles/airflow/vars/main.yml")
    described = constants["__airflow_components"]
    secrets = constants["__airflow_secrets"]
    units = [
        [
            f"`airflow-{name}`" + (f", alias `{this['alias'].removesuffix('.service')}`" if "alias" in this else ""),
            f"`{this['group']}`",
            "with Celery" if this.get("celery") else "always",
            this["description"],
        ]
        for name, this in described.items()
    ]
    matrix = [
        [secret.replace("_", " "), ", ".join(f"`{name}`" for name in re.findall(r"AIRFLOW__\w+", str(values)))]
        + ["x" if secret in this["secrets"] else "" for this in described.values()]
        for secret, values in secrets.items()
    ]
    own = [row for name, this in described.items() for row in flat(this["service"], f"{name}.")]
    return [
        "## Components",
        table(["Unit", "Runs on the group", "When", "What it is"], units),
        "Where a component's systemd directives differ from those of every unit, below:",
        table(["Name", "Value"], own),
        "## Secrets by component",
        "Each component has a file of its own with these environment variables, readable by root only.",
        table(["Secret", "Environment variable", *described], matrix),
    ]


def role_options(role: str) -> dict[str, Data]:
    """Return the options of all entry points of a role, each once."""
    entries = load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    return {name: spec for entry in entries.values() for name, spec in (entry.get("options") or {}).items()}


def option_rows(options: Mapping[str, Data], prefix: str = "") -> Iterator[list[str]]:
    """Yield a row for each option, those inside a dict or list below it."""
    for name, spec in options.items():
        kind = spec.get("type", "str") + (f" of {spec['elements']}" if "elements" in spec else "")
        if spec.get("required"):
            default = "required"
        elif "default" in spec:
            default = f"`{json.dumps(spec['default'])}`"
        else:
            default = ""
        meaning = prose(spec["description"])
        if "choices" in spec:
            meaning += f" One of {', '.join(f'`{choice}`' for choice in spec['choices'])}."
        yield [f"`{prefix}{name}`", kind, default, meaning]
        inner = spec.get("options") or spec.get("suboptions") or {}
        yield from option_rows(inner, f"{prefix}{name}{'[]' if 'elements' in spec else ''}.")


def first_variables() -> str:
    """Return the table of README.md."""
    known = {name: spec for role in ROLES for name, spec in role_options(role).items()}
    rows = [[f"`{name}`", f"`{file}`", prose(known[name]["description"])] for name, file in FIRST_VARIABLES.items()]
    return table(["Variable", "Set it in", "Meaning"], rows)


def flat(values: Data, prefix: str = "") -> Iterator[list[str]]:
    """Yield name and value of each setting, a section's options as ``section.option``."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
            continue
        text = re.sub(r"\s+", " ", value if isinstance(value, str) else json.dumps(value)).strip()
        if text.count("{{") == 1:
            text = re.sub(r"^{{ ?(.*?) ?}}$", r"\1", text)
        yield [f"`{prefix}{name}`", f"`{text}`" if text else ""]


# -- faults ---------------------------------------------------------------------------------------------------------


def faults() -> str:
    """Return the table of what `make faults` measured last."""
    measured = json.loads((ROOT / "docs/faults.json").read_text())
    counted = ("retries", "submitted", "first_try", "retried", "failed", "lost")
    head = ["Fault", "Retries", "Tasks", "First try", "Retried", "Failed", "Lost", "Next try after, s"]
    rows = []
    for row in measured["rows"]:
        again = f"{row['retried_within']:.0f}" if row["retried"] else ""
        human = ", ".join(row["human"]) or "none"
        rows.append([row["fault"], *(str(row[name]) for name in counted), again, f"{row['recovered']:.0f}", human])
    about = f"{measured['date']}, commit {measured['commit']}, {measured['cpus']} CPUs shared by four hosts."
    return f"{about}\n\n{table([*head, 'Works again after, s', 'Needed a human'], rows)}\n"


# -- modules --------------------------------------------------------------------------------------------------------


def modules_page() -> str:
    """Return the page of all modules."""
    documented = [documentation(path) for path in sorted((ROOT / "plugins" / "modules").glob("*.py"))]
    rows = [[f"[`{one['module']}`](#{one['module']})", prose(one["short_description"])] for one in documented]
    blocks = [
        NOTE,
        "# Modules",
        "The roles use these modules. `ansible-doc dataops.airflow.NAME` shows examples and return values as well.",
        table(["Module", "What it does"], rows),
    ]
    for one in documented:
        blocks += [f"## {one['module']}", "\n".join(f"- {prose(line)}" for line in one["description"])]
        options = list(option_rows(one.get("options") or {}))
        blocks.append(table(["Option", "Type", "Default", "Meaning"], options) if options else "No options.")
    return "\n\n".join(blocks) + "\n"


def documentation(path: Path) -> Data:
    """Return the DOCUMENTATION of a module, with that of its fragment, which are read and not run."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DOCUMENTATION":
            found = dict(yaml.safe_load(ast.literal_eval(node.value)))
            if fragment := found.get("extends_documentation_fragment"):
                shared = documentation(ROOT / "plugins" / "doc_fragments" / f"{fragment.rpartition('.')[2]}.py")
                found["options"] = {**shared["options"], **found["options"]}
            return found
    raise ValueError(f"{path} has no DOCUMENTATION")


# -- Markdown -------------------------------------------------------------------------------------------------------


def prose(text: str | Sequence[str]) -> str:
    """Return Ansible's markup as Markdown; several paragraphs as one."""
    joined = text if isinstance(text, str) else " ".join(text)
    plain = re.sub(r"\s+", " ", joined).strip()
    return re.sub(r"\b(?:RV|[CVOMBI])\(([^)]*)\)", r"`\1`", plain)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def load(path: str) -> Any:
    """Return the content of a YAML file of the checkout."""
    return yaml.safe_load((ROOT / path).read_text())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
