"""Renders every file that the roles write for some inventories, without hosts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml
from xdist.scheduler import LoadScopeScheduling

from tests.playbook import run_playbook

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
EXPECTED = HERE / "expected"
INVENTORIES = {
    "cluster": CHECKOUT / "inventories/cluster",
    "single_host": CHECKOUT / "inventories/single_host",
    "awkward": HERE / "inventories/awkward",
    "executors": HERE / "inventories/executors",
    "tls": HERE / "inventories/tls",
}
RENEW = "pytest tests/golden --renew"

# What a run learns from the hosts.
PROBE = {
    "memory_bytes": 4 * 1024**3,
    "python": {"version": "3.11", "full": "3.11.2"},
    "os": {"id": "debian", "version_id": "12", "pretty": "Debian GNU/Linux 12 (bookworm)"},
    "systemd": 252,
    "cpus": 2,
    "container": False,
    "package_lists": True,
    "packages": [],
    "broker": False,
    "sqlite": False,
    "database": "",
    "firewall": False,
    "haproxy": "",
    "workers": [],
    # What the names in these inventories lead to.
    "addresses": {
        "db1": ["10.0.0.1"],
        "control1": ["10.0.0.11"],
        "worker1": ["10.0.0.21"],
        "worker2": ["10.0.0.22", "fd00::22"],
        "flower.example.org": ["10.0.0.31"],
        "plain.example.org": ["fd00::22"],
        **{address: [address] for address in ("10.0.0.1", "10.0.0.11", "10.0.0.12", "10.0.0.21", "10.0.0.23")},
    },
}
ANSWERS = {
    "file_set": {},
    "host_probe": {"probe": PROBE},
    "release": {"previous": "releases/3.3.2-previous"},
    "unit_state": {"unexpected": [], "attention": [], "stopped": []},
}
KEPT = {*ANSWERS, "validate_inventory", "import_tasks", "include_tasks"}
"""Modules whose tasks are run; validate_inventory is the real one, which reads the inventory alone."""
# A task that would connect fails.
NO_HOSTS = {"ansible_connection": "ssh", "ansible_ssh_executable": "/bin/false"}


class Loader(yaml.SafeLoader):
    """Knows Ansible's tag for text that is not a template."""


class NotRenderedError(Exception):
    """Ansible's output of a run that failed."""


class Dumper(yaml.SafeDumper):
    """Indents lists, as yamllint wants it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


Loader.add_constructor("!unsafe", lambda loader, node: node.value)


def load(path: Path) -> Any:
    """Content of a YAML file."""
    return yaml.load(path.read_text(), Loader)  # noqa: S506  a SafeLoader


def dump(data: Any) -> str:
    """YAML that yamllint accepts."""
    return "---\n# yamllint disable rule:line-length\n" + yaml.dump(
        data, Dumper=Dumper, sort_keys=True, allow_unicode=True, width=150
    )


VERBATIM = {
    path.read_text(): str(path.relative_to(CHECKOUT))
    for path in [*CHECKOUT.glob("roles/*/files/**/*.[ps][yh]"), CHECKOUT / "plugins/module_utils/fingerprint.py"]
}
"""Files that are copied as they are: git has them once."""
SECRETS: dict[str, str] = load(HERE / "secrets.yml")


@dataclass
class Host:
    """What one host gets."""

    name: str
    derived: dict[str, Any]
    entries: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def files(self) -> dict[str, str]:
        """Path to text."""
        return {entry["path"]: entry["content"] for entry in self.entries if "content" in entry}

    @cached_property
    def environments(self) -> dict[str, str]:
        """Component to the text of its environment file."""
        return {Path(path).stem: text for path, text in self.files.items() if path.endswith(".env")}

    def tree(self) -> dict[str, str]:
        """What is compared with git: the files, and who owns them."""
        attributes, texts = [], {}
        for entry in self.entries:
            kept = {key: value for key, value in entry.items() if key != "content"}
            if "content" in entry and (source := VERBATIM.get(entry["content"])):
                kept["copy_of"] = source
            elif "content" in entry:
                texts[entry["path"].lstrip("/")] = entry["content"]
            attributes.append(kept)
        return {**texts, "attributes.yml": dump(attributes)}


def harmless(tasks: Any) -> list[dict[str, Any]]:
    """The tasks that this machine may run, in their order."""
    kept = []
    for task in tasks or []:
        names = {key.rpartition(".")[2] for key in task}
        if "block" in task:
            kept.append({**task, "block": harmless(task["block"])})
        elif names & KEPT:
            kept.append({key: value for key, value in task.items() if key != "notify"})
    return [{key: value for key, value in task.items() if key not in ("rescue", "always")} for task in kept]


def make_collection(root: Path) -> Path:
    """A collection like this one whose roles touch no host: what they would write is written down."""
    collection = root / "ansible_collections/dataops/airflow"
    (collection / "plugins/action").mkdir(parents=True)
    (collection / "playbooks").symlink_to(CHECKOUT / "playbooks")
    for part in ("filter", "module_utils", "modules"):
        (collection / "plugins" / part).symlink_to(CHECKOUT / "plugins" / part)
    for action in (CHECKOUT / "plugins/action").glob("*.py"):
        (collection / "plugins/action" / action.name).symlink_to(action)
    for module in ANSWERS:
        target = collection / "plugins/action" / f"{module}.py"
        target.unlink(missing_ok=True)
        target.symlink_to(HERE / "recorder.py")
    for role in (CHECKOUT / "roles").iterdir():
        folder = collection / "roles" / role.name
        folder.mkdir(parents=True)
        for part in ("defaults", "vars", "meta", "files", "templates"):
            if (role / part).exists():
                (folder / part).symlink_to(role / part)
        for path in (role / "tasks").rglob("*.yml"):
            copy = folder / path.relative_to(role)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(yaml.safe_dump(harmless(load(path))))
    return collection


def derived_playbook(collection: Path) -> Path:
    """A playbook that writes down every derived value of the role cluster, "undefined" where there is none."""
    names = [name for name in load(CHECKOUT / "roles/cluster/vars/main.yml") if not name.startswith("__")]
    content = "{{ {" + ", ".join(f"'{name}': {name} | default('undefined')" for name in names) + "} | to_json }}"
    play = {
        "hosts": "all",
        "gather_facts": False,
        "roles": ["dataops.airflow.cluster"],
        "tasks": [{"dataops.airflow.file_set": {"files": [{"path": "derived", "content": content}]}}],
    }
    path = collection.parent / "derived.yml"
    path.write_text(yaml.safe_dump([play]))
    return path


def render(name: str, root: Path) -> dict[str, Host]:
    """Run site.yml on one inventory and collect what each host would get."""
    inventory, records = root / "inventories" / name, root / "records" / name
    shutil.copytree(INVENTORIES[name], inventory, ignore=shutil.ignore_patterns("vault.yml"))
    (inventory / "group_vars/all").mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "secrets.yml", inventory / "group_vars/all/vault.yml")
    records.mkdir(parents=True)
    collection = root / "ansible_collections/dataops/airflow"
    if not collection.exists():
        make_collection(root)
        # What the inventories name by a path relative to their own.
        (root / "dags").symlink_to(CHECKOUT / "dags")
        (root / "authority.pem").symlink_to(HERE / "authority.pem")
    playbooks = [collection / "playbooks/site.yml", derived_playbook(collection)]
    done = run_playbook(
        root,
        *("-i", str(inventory), "-e", json.dumps(NO_HOSTS), *map(str, playbooks)),
        collections=root,
        config=CHECKOUT / "ansible.cfg",
        GOLDEN_RECORDS=str(records),
        GOLDEN_ANSWERS=json.dumps(ANSWERS),
    )
    if done.returncode:
        raise NotRenderedError(f"{name} does not render:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}")
    hosts = {}
    for path in sorted(records.iterdir()):
        *entries, derived = [json.loads(line) for line in path.read_text().splitlines()]
        values = derived["content"]
        hosts[path.stem] = Host(path.stem, json.loads(values) if isinstance(values, str) else values, entries)
    return hosts


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that renews the expected files."""
    parser.addoption("--renew", action="store_true", help="write the expected files of tests/golden anew")


class Scheduling(LoadScopeScheduling):
    """Gives a process a whole file; of those here, the tests of one inventory: it is rendered once."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        return next((name for name in INVENTORIES if "/golden/" in path and f"[{name}" in test), path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Define what `--dist loadscope` takes for a scope."""
    return Scheduling(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Host]]:
    """Function that renders an inventory, once for all tests."""
    root = tmp_path_factory.mktemp("golden")
    done: dict[str, dict[str, Host]] = {}
    failed: set[str] = set()

    def get(name: str) -> dict[str, Host]:
        if name in failed:
            pytest.fail(f"{name} does not render: see the first failure", pytrace=False)
        if name not in done:
            try:
                done[name] = render(name, root)
            except NotRenderedError as problem:
                failed.add(name)
                pytest.fail(str(problem), pytrace=False)
        return done[name]

    return get


@pytest.fixture(params=INVENTORIES)
def inventory(request: pytest.FixtureRequest) -> str:
    """Each inventory's name."""
    return str(request.param)


@pytest.fixture
def hosts(inventory: str, rendered: Callable[[str], dict[str, Host]]) -> dict[str, Host]:
    """Each inventory's hosts."""
    return rendered(inventory)
