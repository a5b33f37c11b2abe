"""Every file that the roles write, as it is in git and as its reader understands it."""

from __future__ import annotations

import configparser
import difflib
import hashlib
import json
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import EXPECTED, HERE, INVENTORIES, RENEW, SECRETS, Host, dump, load

Hosts = dict[str, Host]
awkward = pytest.mark.parametrize("inventory", ["awkward"])


def test_files_are_those_in_git(inventory: str, hosts: Hosts, request: pytest.FixtureRequest) -> None:
    found = {f"{host.name}/{path}": text for host in hosts.values() for path, text in host.tree().items()}
    # Equal on all hosts: see test_shared_values_are_equal_on_all_hosts.
    found["derived.yml"] = dump(next(iter(hosts.values())).derived)
    folder = EXPECTED / inventory
    if request.config.getoption("--renew"):
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in found.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    expected = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    lines: list[str] = []
    for path in sorted({*expected, *found}):
        before, after = expected.get(path, "").splitlines(), found.get(path, "").splitlines()
        lines += difflib.unified_diff(
            before, after, f"git/{inventory}/{path}", f"now/{inventory}/{path}", "", "", 2, ""
        )
        if path not in found or path not in expected:
            lines.append(f"{'only in git' if path in expected else 'not in git'}: {inventory}/{path}")
    if lines:
        pytest.fail("\n".join([*lines, f"If this is what you want: {RENEW}"]), pytrace=False)


def test_no_inventory_is_left_over() -> None:
    assert sorted(path.name for path in EXPECTED.iterdir()) == sorted(INVENTORIES)


# -- environment files -----------------------------------------------------------------------------------------------


def parse_as_systemd(text: str) -> dict[str, str]:
    """Parse an environment file by the rules of systemd.exec(5), EnvironmentFile=."""
    found: dict[str, str] = {}
    position, end = 0, len(text)
    while position < end:
        if text[position] in " \t\n\r":
            position += 1
        elif text[position] in "#;":
            while position < end and text[position] != "\n":
                position += 2 if text[position] == "\\" else 1
        else:
            name, _, _rest = text[position:].partition("=")
            assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name), f"not a name: {name!r}"
            position += len(name) + 1
            value, trailing = "", ""
            while position < end and text[position] in " \t":
                position += 1
            while position < end and text[position] not in "\n\r":
                char = text[position]
                if char in "'\"":
                    value, trailing = value + trailing, ""
                    position += 1
                    while text[position] != char:
                        if char == '"' and text[position] == "\\":
                            position += 1
                            if text[position] not in '"\\`$\n':
                                value += "\\"
                            value += text[position].strip("\n")
                        else:
                            value += text[position]
                        position += 1
                elif char in " \t":
                    trailing += char
                elif char == "\\":
                    position += 1
                    value, trailing = value + trailing + text[position].strip("\n"), ""
                else:
                    value, trailing = value + trailing + char, ""
                position += 1
            found[name] = value
    return found


def parse_with_shell(text: str, folder: Path) -> dict[str, str]:
    """Let /bin/sh read an environment file, as /usr/local/bin/airflow does."""
    (folder / "environment").write_text(text)
    done = subprocess.run(
        ["/bin/sh", "-euc", "set -a; . ./environment; exec /usr/bin/env -0"],
        cwd=folder,
        env={},
        capture_output=True,
        check=True,
    )
    pairs = (pair.partition("=") for pair in done.stdout.decode().split("\0") if pair)
    return {name: value for name, _, value in pairs if name not in ("PWD", "OLDPWD", "SHLVL", "_")}


def test_the_parser_follows_systemd() -> None:
    text = '# a\n; b\nA=1\nC="a\\"b\\\\c\\$d\\`e\\nf"\nD= \'a "b" \\ c\' d  \nE=a\\ b\\\nc\nF=\n'
    assert parse_as_systemd(text) == {
        "A": "1",
        "C": 'a"b\\c$d`e\\nf',
        "D": 'a "b" \\ c d',
        "E": "a bc",
        "F": "",
    }


CARRIERS = {
    "AIRFLOW__CORE__FERNET_KEY": "airflow_fernet_key",
    "AIRFLOW__API_AUTH__JWT_SECRET": "airflow_jwt_secret",
    "AIRFLOW__API__SECRET_KEY": "airflow_api_secret_key",
}
ASYNC = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"
NO_DATABASE = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nonexistent/no-metadata-database-here.db"}
TLS_DATABASE = "sslmode=verify-full&sslrootcert="
URLS = {
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "cluster_database_url",
    "AIRFLOW__CELERY__RESULT_BACKEND": "cluster_results_url",
}


KEY_NAME = hashlib.sha256(SECRETS["airflow_jwt_secret"].encode()).hexdigest()[:16]


def intended(host: Host, component: str) -> dict[str, str]:
    """Value of each secret variable that this host's component may get."""
    broker = "cluster_flower_broker_url" if component == "flower" else "cluster_broker_url"
    urls = {**URLS, "AIRFLOW__CELERY__BROKER_URL": broker}
    return {
        **{name: SECRETS[secret] for name, secret in CARRIERS.items()},
        "AIRFLOW__API_AUTH__JWT_KID": KEY_NAME,
        **{name: host.derived[url] for name, url in urls.items()},
        **(NO_DATABASE if component.partition("@")[0] in ("flower", "worker") else {}),
        "AIRFLOW_FLOWER_LOGIN": f"admin:{SECRETS['airflow_flower_password']}",
    }


def test_environment_files_give_the_intended_values(hosts: Hosts, inventory: str, tmp_path: Path) -> None:
    settings = load(HERE / "inventories/awkward/group_vars/all/airflow.yml") if inventory == "awkward" else {}
    further = {name: str(value) for name, value in settings.get("airflow_environment", {}).items()}
    seen = 0
    for host in hosts.values():
        for component, text in host.environments.items():
            found = parse_as_systemd(text)
            assert parse_with_shell(text, tmp_path) == found
            known = {**intended(host, component), **further}
            assert {name: value for name, value in found.items() if name in known} == {
                name: value for name, value in known.items() if name in found
            }
            assert further.keys() <= found.keys()
            left = {name for name in found if name not in known and name != ASYNC}
            if ASYNC in found:
                assert inventory == "tls" and component not in ("flower", "worker")
                plain = known["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].partition("?")[0]
                assert found[ASYNC] == plain.replace("+psycopg2:", "+asyncpg:")
            assert {name for name in left if name.startswith("AIRFLOW__")} == set()
            assert found["AIRFLOW_CONFIG"] == f"/etc/airflow/{component}.cfg"
            assert found["AIRFLOW_CONFIG"] in host.files
            seen += 1
    assert seen


def test_secrets_are_for_root_only(hosts: Hosts) -> None:
    for host in hosts.values():
        for entry in host.entries:
            held = [name for name, value in SECRETS.items() if value in entry.get("content", "")]
            if (entry["path"].endswith(".env") and entry.get("state") != "absent") or held:
                assert (entry["mode"], entry.get("owner", "root"), entry.get("group", "root")) == (
                    "0600",
                    "root",
                    "root",
                )


def test_workers_and_flower_hold_no_metadata_credentials(hosts: Hosts) -> None:
    seen = 0
    for host in hosts.values():
        if host.name in host.derived["cluster_control_hosts"]:
            continue
        for text in host.environments.values():
            found = parse_as_systemd(text)
            values = "\n".join(found.values())
            for secret in ("cluster_database_password", "airflow_jwt_secret", "airflow_admin_password"):
                assert SECRETS[secret] not in values
                assert urllib.parse.quote(SECRETS[secret], safe="") not in values
            assert found.items() >= NO_DATABASE.items(), "Airflow would silently use SQLite"
            seen += 1
    assert seen or not any(host.derived["cluster_celery"] for host in hosts.values())


def test_only_the_flower_user_is_known_to_flower(hosts: Hosts) -> None:
    for host in hosts.values():
        if "flower" in host.environments:
            broker = urllib.parse.urlsplit(parse_as_systemd(host.environments["flower"])["AIRFLOW__CELERY__BROKER_URL"])
            assert broker.username == "flower"


# -- URLs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "scheme", "secret", "address"),
    [
        ("cluster_database_url", "postgresql+psycopg2", "cluster_database_password", "cluster_database_address"),
        ("cluster_results_url", "db+postgresql+psycopg2", "cluster_results_password", "cluster_database_address"),
        ("cluster_broker_url", "redis", "cluster_redis_password", "cluster_redis_address"),
        ("cluster_flower_broker_url", "redis", "cluster_redis_flower_password", "cluster_redis_address"),
    ],
)
def test_urls_give_the_password_back(
    hosts: Hosts, inventory: str, variable: str, scheme: str, secret: str, address: str
) -> None:
    query = ""
    if inventory == "tls":
        broker = scheme == "redis"
        query = "ssl_cert_reqs=required&ssl_check_hostname=true&ssl_ca_certs=" if broker else TLS_DATABASE
        query, scheme = f"{query}/etc/airflow/tls/ca.pem", "rediss" if broker else scheme
    for host in hosts.values():
        text = host.derived[variable]
        if text == "undefined":
            assert not host.derived["cluster_celery"]
            continue
        url = urllib.parse.urlsplit(text)
        assert url.scheme == scheme
        assert urllib.parse.unquote(url.password or "") == SECRETS[secret]
        assert url.hostname == host.derived[address]
        assert url.port
        assert re.fullmatch(r"/\w+", url.path) and url.query == query and not url.fragment


def test_shared_values_are_equal_on_all_hosts(hosts: Hosts) -> None:
    derived = [host.derived for host in hosts.values()]
    assert all(values == derived[0] for values in derived)


# -- airflow.cfg -----------------------------------------------------------------------------------------------------


def configurations(host: Host) -> dict[str, configparser.ConfigParser]:
    """Component to its airflow.cfg, read in the way of Airflow."""
    found = {}
    for path, text in host.files.items():
        if path.startswith("/etc/airflow/") and path.endswith(".cfg"):
            found[Path(path).stem] = configparser.ConfigParser(comment_prefixes=("#",), allow_no_value=False)
            found[Path(path).stem].optionxform = str  # type: ignore[assignment,method-assign]
            found[Path(path).stem].read_string(text)
    return found


def test_configurations_parse(hosts: Hosts) -> None:
    for host in hosts.values():
        for component, config in configurations(host).items():
            values = {
                (section, name): config.get(section, name) for section in config.sections() for name in config[section]
            }
            assert values["core", "executor"] == host.derived["cluster_executor"]
            # Only the scheduler reads this: another component is not restarted when a worker joins.
            assert (("core", "parallelism") in values) == (component in ("scheduler", "cli"))
            if component == "scheduler":
                assert values["core", "parallelism"] == str(host.derived["cluster_parallelism"])


@awkward
def test_awkward_options_come_back(hosts: Hosts) -> None:
    wanted: dict[str, dict[str, Any]] = load(HERE / "inventories/awkward/group_vars/all/airflow.yml")["airflow_config"]
    config = configurations(hosts["first"])["scheduler"]
    assert config["logging"]["log_format"] == wanted["logging"]["log_format"]
    for name in ("instance_name", "navbar_color"):
        assert config["webserver"][name] == wanted["webserver"][name]
    own_celery = {"connections_path": "/a%b", "list": [1, "two", True, None]}
    celery = json.loads(config["celery"]["extra_celery_config"])
    assert celery.pop("task_publish_retry_policy")["max_retries"] == 1, "beside the site's own"
    assert celery.pop("broker_pool_limit") == 0
    assert celery.pop("worker_disable_prefetch") is False, "the site wants tasks to be taken ahead"
    assert celery.pop("worker_enable_prefetch_count_reduction") is False
    assert celery.pop("task_annotations") == ["worker_disk.DiskGuard", "scheduler_send.SendAgain"]
    assert celery.pop("imports") == ["airflow.dag_processing.dagbag", "worker_messages"]
    assert celery == own_celery
    assert config.getboolean("metrics", "statsd_on") is True
    assert config.getint("metrics", "statsd_port") == 8125
    assert configurations(hosts["first"])["dag-processor"].getint("core", "max_active_tasks_per_dag") == 7
    assert "load_examples" not in config["core"]
    assert "max_active_tasks_per_dag" not in configurations(hosts["big"])["worker"]["core"]
    own = {
        name: configurations(hosts[name])["worker"].getint("celery", "worker_concurrency") for name in ("big", "plain")
    }
    assert own == {"big": 24, "plain": 16}
    bounds = configurations(hosts["grows"])["worker"]["celery"]
    assert bounds["worker_autoscale"] == "8,2" and "worker_concurrency" not in bounds
    gpu, grows = (configurations(hosts["grows"])[f"worker@{name}"]["celery"] for name in ("gpu", "also_grows"))
    assert (gpu["worker_concurrency"], grows["worker_autoscale"]) == ("1", "4,1")
    assert hosts["first"].derived["cluster_worker_slots"] == sum(own.values()) + 8 + 1 + 4


# -- units -----------------------------------------------------------------------------------------------------------

BASE_UNITS = {
    "postgresql@.service": "[Unit]\nDescription=PostgreSQL\n[Service]\nType=forking\nExecStart=/bin/true\n",
    "redis-server.service": "[Unit]\nDescription=Redis\n[Service]\nType=notify\nExecStart=/bin/true\n",
}
"""The units of the distribution that get a drop-in."""


SYSTEMD_ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(not SYSTEMD_ANALYZE, reason="systemd-analyze is not on this machine")
def test_systemd_accepts_the_units(hosts: Hosts, tmp_path: Path) -> None:
    units = tmp_path / "units"
    for host in hosts.values():
        shutil.rmtree(units, ignore_errors=True)
        wanted = []
        for path, text in host.files.items():
            if not path.startswith("/etc/systemd/system/"):
                continue
            target = units / path.removeprefix("/etc/systemd/system/")
            target.parent.mkdir(parents=True, exist_ok=True)
            # The programs are not on this machine; their arguments are checked all the same.
            target.write_text(re.sub(r"/opt/airflow/current/bin/\w+|/usr/sbin/nft", "/bin/true", text))
            if target.parent == units:
                wanted.append(target.name)
            elif (base := re.sub("@[^.]*", "@", target.parent.name.removesuffix(".d"))) in BASE_UNITS:
                (units / base).write_text(BASE_UNITS[base])
                wanted.append(target.parent.name.removesuffix(".d"))
        for unit in wanted:
            done = subprocess.run(
                [str(SYSTEMD_ANALYZE), "verify", "--man=no", "--recursive-errors=no", unit],
                env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin", "SYSTEMD_LOG_TARGET": "console"},
                cwd=units,
                capture_output=True,
                text=True,
                check=False,
            )
            complaints = [line for line in done.stderr.splitlines() if str(units) in line or unit in line]
            assert (done.returncode, complaints) == (0, []), f"{host.name}: {unit}"


def test_units_name_only_files_that_are_written(hosts: Hosts) -> None:
    private = {f"/etc/airflow/{name}" for name in ("api-server", "kubernetes", "tls-keys")}
    for host in hosts.values():
        for path, text in host.files.items():
            if path.startswith("/etc/systemd/system/"):
                named = set(re.findall(r"/etc/(?:airflow|systemd/system)/[\w@./-]*", text))
                assert named <= host.files.keys() | {"/etc/airflow"} | private


# -- PostgreSQL and Redis --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inventory", ["cluster"])
def test_redis_users_have_the_passwords_of_the_inventory(hosts: Hosts) -> None:
    users = hosts["db1"].files["/etc/redis/users.acl"]
    found = dict(re.findall(r"(?m)^user (\S+) on #([0-9a-f]{64}) ", users))
    wanted = {
        "admin": "redis_admin_password",
        "airflow": "cluster_redis_password",
        "flower": "cluster_redis_flower_password",
    }
    assert found == {user: hashlib.sha256(SECRETS[secret].encode()).hexdigest() for user, secret in wanted.items()}


@pytest.mark.parametrize("inventory", ["tls"])
def test_nothing_speaks_plain_text(hosts: Hosts) -> None:
    for host in hosts.values():
        for path, text in host.files.items():
            if path.endswith((".cfg", ".env")):
                assert not re.search(r"\b(http|redis)://", text), path
    redis = hosts["db1"].files["/etc/redis/redis.conf"].splitlines()
    assert {"port 0", "tls-port 6379"} <= set(redis)
    admitted = re.findall(r"(?m)^(\w+)  ", hosts["db1"].files["/etc/postgresql/15/main/pg_hba.conf"])
    assert set(admitted) == {"local", "hostssl"}


@pytest.mark.parametrize("inventory", ["tls"])
def test_keys_are_where_something_serves(hosts: Hosts) -> None:
    key = (INVENTORIES["tls"] / ".own/hosts.key").read_text()
    found = {
        host.name: {
            entry["path"]: (entry.get("owner", "root"), entry.get("group", "root"), entry["mode"])
            for entry in host.entries
            if entry.get("content") == key
        }
        for host in hosts.values()
    }
    assert found == {
        "db1": {
            "/etc/postgresql/15/main/airflow.key": ("postgres", "postgres", "0600"),
            "/etc/redis/airflow.key": ("root", "redis", "0640"),
        },
        "control1": {"/etc/airflow/tls-keys/server.key": ("root", "airflow", "0640")},
        "worker1": {},
    }


@awkward
def test_text_that_looks_like_a_template_stays_text(hosts: Hosts) -> None:
    wanted = load(HERE / "inventories/awkward/group_vars/all/services.yml")["redis_config"]["proc-title-template"]
    assert f"\nproc-title-template {wanted}\n" in hosts["db"].files["/etc/redis/redis.conf"]
    unit = hosts["plain"].files["/etc/systemd/system/airflow-worker.service"]
    assert "\nEnvironment=C={{inventory_hostname}}\n" in unit


@awkward
def test_postgresql_parameters_come_back(hosts: Hosts) -> None:
    path = "/etc/postgresql/15/main/conf.d/airflow.conf"
    text = hosts["db"].files[path]
    lines = re.findall(r"(?m)^(\w+) = '((?:[^'\\]|''|\\\\)*)'$", text)
    found = {name: value.replace("''", "'").replace("\\\\", "\\") for name, value in lines}
    wanted = load(HERE / "inventories/awkward/group_vars/all/services.yml")["postgresql_parameters"]
    assert {name: found.get(name) for name in wanted} == wanted
    assert found["port"] == "6432"
    assert len(found) == len(re.findall("(?m)^[^#\n]", text)), "a line that is not a setting"


def test_every_client_has_its_line(hosts: Hosts, inventory: str) -> None:
    for host in hosts.values():
        text = next((text for path, text in host.files.items() if path.endswith("pg_hba.conf")), None)
        if text is None:
            continue
        bare = [line.partition("  # ")[0] for line in text.splitlines() if not line.startswith("#")]
        lines = [re.findall(r'[+]?"[^"]*"|\S+', line) for line in bare]
        assert {len(line) for line in lines if line[0] == "local"} == {4}
        assert {len(line) for line in lines if line[0] != "local"} == {5}
        given = [[part.strip('+"') for part in line[1:4]] for line in lines]
        for client in host.derived["cluster_database_clients"]:
            wanted = [client["database"], client["user"]]
            assert any(line[:2] == wanted and line[2].partition("/")[0] == client["address"] for line in given), client


# -- executors beside each other -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inventory", ["executors"])
def test_only_the_scheduler_s_host_has_the_kubeconfig(hosts: Hosts) -> None:
    token = load(HERE / "inventories/executors/kubeconfig")["users"][0]["user"]["token"]
    holders = {(host.name, path) for host in hosts.values() for path, text in host.files.items() if token in text}
    assert holders == {("one", "/etc/airflow/kubernetes/kubeconfig")}
    (entry,) = [entry for entry in hosts["one"].entries if entry["path"] == "/etc/airflow/kubernetes/kubeconfig"]
    assert (entry.get("owner", "root"), entry["group"], entry["mode"]) == ("root", "airflow", "0640")
    for name in ("two", "three"):
        assert {"path": "/etc/airflow/kubernetes/kubeconfig", "state": "absent"} in hosts[name].entries


@pytest.mark.parametrize("inventory", ["executors"])
def test_a_pod_is_told_where_the_api_server_is_and_no_secret(hosts: Hosts) -> None:
    text = hosts["one"].files["/etc/airflow/pod_template.yaml"]
    (container,) = yaml.safe_load(text)["spec"]["containers"]
    found = {entry["name"]: entry["value"] for entry in container["env"]}
    assert container["name"] == "base"
    assert found["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://10.0.0.2:8080/execution/"
    assert not [name for name, secret in SECRETS.items() if secret in text]
    unit = hosts["one"].files["/etc/systemd/system/airflow-scheduler.service"]
    assert "/etc/airflow/kubernetes/kubeconfig /etc/airflow/pod_template.yaml >" in unit, (
        "a change of either restarts it"
    )
    assert "airflow scheduler --skip-serve-logs" in unit, "the worker of its host serves the logs"
