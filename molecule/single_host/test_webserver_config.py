"""How the API server finds out who a user is, as the site says it: nobody else reads that."""

from __future__ import annotations

import secrets
import urllib.request

import pytest
from conftest import INVENTORY, can_read, changes, leaked, restarted

FILE = "group_vars/all/logins.yml"
PATH = "/etc/airflow/api-server/webserver_config.py"
UNITS = ("airflow-api-server", "airflow-dag-processor", "airflow-scheduler", "airflow-triggerer")


def asks_for_a_password(url: str) -> bool:
    """Whether the login of the web UI is a form."""
    with urllib.request.urlopen(f"{url}/auth/login/", timeout=30) as answer:
        return b'name="password"' in answer.read()


@pytest.mark.long
def test_a_file_of_the_site_reaches_the_api_server_alone(cluster, web_url):
    assert asks_for_a_password(web_url)
    password = secrets.token_hex(16)
    own = INVENTORY / ".logins.py"
    own.write_text(
        "from flask_appbuilder.const import AUTH_REMOTE_USER\n"
        f"AUTH_TYPE = AUTH_REMOTE_USER\nAUTH_LDAP_BIND_PASSWORD = '{password}'\n"
    )
    cluster.change(FILE, f"---\nairflow_webserver_config: {own}\n")
    try:
        before, host = cluster.started(), cluster.host("control1")
        output = cluster.play("site.yml", "--diff", "-vvv")
        assert leaked({"of the file": password}, output) == []
        assert restarted(before, cluster.started()) == {"control1/airflow-api-server"}
        file = host.file(PATH)
        assert (file.user, file.group, file.mode) == ("root", "airflow", 0o640)
        assert [unit for unit in UNITS if can_read(host, unit, PATH)] == ["airflow-api-server"]
        assert not asks_for_a_password(web_url), "what it says is in force"
    finally:
        cluster.change(FILE, "---\n")
        own.unlink()
    cluster.play("site.yml")
    assert not host.file(PATH).exists
    assert asks_for_a_password(web_url)
    assert changes(cluster.play("site.yml")) == 0
