"""docs/examples: each file compiles, and sets what Flask-AppBuilder reads; a running cluster loads them, too."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("webserver_config_*.py"))
CONSTANTS = {"AUTH_DB": 1, "AUTH_LDAP": 2, "AUTH_REMOTE_USER": 3, "AUTH_OAUTH": 4}
ROLES = {"Admin", "Op", "User", "Viewer", "Public"}


@pytest.fixture(autouse=True)
def flask_appbuilder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the constants."""
    module = ModuleType("flask_appbuilder.const")
    vars(module).update(CONSTANTS)
    monkeypatch.setitem(sys.modules, "flask_appbuilder", ModuleType("flask_appbuilder"))
    monkeypatch.setitem(sys.modules, "flask_appbuilder.const", module)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_configuration(path: Path) -> None:
    found = SimpleNamespace(**runpy.run_path(str(path)))
    assert found.AUTH_TYPE in (CONSTANTS["AUTH_LDAP"], CONSTANTS["AUTH_OAUTH"])
    assert {role for roles in found.AUTH_ROLES_MAPPING.values() for role in roles} <= ROLES
    assert found.AUTH_ROLES_SYNC_AT_LOGIN is True
    assert found.AUTH_USER_REGISTRATION_ROLE == "Public", "who is in no group sees nothing"
    assert "AUTH_ROLE_PUBLIC" not in vars(found), "nobody gets in without a login"
    if hasattr(found, "AUTH_LDAP_SERVER"):
        assert found.AUTH_LDAP_SERVER.startswith("ldaps://") and found.AUTH_LDAP_TLS_DEMAND
    else:
        (provider,) = found.OAUTH_PROVIDERS
        assert {"client_id", "client_secret", "server_metadata_url", "api_base_url"} <= provider["remote_app"].keys()
        assert all(url.startswith("https://") for name, url in provider["remote_app"].items() if name.endswith("url"))


def test_there_is_one_for_each() -> None:
    assert [path.stem for path in EXAMPLES] == ["webserver_config_ldap", "webserver_config_oidc"]
