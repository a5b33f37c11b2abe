"""The report of verify.yml, as the control node writes it: the real tasks, with a canary that ran before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.playbook import run_playbook

TASK = {"task": "left", "host": "control1", "scheduled": 0, "queued": 0, "start": 0.5, "end": 2, "slots": 1}
HOSTS: dict[str, Any] = {
    name: {"hosts": {"control1": {}}}
    for name in ("schedulers", "webservers", "dag_processors", "triggerers", "postgresql")
}
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: dataops.airflow.cluster, tasks_from: report}
      vars: {__cluster_report_file: "{{ report | default('') }}"}
"""
RAN = {"run": "manual__1", "tasks": [TASK], "seconds": 2.0, "overlap": 1.0, "by_host": {"control1": 1}}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an inventory and a playbook, in which the canary ran."""
    hosts = {"all": {"children": HOSTS, "vars": {"__airflow_canary_run": RAN}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    (tmp_path / "play.yml").write_text(PLAY)
    return tmp_path


def run(site: Path, *arguments: str) -> tuple[int, str]:
    """Run the play; its status and what it said."""
    done = run_playbook(site, "-i", "hosts.yml", "-c", "local", "play.yml", *arguments, PWD=str(site))
    return done.returncode, done.stdout + done.stderr


def test_a_report_is_written_where_it_was_asked_for(site: Path) -> None:
    status, said = run(site, "-e", "report=report.html")
    assert status == 0, said
    page, picture = (site / "report.html").read_text(), (site / "report.svg").read_text()
    assert "Canary manual__1: 1 tasks succeeded" in page and "<td>left</td>" in page
    # Without Celery, the scheduler's own slots.
    for drawn in (page, picture):
        assert "control1: 1 task, at most 1 of 32 slots at once" in drawn


@pytest.mark.parametrize("arguments", [(), ("--check", "-e", "report=report.html")])
def test_otherwise_nothing_is_written(site: Path, arguments: tuple[str, ...]) -> None:
    status, said = run(site, *arguments)
    assert status == 0, said
    assert [path for path in site.iterdir() if path.suffix in (".html", ".svg")] == []


@pytest.mark.parametrize(
    ("name", "told"),
    [("report.pdf", "end it with .html"), ("nowhere/report.html", "there is no folder")],
)
def test_what_cannot_be_written_is_refused(site: Path, name: str, told: str) -> None:
    status, said = run(site, "-e", f"report={name}")
    assert status != 0 and told in said, said
