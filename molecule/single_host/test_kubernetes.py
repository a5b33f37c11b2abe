"""KubernetesExecutor beside LocalExecutor, with a stand-in for the cluster: it has an API, and pods are processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import INVENTORY, Api, can_read, changes, leaked, wait_until

FILES = Path(__file__).parent / "files"
# Of its own: the other DAGs are delivered where there is no such executor, and this one cannot be imported there.
POD_DAGS = ("-e", f"airflow_dags={FILES / 'pod_dags'}")
PORT = 6443
TOKEN = "token-of-the-lab"  # noqa: S105  the stand-in's
FOLDER = "/run/stand-in"
SETTINGS = """---
airflow_executor: LocalExecutor,KubernetesExecutor
airflow_extras: [celery, cncf.kubernetes, fab, git, http, postgres, redis, smtp, ssh, statsd]
airflow_kubernetes_kubeconfig: "{{ inventory_dir }}/kubeconfig"
airflow_kubernetes_namespace: tasks
airflow_kubernetes_worker_container_repository: registry.example.org:5000/airflow
"""
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "main",
    "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{PORT}"}}],
    "users": [{"name": "robot", "user": {"token": TOKEN}}],
    "contexts": [{"name": "main", "context": {"cluster": "here", "user": "robot"}}],
}


@pytest.mark.long
def test_a_task_runs_in_what_stands_in_for_a_pod(cluster, web_url):
    cluster.change("group_vars/all/executors.yml", SETTINGS)
    output = cluster.play("playbooks/preflight.yml", succeeds=False)
    for words in (
        "airflow_kubernetes_kubeconfig",
        "which is missing on the control node",
        "cncf-kubernetes] is wanted",
    ):
        assert words in output, words
    # The shipped lock, whatever the first try of this test left.
    cluster.play("playbooks/lock.yml", "--limit", "control1")
    cluster.change("kubeconfig", json.dumps(KUBECONFIG))
    (INVENTORY / "kubeconfig").chmod(0o600)

    control = cluster.host("control1")
    control.run_expect([0], "cat > /opt/stand_in.py <<'END'\n" + (FILES / "kubernetes.py").read_text() + "\nEND")
    unit = "systemd-run --unit=stand-in --uid=airflow --property=RuntimeDirectory=stand-in"
    control.check_output(f"{unit} /usr/bin/python3 /opt/stand_in.py {PORT} {FOLDER}")
    output = cluster.play("site.yml", "--diff", "-vvv", *POD_DAGS)
    assert leaked({"token": TOKEN}, output) == []
    kubeconfig = control.file("/etc/airflow/kubernetes/kubeconfig")
    assert (kubeconfig.user, kubeconfig.group, kubeconfig.mode) == ("root", "airflow", 0o640)
    assert control.run("runuser -u nobody -- cat /etc/airflow/kubernetes/kubeconfig").rc != 0
    units = ("airflow-api-server", "airflow-dag-processor", "airflow-scheduler", "airflow-triggerer")
    readers = [unit for unit in units if can_read(control, unit, kubeconfig.path)]
    assert readers == ["airflow-api-server", "airflow-scheduler"]
    assert changes(cluster.play("site.yml", *POD_DAGS)) == 0

    api = Api(web_url, "admin", cluster.secrets["airflow_admin_password"])
    run = api.start_dag("pod")
    wait_until(lambda: api.ask("GET", run)[1]["state"] in ("success", "failed"), 120)
    (task,) = api.tasks(run)
    assert task["state"] == "success", control.run(f"tail -n 50 {FOLDER}/pod.log").stdout
    pod = json.loads(control.file(f"{FOLDER}/pod.json").content_string)
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "registry.example.org:5000/airflow:3.3.2"
    assert pod["metadata"]["namespace"] == "tasks"
    assert leaked(cluster.secrets, json.dumps(pod)) == [], "a pod holds no secret of the cluster"
    output = cluster.play("playbooks/verify.yml", *POD_DAGS)
    assert "No canary ran in a pod" in output

    for path in ("group_vars/all/executors.yml", "kubeconfig", "airflow-lock.txt"):
        (INVENTORY / path).unlink()
    cluster.play("site.yml")
    for path in ("/etc/airflow/kubernetes/kubeconfig", "/etc/airflow/pod_template.yaml"):
        assert not control.file(path).exists
    control.check_output("systemctl stop stand-in; rm /opt/stand_in.py")
    cluster.play("playbooks/verify.yml")
