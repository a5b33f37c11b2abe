"""DAGs come from a git repository: one commit everywhere, none that cannot be imported, and back again.

With one host in the scenario `single_host`, with three in `concurrency`.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import SCENARIO, TOP, Cluster, changes, restarted, wait_until

ROOT = "/opt/airflow/dags"
DAG = """
from airflow.sdk import DAG, task
{imports}
with DAG("{name}", schedule=None):
    @task
    def say():
        print("{text}")
    say()
"""


class Repository:
    """A repository on the control node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        """Run git in it."""
        names = [f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
        environment = {**os.environ, **dict.fromkeys(names, "a@example.org")}
        argv = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    def commit(self, **dags: str) -> str:
        """Add DAG files, by name and text, and commit them."""
        (self.folder / "dags").mkdir(exist_ok=True)
        for name, text in dags.items():
            (self.folder / "dags" / f"{name}.py").write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "work")
        return self.git("rev-parse", "HEAD")


def dag(name: str, text: str = "one", imports: str = "") -> str:
    """Text of a DAG file."""
    return DAG.format(name=name, text=text, imports=imports)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with the first commit."""
    found = Repository(tmp_path_factory.mktemp("repository"))
    found.first = found.commit(first_of_repository=dag("first_of_repository"))  # type: ignore[attr-defined]
    return found


def source(url: str | Repository, **more: Any) -> tuple[str, str]:
    """The repository in place of the inventory's folder."""
    if isinstance(url, Repository):
        url, more = f"file://{url.folder}", {"path": "dags", "ref": "main", **more}
    named = {f"airflow_dags_git_{name}": value for name, value in {"url": url, **more}.items()}
    return "-e", json.dumps({"airflow_dags": "", **named})


def deployed(cluster: Cluster) -> set[str]:
    """The commits that the hosts have."""
    command = f'cat "{ROOT}/$(readlink {ROOT}/current).revision"'
    return {cluster.host(host).check_output(command) for host in cluster.variables}


def state(cluster: Cluster) -> dict[str, str]:
    """All that a delivery may change."""
    command = f"find {ROOT} -printf '%p %l %T@\\n' | sort"
    return {host: cluster.host(host).check_output(command) for host in cluster.variables}


def shows(api: Any, name: str) -> bool:
    """Whether the API shows a DAG that is in a file that is there."""
    status, found = api.ask("GET", f"/api/v2/dags/{name}")
    return status == 200 and not found["is_stale"]


@pytest.fixture(scope="module", autouse=True)
def _as_before(cluster: Cluster) -> Iterator[None]:
    """Deliver the folder of the inventory again."""
    yield
    cluster.play("playbooks/dags.yml")


def test_one_commit_everywhere_and_its_dags_at_once(cluster, api, repository):
    before = cluster.started()
    planned = cluster.play("playbooks/dags.yml", "--check", "--diff", *source(repository))
    assert changes(planned) > 0 and "first_of_repository.py" in planned
    assert not cluster.host("control1").run(f"grep -r {repository.first} {ROOT}").succeeded

    cluster.play("playbooks/dags.yml", *source(repository))
    end = time.monotonic()
    wait_until(lambda: shows(api, "first_of_repository"), 5)
    print(f"shown {time.monotonic() - end:.1f} s after the delivery")
    assert deployed(cluster) == {repository.first}
    for host in cluster.variables:
        assert cluster.host(host).check_output(f"ls {ROOT}/current/") == "first_of_repository.py"
    assert restarted(before, cluster.started()) == set()
    again = cluster.play("playbooks/dags.yml", *source(repository))
    assert changes(again) == 0
    api.run_dag("first_of_repository")

    output = cluster.play("playbooks/verify.yml", *source(repository))
    assert f"of commit {repository.first} on {len(cluster.variables)} host" in output


def test_a_host_with_another_commit_is_named(cluster, repository):
    host = list(cluster.variables)[-1]
    file = f"{ROOT}/$(readlink {ROOT}/current).revision"
    cluster.host(host).check_output(f'echo {"0" * 40} > "{file}"')
    if len(cluster.variables) > 1:
        output = cluster.play("playbooks/verify.yml", *source(repository), succeeds=False)
        assert "one commit of the DAGs" in output and "0" * 40 in output and repository.first in output
    assert changes(cluster.play("playbooks/dags.yml", *source(repository))) == 1
    assert deployed(cluster) == {repository.first}


def test_a_commit_that_cannot_be_imported(cluster, api, repository):
    second = repository.commit(
        first_of_repository=dag("first_of_repository", "two"),
        second_of_repository=dag("second_of_repository"),
        broken=dag("broken", imports="import no_such_package"),
    )
    current = cluster.host("control1").check_output(f"readlink {ROOT}/current")
    for playbook in ("playbooks/dags.yml", "site.yml"):
        output = cluster.play(playbook, *source(repository), succeeds=False)
        for words in (
            "The DAGs were not switched, because 1 of 3 files cannot be imported.",
            "found:   broken.py:3: ModuleNotFoundError: No module named 'no_such_package'",
            "-e airflow_dags_force=true",
        ):
            assert words in output, words
        assert deployed(cluster) == {repository.first}
        assert cluster.host("control1").check_output(f"readlink {ROOT}/current") == current
    assert not shows(api, "second_of_repository")
    assert (
        cluster.host("control1").check_output("systemctl list-units --all --plain --no-legend 'airflow-dags-*'") == ""
    )
    assert cluster.host("control1").check_output("ls -d /run/airflow-dags-* 2>/dev/null || true") == ""

    output = cluster.play("playbooks/dags.yml", *source(repository), "-e", "airflow_dags_force=true")
    assert "Switched by force" in output
    assert deployed(cluster) == {second} and shows(api, "second_of_repository")
    errors = "/api/v2/importErrors?limit=100"
    wait_until(lambda: "no_such_package" in json.dumps(api.ask("GET", errors)[1]), 30)
    api.run_dag("first_of_repository")


def test_back_to_the_commit_before(cluster, api, repository):
    before = cluster.started()
    cluster.play("playbooks/dags_rollback.yml", "--check", *source(repository))
    assert deployed(cluster) != {repository.first}
    output = cluster.play("playbooks/dags_rollback.yml", *source(repository))
    assert deployed(cluster) == {repository.first}
    assert f"of commit {repository.first}" in output.replace("\n", " ") and "airflow_dags_git_ref" in output
    wait_until(lambda: not shows(api, "second_of_repository"), 30)
    wait_until(lambda: "no_such_package" not in json.dumps(api.ask("GET", "/api/v2/importErrors?limit=100")[1]), 30)
    assert shows(api, "first_of_repository")
    assert restarted(before, cluster.started()) == set()
    kept = state(cluster)
    output = cluster.play("playbooks/dags_rollback.yml", *source(repository), succeeds=False)
    assert "No host was switched" in output and "none" in output and state(cluster) == kept


class Closed(BaseHTTPRequestHandler):
    """A server that wants a login."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="dags"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


def test_what_cannot_be_delivered_changes_nothing(cluster, repository, tmp_path):
    kept = state(cluster)

    def refused(*arguments: str, playbook: str = "playbooks/dags.yml") -> str:
        output = cluster.play(playbook, *arguments, succeeds=False)
        for word in ("found:", "allowed:", "remedy:"):
            assert word in output, output[-3000:]
        assert changes(output) == 0 and state(cluster) == kept
        return output

    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for playbook in ("playbooks/dags.yml", "site.yml"):
            output = refused(*source(f"http://127.0.0.1:{server.server_port}/dags.git"), playbook=playbook)
            assert "the server wants a login, and airflow_dags_git_password is not set" in output
        server.shutdown()
    # A server whose key is known, and that knows none of ours.
    address = cluster.address("control1")
    known = (TOP / ".lab" / SCENARIO / "known_hosts").read_text()
    url = f"ssh://nobody-here@{address}/dags.git"
    assert "airflow_dags_git_key is not set" in refused(*source(url, known_hosts=known))
    assert "airflow_dags_git_known_hosts" in refused(*source(url, known_hosts="elsewhere ssh-ed25519 AAAA"))
    assert "which is missing" in refused("-e", "airflow_dags=/nonexistent")
    assert "couldn't find remote ref nowhere" in refused(*source(repository, ref="nowhere"))
    (tmp_path / "broken.py").write_text(dag("broken", imports="import no_such_package"))
    output = cluster.play("playbooks/dags.yml", "-e", f"airflow_dags={tmp_path}", succeeds=False)
    assert "broken.py:3: ModuleNotFoundError" in output and deployed(cluster) == {repository.first}


def test_a_host_that_joins_alone_gets_the_commit_of_the_others(cluster, repository, tmp_path):
    workers = cluster.members("workers")
    if not workers:
        pytest.skip("there is one host")
    output = cluster.play("playbooks/dags.yml", "--limit", workers[0], *source(repository), succeeds=False)
    assert "every host must have the same ones" in output
    (tmp_path / "other.py").write_text(dag("other"))
    kept = state(cluster)
    output = cluster.play("site.yml", "--limit", workers[0], "-e", f"airflow_dags={tmp_path}", succeeds=False)
    assert "would get other DAGs than those that it leaves out" in output and state(cluster) == kept
    newest = repository.commit(broken=dag("mended"))
    cluster.host(workers[0]).check_output(f"rm -r {ROOT}")
    cluster.play("site.yml", "--limit", workers[0], *source(repository))
    assert deployed(cluster) == {repository.first}
    cluster.play("playbooks/dags.yml", *source(repository))
    assert deployed(cluster) == {newest}


def serve(cluster: Cluster, repository: Repository, folder: Path) -> None:
    """Put the repository, as it is now, onto every host."""
    bare = folder / "dags.git"
    if not bare.exists():
        repository.git("clone", "--quiet", "--bare", str(repository.folder), str(bare))
    repository.git("push", "--quiet", str(bare), "main")
    for host in cluster.variables:
        packed = subprocess.run(["tar", "c", "-C", str(folder), "dags.git"], check=True, capture_output=True).stdout
        ssh = ["ssh", "-F", str(TOP / ".lab" / SCENARIO / "ssh_config"), host]
        unpack = "tar x -C /srv --no-same-owner && chown -R airflow: /srv/dags.git"
        subprocess.run([*ssh, unpack], input=packed, check=True)


@pytest.mark.long
def test_a_bundle_that_is_a_repository(cluster, api, repository, tmp_path):
    """Airflow fetches it by itself, keeps it over a restart, and its tasks run with the commit of their run."""
    repository.git("rm", "--quiet", "-r", "dags")
    repository.commit(from_bundle=dag("from_bundle", "first"))
    serve(cluster, repository, tmp_path)
    kwargs = {"repo_url": "file:///srv/dags.git", "tracking_ref": "main", "subdir": "dags", "refresh_interval": 5}
    bundle = {"name": "team", "classpath": "airflow.providers.git.bundles.git.GitDagBundle", "kwargs": kwargs}
    bundles = ("-e", json.dumps({"airflow_dag_bundles": [bundle]}))
    try:
        cluster.play("site.yml", *bundles)
        wait_until(lambda: shows(api, "from_bundle"), 90)
        api.run_dag("from_bundle")
        versions = api.ask("GET", "/api/v2/dags/from_bundle/dagVersions")[1]["dag_versions"]
        assert [version["bundle_name"] for version in versions] == ["team"]
        assert versions[0]["bundle_version"] == repository.git("rev-parse", "HEAD")

        head = repository.commit(later=dag("later_in_bundle"))
        serve(cluster, repository, tmp_path)
        begun = time.monotonic()
        wait_until(lambda: shows(api, "later_in_bundle"), 60)
        print(f"a commit was shown {time.monotonic() - begun:.0f} s after it was there")
        found = api.ask("GET", "/api/v2/dags/later_in_bundle/dagVersions")[1]["dag_versions"]
        assert found[0]["bundle_version"] == head
        control = cluster.host("control1")
        kept = control.check_output("find /var/lib/airflow/bundles/team -name HEAD -path '*bare*' | head -1")
        assert kept, "the clone is where a restart leaves it"
        assert changes(cluster.play("site.yml", *bundles)) == 0
    finally:
        cluster.play("site.yml")
    wait_until(lambda: not shows(api, "from_bundle"), 60)


@pytest.mark.long
def test_a_deploy_key(cluster, repository, tmp_path):
    """It is used for the fetch alone: nobody sees it, and nothing keeps it."""
    serve(cluster, repository, tmp_path)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    control = cluster.host("control1")
    control.check_output("command -v git && git config --global --add safe.directory /srv/dags.git")
    key, public = ((tmp_path / name).read_text() for name in ("key", "key.pub"))
    url, known = f"ssh://root@{cluster.address('control1')}/srv/dags.git", TOP / ".lab" / SCENARIO / "known_hosts"
    wanted = source(url, path="dags", ref="main", known_hosts=known.read_text(), key=key)
    try:
        # Another key than the one that the server knows.
        output = cluster.play("playbooks/dags.yml", *wanted, succeeds=False)
        assert "airflow_dags_git_key" in output and "remedy:" in output
        control.check_output("umask 077; printf %%s %s > /root/.ssh/authorized_keys2", public)
        output = cluster.play("playbooks/dags.yml", "--diff", *wanted, environment={"ANSIBLE_VERBOSITY": "3"})
    finally:
        control.check_output("rm -f /root/.ssh/authorized_keys2")
    assert deployed(cluster) == {repository.git("rev-parse", "HEAD")}
    secret = key.splitlines()[2]
    assert secret not in output
    for place in (Path.home() / ".cache", TOP / ".ansible/tmp", TOP / ".cache"):
        found = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "-e", secret, str(place)]
        assert not place.exists() or subprocess.run(found, capture_output=True, check=False).stdout == b"", place
