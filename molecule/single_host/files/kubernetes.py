"""Stands in for a Kubernetes cluster: takes pods through its API, and runs each as a process with its environment.

usage: kubernetes.py PORT FOLDER   FOLDER/pod.json gets the last pod that was asked for
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
# What the image of the pods has: the packages, and the DAGs.
IMAGE = {
    "PATH": "/opt/airflow/current/bin:/usr/bin:/bin",
    "AIRFLOW_HOME": str(FOLDER),
    "AIRFLOW_CONFIG": str(FOLDER / "empty.cfg"),
    "AIRFLOW__CORE__DAGS_FOLDER": "/opt/airflow/dags/current",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(FOLDER / "logs"),
}
CHANGED = threading.Condition()
PODS: dict[str, dict[str, Any]] = {}
EVENTS: list[dict[str, Any]] = []
RESOURCE = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list", "watch"]}
KNOWN = {
    "/version": {"major": "1", "minor": "34"},
    "/version/": {"major": "1", "minor": "34"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [RESOURCE]},
}


def tell(name: str, phase: str) -> None:
    """Let those that watch know of a pod's phase."""
    with CHANGED:
        pod = json.loads(json.dumps(PODS[name]))
        pod["metadata"]["resourceVersion"] = str(len(EVENTS) + 1)
        pod["status"] = {"phase": phase}
        PODS[name] = pod
        EVENTS.append({"type": "MODIFIED", "object": pod})
        CHANGED.notify_all()


def run(name: str) -> None:
    """Run the only container of a pod."""
    (container,) = PODS[name]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    tell(name, "Running")
    with (FOLDER / "pod.log").open("w") as log:
        argv = ["/usr/bin/env", *container.get("command", []), *container["args"]]
        done = subprocess.run(argv, env={**IMAGE, **environment}, cwd=FOLDER, stdout=log, stderr=log, check=False)
    tell(name, "Failed" if done.returncode else "Succeeded")


class Api(BaseHTTPRequestHandler):
    """As much of it as the executor asks for."""

    protocol_version = "HTTP/1.1"

    def answer(self, content: Any, status: int = 200) -> None:
        """Send JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        """What came with a request; left unread, it would be taken for the start of the next one."""
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def chunk(self, body: bytes) -> None:
        """Send a part of an answer whose length nobody knows; an empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))

    def do_GET(self) -> None:
        """List, or watch until nothing happened for a while."""
        path, _, query = self.path.partition("?")
        if path in KNOWN:
            self.answer(KNOWN[path])
        elif "watch=true" not in urllib.parse.unquote(query).lower():
            head = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": str(len(EVENTS))}}
            self.answer({**head, "items": list(PODS.values())})
        else:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            sent = int((urllib.parse.parse_qs(query).get("resourceVersion") or ["0"])[0] or 0)
            while True:
                with CHANGED:
                    if len(EVENTS) <= sent and not CHANGED.wait(10):
                        self.chunk(b"")
                        return
                    events = EVENTS[sent:]
                for event in events:
                    if event["object"]["metadata"]["name"] not in PODS:
                        continue
                    self.chunk(json.dumps(event).encode() + b"\n")
                sent += len(events)

    def do_POST(self) -> None:
        """Take a pod, if it comes with the token of the kubeconfig."""
        pod = json.loads(self.body())
        if self.headers["Authorization"] != "Bearer token-of-the-lab":
            self.answer({"kind": "Status", "code": 401}, 401)
            return
        pod["metadata"] |= {"uid": pod["metadata"]["name"], "resourceVersion": "0"}
        PODS[pod["metadata"]["name"]] = {**pod, "status": {"phase": "Pending"}}
        (FOLDER / "pod.json").write_text(json.dumps(pod))
        self.answer(pod, 201)
        threading.Thread(target=run, args=(pod["metadata"]["name"],), daemon=True).start()

    def do_PATCH(self) -> None:
        """Take a label for set."""
        self.body()
        self.answer(PODS.get(self.path.partition("?")[0].rpartition("/")[2], {}))

    def do_DELETE(self) -> None:
        """Remove a pod."""
        self.body()
        PODS.pop(self.path.partition("?")[0].rpartition("/")[2], None)
        self.answer({"kind": "Status", "status": "Success"})


ThreadingHTTPServer(("127.0.0.1", PORT), Api).serve_forever()
