"""Kernel settings that Redis asks for: the role's own tasks, with files and programs in place of the kernel's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.playbook import run_play

from .collection import CHECKOUT, load

# somaxconn, overcommit_memory, transparent huge pages
HOSTS: dict[str, tuple[str, str, str]] = {
    "fresh": ("128", "0", "[always] madvise never"),
    "huge": ("4096", "1", "[always] madvise never"),
    "small": ("512", "1", "always [madvise] never"),
    "right": ("4096", "1", "always [madvise] never"),
    "container": ("128", "0", "[always] madvise never"),
}
APPLIED = ["sysctl --load=/etc/sysctl.d/60-redis.conf", "systemd-tmpfiles --create redis-huge-pages.conf"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of one run of these tasks over all hosts."""
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "bin").mkdir()
    for name in ("sysctl", "systemd-tmpfiles"):
        (folder / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls-$HOST\n')
        (folder / "bin" / name).chmod(0o755)
    hosts: dict[str, Any] = {}
    for host, texts in HOSTS.items():
        paths = [folder / f"{host}-{number}" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text + "\n")
        hosts[host] = {
            "kernel_files": [str(path) for path in paths],
            "cluster_host": {"container": host == "container", "os": {"version_id": "12"}},
        }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    # The first task writes the files, which the golden tests have.
    tasks = load(CHECKOUT / "roles/redis/tasks/kernel.yml")[1:]
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [str(CHECKOUT / "roles/redis/vars/main.yml")],
        "environment": {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOST": "{{ inventory_hostname }}"},
        "tasks": [{"vars": {"__redis_kernel_files": "{{ kernel_files }}"}, "block": tasks}],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    done = run_play(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.parametrize("host", HOSTS)
def test_applied_where_they_differ_and_the_host_allows(host: str, run: tuple[Path, str]) -> None:
    folder, said = run
    calls = folder / f"calls-{host}"
    applied = calls.read_text().splitlines() if calls.exists() else []
    assert applied == (APPLIED if host in ("fresh", "huge", "small") else [])
    recap = next(line for line in said.splitlines() if line.startswith(f"{host} ") and "changed=" in line)
    assert ("changed=1" in recap) is bool(applied), recap


def test_said_where_the_host_does_not(run: tuple[Path, str]) -> None:
    said = " ".join(run[1].split())
    assert said.count("is a container: its kernel keeps") == 1
    assert "at 128, 0, [always] madvise never instead of 4096, 1, madvise. Set them on the machine below it." in said
