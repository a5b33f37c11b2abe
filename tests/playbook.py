"""Runs ansible-playbook without its start: a process that has imported Ansible forks one that runs the playbook.

The imports take longer than most plays of the tests.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

CHECKOUT = Path(__file__).resolve().parents[1]
COLLECTIONS = CHECKOUT / ".ansible/collections"
KINDS = ("action", "become", "callback", "connection", "inventory", "lookup", "shell", "strategy")
"""The plugins that are read before the first playbook. Not `vars`: Ansible would have none of them then."""


def run_playbook(
    folder: Path, *arguments: str, collections: Path = COLLECTIONS, config: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook in a folder, with nothing of this user's or this process's settings.

    :param collections: where Ansible finds collections.
    :param config: an ansible.cfg.
    :param environment: further variables that the playbook sees, but none that Ansible takes its settings from.
    """
    with tempfile.TemporaryDirectory() as outputs:
        paths = [f"{outputs}/{name}" for name in ("stdout", "stderr")]
        server = start(collections, config)
        assert server.stdin and server.stdout
        print(json.dumps([[*map(str, arguments)], str(folder), environment, paths]), file=server.stdin, flush=True)
        status = server.stdout.readline()
        assert status, "the process that runs playbooks has ended"
        stdout, stderr = (Path(path).read_text() for path in paths)
    return subprocess.CompletedProcess(arguments, int(status), stdout, stderr)


def run_play(folder: Path, *arguments: str, collections: Path = COLLECTIONS) -> subprocess.CompletedProcess[str]:
    """Run ``play.yml`` of a folder on this machine, as every host of its ``hosts.yml``."""
    return run_playbook(folder, "-i", "hosts.yml", "-c", "local", "play.yml", *arguments, collections=collections)


@cache
def start(collections: Path, config: Path | None) -> subprocess.Popen[str]:
    """Start the process that forks; one for each of Ansible's settings, which it reads when it is imported."""
    environment = {
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "LC_ALL": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **({"ANSIBLE_CONFIG": str(config)} if config else {}),
    }
    return subprocess.Popen(
        # Without the folder of this file among the paths of imports.
        [sys.executable, "-P", __file__],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def serve() -> None:
    """Run the playbook that each line of the standard input asks for, and answer with its status."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home
        os.chdir(home)
        warm_up()
        for line in sys.stdin:
            child = os.fork()
            if not child:
                become_playbook(*json.loads(line))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def warm_up() -> None:
    """Import what each playbook needs, and its own processes for the tasks after it."""
    import ansible.cli.playbook
    from ansible import constants
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins import loader
    from ansible.template import Templar, trust_as_template

    loader.init_plugin_loader()
    # It warns when it is called again.
    ansible.cli.init_plugin_loader = lambda _paths: None
    for plugins in (getattr(loader, f"{kind}_loader") for kind in KINDS):
        list(plugins.all(class_only=True))
    Templar(DataLoader(), {}).template(trust_as_template("{{ [1] | map('string') | list is defined }}"))
    keep_compiled_templates(Path.home())
    # Ansible looks for results of tasks each millisecond, and takes the processor from those that work on them.
    constants.DEFAULT_INTERNAL_POLL_INTERVAL = 0.005
    # The playbooks are short: what they leave takes less time than looking for it, in each process anew.
    gc.disable()
    gc.freeze()


def keep_compiled_templates(folder: Path) -> None:
    """Let the processes of all tasks, which all evaluate the same variables, compile each template once."""
    import jinja2
    from ansible._internal._templating._jinja_bits import _TemplateCompileContext

    kept = jinja2.FileSystemBytecodeCache(str(folder))
    compile_template = jinja2.Environment.compile

    def compile_once(environment: jinja2.Environment, source: Any, *options: Any, **more: Any) -> Any:
        # Only text has a name for it; Ansible changes the settings of an environment in an overlay alone.
        if not isinstance(source, str) or environment.overlayed or any(options) or any(more.values()):
            return compile_template(environment, source, *options, **more)
        context = _TemplateCompileContext.current(optional=True)
        name = f"{type(environment).__name__} {context and context.escape_backslashes} {source}"
        bucket = kept.get_bucket(environment, name, None, source)
        if bucket.code is None:
            bucket.code = compile_template(environment, source)
            kept.set_bucket(bucket)
        return bucket.code

    jinja2.Environment.compile = compile_once  # type: ignore[method-assign, assignment]


def become_playbook(arguments: list[str], folder: str, environment: dict[str, str], outputs: list[str]) -> NoReturn:
    """Go on as ansible-playbook."""
    from ansible.cli.playbook import PlaybookCLI

    status: Any = 1
    try:
        for descriptor, path in enumerate([os.devnull, *outputs]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
        os.chdir(folder)
        os.environ.update(environment)
        PlaybookCLI.cli_executor(["ansible-playbook", *arguments])
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
