"""What each phase of a rotation makes of the roles' files: the real expressions of the roles."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
import yaml
from expressions import CHECKOUT, evaluate, loader

ROLES = ("cluster", "postgresql", "redis", "airflow")
DEFAULTS = {
    name: value
    for role in ROLES
    for name, value in loader()
    .load_from_file(str(CHECKOUT / f"roles/{role}/defaults/main.yml"), trusted_as_template=True)
    .items()
}
SECRETS = yaml.safe_load((CHECKOUT / "roles/cluster/vars/main.yml").read_text())["__cluster_secrets"]
NAMES = [secret["name"] for secret in SECRETS]
MEMBERS = {
    **{name: ["control1"] for name in ("schedulers", "webservers", "dag_processors", "triggerers", "flower")},
    **{"workers": ["worker1"], "postgresql": ["db1"], "redis": ["db1"]},
}


def see(text: str, **variables: Any) -> Any:
    """Result of an expression; every secret is `old NAME`."""
    known = {
        **DEFAULTS,
        **{name: f"old {name}" for name in NAMES},
        "groups": {"all": ["control1", "worker1", "db1"], **MEMBERS},
        "group_names": [group for group, hosts in MEMBERS.items() if "control1" in hosts],
        "hostvars": {name: {"cluster_address": name} for name in ("control1", "worker1", "db1")},
        "inventory_hostname": "control1",
        "cluster_address": "control1",
        "ansible_check_mode": False,
    }
    return evaluate(text, ROLES, {**known, **variables})


def rotating(secret: str, phase: str, login: str = "") -> dict[str, Any]:
    """Variables in a phase, as rotate_secret leaves them."""
    value = {"accept": "new", "use": "old", "refuse": ""}[phase]
    used = "old" if phase == "accept" else "new"
    return {
        secret: f"{used} {secret}",
        "cluster_rotation": {"secret": secret, "phase": phase, "value": f"{value} {secret}" if value else ""},
        **({secret.replace("_password", "_login"): login} if login else {}),
    }


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_every_secret_can_be_rotated_with_the_own_servers() -> None:
    assert sorted(see("{{ __cluster_rotatable }}")) == sorted(NAMES)
    assert sorted(see("{{ __cluster_rotations }}")) == sorted(NAMES)


@pytest.mark.parametrize(
    ("variables", "gone"),
    [
        ({"cluster_database_host": "pg.example.org"}, {"cluster_database_password", "cluster_results_password"}),
        (
            {"cluster_redis_host": "redis.example.org"},
            {"cluster_redis_password", "cluster_redis_flower_password", "redis_admin_password"},
        ),
    ],
)
def test_a_server_of_others_is_left_alone(variables: dict[str, Any], gone: set[str]) -> None:
    assert set(NAMES) - set(see("{{ __cluster_rotatable }}", **variables)) == gone


@pytest.mark.parametrize(
    ("phase", "expected"), [("accept", "old,new"), ("use", "new,old"), ("refuse", "new"), ("", "old")]
)
def test_fernet_key(phase: str, expected: str) -> None:
    variables = rotating("airflow_fernet_key", phase) if phase else {}
    found = see("{{ __airflow_secrets.fernet_key.AIRFLOW__CORE__FERNET_KEY }}", **variables)
    assert found == ",".join(f"{word} airflow_fernet_key" for word in expected.split(","))


@pytest.mark.parametrize("phase", ["accept", "use"])
def test_both_keys_of_tokens_are_trusted(phase: str) -> None:
    variables = rotating("airflow_jwt_secret", phase)
    file = see("{{ __airflow_jwks }}", **variables)
    assert (file["mode"], file["group"]) == ("0640", "airflow")
    keys = {
        key["kid"]: base64.urlsafe_b64decode(key["k"] + "=" * (-len(key["k"]) % 4)).decode()
        for key in json.loads(file["content"])["keys"]
    }
    old, new = "old airflow_jwt_secret", "new airflow_jwt_secret"
    assert keys == {digest(old)[:16]: old, digest(new)[:16]: new, "not-used": old}
    secrets = see("{{ __airflow_secrets }}", **variables)
    used = old if phase == "accept" else new
    assert secrets["jwt_secret"]["AIRFLOW__API_AUTH__JWT_SECRET"] == used
    assert secrets["jwt_secret"]["AIRFLOW__API_AUTH__JWT_KID"] == digest(used)[:16]
    assert secrets["jwt_trusted"] == {"AIRFLOW__API_AUTH__TRUSTED_JWKS_URL": file["path"]}
    assert file in see(
        "{{ __airflow_secret_files }}", **variables, airflow_environment={}, cluster_host={"addresses": {}}
    )


@pytest.mark.parametrize("variables", [{}, rotating("airflow_jwt_secret", "refuse")])
def test_one_key_needs_no_file(variables: dict[str, Any]) -> None:
    assert see("{{ __airflow_jwks.state }}", **variables) == "absent"
    assert see("{{ __airflow_secrets.jwt_trusted }}", **variables) == {}


def test_the_trusted_keys_do_not_change_when_the_new_one_takes_over() -> None:
    contents = [see("{{ __airflow_jwks.content }}", **rotating("airflow_jwt_secret", p)) for p in ("accept", "use")]
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 610),
        ({"scheduler": {"task_queued_timeout": 900}}, 910),
        ({"execution_api": {"jwt_expiration_time": 3600}, "api_auth": {"jwt_leeway": 60}}, 3660),
    ],
)
def test_the_longest_life_of_a_token(config: dict[str, Any], expected: int) -> None:
    assert int(see("{{ __airflow_token_lifetime }}", airflow_config=config)) == expected


def test_redis_accepts_both_and_learns_it_in_one_go() -> None:
    variables = rotating("cluster_redis_password", "use")
    passwords = see("{{ __redis_passwords }}", **variables)
    both = [f"#{digest(f'{word} cluster_redis_password')}" for word in ("new", "old")]
    assert passwords["airflow"].split() == both
    assert len(passwords["admin"].split()) == len(passwords["flower"].split()) == 1
    content = "user default off\nuser admin on #1 ~* &* +@all\n"
    assert see("{{ __redis_acl_commands }}", __redis_acl={"content": content}) == [
        "ACL SETUSER default reset off",
        "ACL SETUSER admin reset on #1 ~* &* +@all",
    ]
    assert see("{{ __redis_admin_logins }}", **rotating("redis_admin_password", "use")) == [
        'AUTH admin "old redis_admin_password"',
        'AUTH admin "new redis_admin_password"',
    ]


PHASES = ("accept", "use", "refuse")
PRESENT, ABSENT = "present", "absent"
Row = tuple[str, str, bool, str]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, [("airflow", "old", True, PRESENT)]),
        (
            rotating("cluster_database_password", "use", "airflow_2"),
            [("airflow", "old", True, PRESENT), ("airflow_2", "new", True, PRESENT)],
        ),
        (
            rotating("cluster_database_password", "refuse", "airflow_2"),
            [("airflow", "", False, PRESENT), ("airflow_2", "new", True, PRESENT)],
        ),
        (
            {"cluster_database_login": "airflow_2"},
            [("airflow", "", False, PRESENT), ("airflow_2", "old", True, PRESENT)],
        ),
        (
            rotating("cluster_database_password", "use", "airflow"),
            [("airflow", "new", True, PRESENT), ("airflow_2", "old", True, PRESENT)],
        ),
        (
            rotating("cluster_database_password", "refuse", "airflow"),
            [("airflow", "new", True, PRESENT), ("airflow_2", "", False, ABSENT)],
        ),
    ],
)
def test_two_roles_take_turns(variables: dict[str, Any], expected: list[Row]) -> None:
    found = see("{{ __cluster_database_logins }}", **variables)
    rows = [(r["name"], r["password"].partition(" ")[0], r["login"], r["state"]) for r in found]
    assert rows == [*expected, ("airflow_results", "old", True, PRESENT)]
    login = variables.get("cluster_database_login", "airflow")
    password = next(row["password"] for row in found if row["name"] == login)
    url = see("{{ cluster_database_url }}", **variables)
    assert url.startswith(f"postgresql+psycopg2://{login}:{password.replace(' ', '%20')}@db1:")
    seconds = [row["name"] for row in see("{{ __postgresql_seconds }}", **variables)]
    assert seconds == [name for name, _, _, state in expected if name.endswith("_2") and state == PRESENT]
    turn = see("{{ __cluster_next_logins.cluster_database_password.cluster_database_login }}", **variables)
    assert turn == ("airflow" if login == "airflow_2" else "airflow_2")


def test_a_phase_rolls_out_its_own_work_alone() -> None:
    variables = rotating("cluster_redis_password", "use")
    work = {step: see("{{ __cluster_rotation_work }}", __cluster_rotation_step=step, **variables) for step in PHASES}
    assert work == {"accept": [], "use": ["redis", "components"], "refuse": []}
    assert see("{{ __cluster_rotation_work }}", __cluster_rotation_step="use") == []
    checked = {**variables, "ansible_check_mode": True}
    assert see("{{ __cluster_rotation_work }}", __cluster_rotation_step="use", **checked) == []
