"""Whom everybody talks to, and what HAProxy is told: the real expressions and the template of the roles."""

from __future__ import annotations

from typing import Any

import pytest
from expressions import CHECKOUT, evaluate

TEMPLATE = (CHECKOUT / "roles/haproxy/templates/haproxy.cfg.j2").read_text()
SETTINGS = {
    "ansible_managed": "Ansible managed",
    "cluster_address": "10.0.0.1",
    "cluster_balancer_port": 8081,
    "cluster_tls": False,
    "cluster_webserver_host": "",
    "cluster_webserver_port": 8080,
    "airflow_executor": "",
    "cluster_flower_port": 5555,
    "haproxy_certificate": "",
    "haproxy_check_interval": 1,
    "haproxy_https_port": 443,
    "haproxy_maxconn": 4000,
    "haproxy_stream_timeout": 600,
}


def site(webservers: list[str], balancers: list[str]) -> dict[str, Any]:
    """A site where control1 is 10.0.0.1, control2 has its name, and lb is 10.0.0.9."""
    addresses = {"control1": {"ansible_host": "10.0.0.1"}, "control2": {}, "lb": {"cluster_address": "10.0.0.9"}}
    groups = {"all": list(addresses), "webservers": webservers, "load_balancers": balancers}
    return {**SETTINGS, "groups": groups, "hostvars": addresses}


@pytest.mark.parametrize(
    ("webservers", "balancers", "own", "expected"),
    [
        (["control1"], [], "", "http://10.0.0.1:8080"),
        (["control2", "control1"], [], "", "http://control2:8080"),
        (["control1", "control2"], ["lb"], "", "http://10.0.0.9:8081"),
        (["control1", "control2"], ["control1"], "", "http://10.0.0.1:8081"),
        (["control1", "control2"], [], "airflow.example.org", "http://airflow.example.org:8081"),
        (["control1", "control2"], ["lb"], "airflow.example.org", "http://airflow.example.org:8081"),
    ],
)
def test_all_talk_to_one_url(webservers: list[str], balancers: list[str], own: str, expected: str) -> None:
    variables = {**site(webservers, balancers), "cluster_webserver_host": own}
    assert evaluate("{{ cluster_webserver_url }}", ("cluster",), variables) == expected
    address = evaluate("{{ cluster_webserver_address }}", ("cluster",), variables)
    assert address == expected.removeprefix("http://").rpartition(":")[0]


def test_each_api_server_is_a_server_of_the_balancer() -> None:
    text = evaluate(TEMPLATE, ("cluster", "haproxy"), site(["control1", "control2"], ["control1"]))
    lines = [line.strip() for line in text.splitlines()]
    assert "bind 10.0.0.1:8081" in lines
    assert [line for line in lines if line.startswith("server ")] == [
        "server control1 10.0.0.1:8080",
        "server control2 control2:8080",
    ]
    assert "option httpchk GET /execution/health" in lines
    # Nothing but a GET is sent a second time once a server may have read it.
    assert "retry-on conn-failure empty-response" in lines
    assert "http-request disable-l7-retry unless METH_GET" in lines


def proxy(settings: dict[str, Any], workers: list[str]) -> dict[str, Any]:
    """A site with a balancer of these settings."""
    known = site(["control1", "control2"], ["lb"])
    known["groups"] |= {"flower": ["control1"], "workers": workers}
    known["hostvars"]["lb"] |= settings
    return {**known, **settings, "group_names": ["load_balancers"], "cluster_address": "10.0.0.9"}


TLS = {"haproxy_certificate": "/site/airflow.pem", "haproxy_server_name": "airflow.example.org", "haproxy_flower": True}


@pytest.mark.parametrize(
    ("settings", "web", "flower"),
    [
        ({}, "http://10.0.0.9:8081", "http://10.0.0.1:5555"),
        ({"haproxy_flower": True}, "http://10.0.0.9:8081", "http://10.0.0.9:8081/flower"),
        ({"haproxy_certificate": "/site/airflow.pem"}, "https://10.0.0.9", "http://10.0.0.1:5555"),
        (TLS, "https://airflow.example.org", "https://airflow.example.org/flower"),
        ({**TLS, "haproxy_https_port": 8443}, "https://airflow.example.org:8443", None),
    ],
)
def test_where_people_find_it(settings: dict[str, Any], web: str, flower: str | None) -> None:
    known = proxy(settings, ["control2"])
    assert evaluate("{{ __cluster_ui_url }}", ("cluster",), known) == web
    assert evaluate("{{ __cluster_flower_url }}", ("cluster",), known) == (flower or f"{web}/flower")
    # Tasks and components go on as they were.
    assert evaluate("{{ cluster_webserver_url }}", ("cluster",), known) == "http://10.0.0.9:8081"


def section(text: str, name: str) -> list[str]:
    """Lines of a section of HAProxy's settings."""
    found, inside = [], False
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            inside = line == name
        elif inside and line.startswith(" "):
            found.append(line.strip())
    return found


def test_tls_and_flower() -> None:
    text = evaluate(TEMPLATE, ("cluster", "haproxy"), proxy(TLS, ["control2"]))
    https, http = section(text, "frontend airflow_https"), section(text, "frontend airflow_http")
    assert https[0] == "bind 10.0.0.9:443 ssl crt /etc/haproxy/airflow.pem alpn h2,http/1.1"
    assert 'http-response set-header Strict-Transport-Security "max-age=31536000"' in https
    assert not [line for line in http if "Strict-Transport-Security" in line]
    assert "http-request set-header X-Forwarded-Proto https" in https
    assert "http-request set-header X-Forwarded-Proto http" in http
    for lines in (https, http):
        denied = "http-request deny deny_status 403 if { path,url_dec -m beg /flower/healthcheck /flower/metrics }"
        assert lines.index(denied) < lines.index("use_backend flower if { path_beg /flower/ }")
        assert lines[-1] == "default_backend airflow"
        assert "http-response set-header X-Content-Type-Options nosniff" in lines
    assert section(text, "backend flower")[-1].startswith("server flower 10.0.0.1:5555 check")
    assert "http-request redirect prefix https://airflow.example.org code 301" in section(text, "frontend redirect")


def test_without_celery_there_is_no_flower() -> None:
    text = evaluate(TEMPLATE, ("cluster", "haproxy"), proxy({**TLS, "haproxy_certificate": ""}, []))
    assert "flower" not in text and "ssl" not in text and "frontend redirect" not in text
    assert "default_backend airflow" in text


HEADER = "Name: HAProxy\nVersion: 2.6.12\n\n# pxname,svname,qcur\n"


@pytest.mark.parametrize(
    ("answer", "states"),
    [
        (f"{HEADER}{{up}}\n{{down}}\n", {"control1": "UP, L7OK", "control2": "DOWN, L4CON"}),
        (HEADER, {}),
        ("", {}),
    ],
)
def test_the_states_of_the_servers_are_read(answer: str, states: dict[str, str]) -> None:
    blank = "," * 15
    text = answer.format(
        up=f"airflow,control1{blank},UP{blank},,,,L7OK,200",
        down=f"airflow,control2{blank},DOWN{blank},,,,L4CON,",
    )
    answered = {"__haproxy_running": {"stdout": text}}
    assert evaluate("{{ __haproxy_states }}", ("haproxy",), answered) == states
