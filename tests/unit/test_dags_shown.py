"""dags_shown: one request for a parse, several pages, DAGs that come later or never, and an API that refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import dags_shown


class Api(BaseHTTPRequestHandler):
    """Shows DAGs; a request for a parse brings those that wait."""

    dags: dict[str, str]
    waiting: dict[str, str]
    requests: list[str]
    refusal: int

    def answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(self.refusal or 201, {"access_token": "t0ken"})

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        names = sorted(name for name, bundle in self.dags.items() if bundle == query["bundle_name"])
        page = names[int(query["offset"]) :][: int(query["limit"])]
        self.answer(200, {"dags": [{"dag_id": n, "file_token": f"to/{n}"} for n in page], "total_entries": len(names)})

    def do_PUT(self) -> None:
        self.requests.append(self.path)
        self.dags.update(self.waiting)
        self.answer(201, None)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[type[Api]]:
    """The API's class, whose attributes are what it knows; `url` is where it answers."""
    handler = type("Handler", (Api,), {"dags": {}, "waiting": {}, "requests": [], "refusal": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        yield handler
        server.shutdown()


@pytest.fixture
def run(api: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The module's answer."""

    def call(**args: Any) -> dict[str, Any]:
        arguments = {"url": api.url, "username": "admin", "password": "pw", "timeout": 1, **args}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            dags_shown.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the module warns of; Ansible keeps that by process."""
    found: list[str] = []
    monkeypatch.setattr(dags_shown.AnsibleModule, "warn", lambda _module, text: found.append(text))
    return found


def test_new_dags_come_with_the_request(api: Any, run: Callable[..., dict[str, Any]], warnings: list[str]) -> None:
    api.dags = {"old": "dags-folder", "dataops_canary": "canary"}
    api.waiting = {"new": "dags-folder"}
    answer = run(dags=["old", "new"])
    assert (answer["missing"], answer["changed"], warnings) == ([], False, [])
    assert api.requests == ["/api/v2/parseDagFile/to%2Fold"]


def test_changed_files_are_parsed_too(api: Any, run: Callable[..., dict[str, Any]]) -> None:
    api.dags = {"old": "dags-folder"}
    assert run(dags=["old"])["missing"] == [] and len(api.requests) == 1


def test_many_dags(api: Any, run: Callable[..., dict[str, Any]]) -> None:
    names = [f"dag{number}" for number in range(250)]
    api.dags = dict.fromkeys(names, "dags-folder")
    assert run(dags=names)["missing"] == []


def test_a_dag_that_does_not_come(api: Any, run: Callable[..., dict[str, Any]], warnings: list[str]) -> None:
    answer = run(dags=["lost"])
    assert answer["missing"] == ["lost"] and "does not show lost" in warnings[-1]
    assert api.requests == [], "nothing is known that could be asked for"


def test_check_mode_asks_nothing(api: Any, run: Callable[..., dict[str, Any]]) -> None:
    api.dags = {"old": "dags-folder"}
    run(dags=["lost"], _ansible_check_mode=True)
    assert api.requests == []


def test_an_api_that_refuses(api: Any, run: Callable[..., dict[str, Any]], warnings: list[str]) -> None:
    api.refusal = 401
    answer = run(dags=["lost"])
    assert "failed" not in answer and answer["missing"] == ["lost"]
    assert "The API cannot be asked" in warnings[-1] and "401" in warnings[-1]
