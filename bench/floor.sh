#!/usr/bin/env bash
# The floor of the benchmark: the cluster of inventories/cluster on a lab's bare hosts, by plain ssh, as parallel as it goes.
# It knows these four hosts, makes its own secrets, checks nothing beforehand, and cannot be run twice.
# usage: bench/floor.sh [LAB]   (the lab's hosts must be there: see README.md)
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022

ssh_config=.lab/${1:-bench}/ssh_config
role=roles/airflow/files
version=$(awk '$1 == "airflow_version:" {print $2}' roles/airflow/defaults/main.yml)
begin=${EPOCHREALTIME/./}
tree=$(mktemp -d)
# shellcheck disable=SC2046  # a process ID for each job that still runs
trap 'kill $(jobs -pr) 2> /dev/null || true; rm -rf "$tree"' EXIT

mark() {
  local tenths=$(((${EPOCHREALTIME/./} - begin) / 100000))
  printf '%d.%d %s\n' $((tenths / 10)) $((tenths % 10)) "$*"
}

on() { ssh -F "$ssh_config" "$@"; }

# The script on standard input, read as a whole before it runs: no command of it can swallow the rest.
script() {
  local host=$1
  shift
  { printf '{ set -euo pipefail\n' && cat && printf '\n} < /dev/null\n'; } | on "$host" bash -s -- "$@"
}

deliver() { tar -C "$tree/$1" -c . | on "$1" tar -x -C / --no-same-owner --no-overwrite-dir; }

secret() { openssl rand -hex "$1"; }
address() { on -T -G "$1" | awk '$1 == "hostname" {print $2}'; }
hashed() { printf '#%s' "$(printf %s "$1" | sha256sum | cut -d ' ' -f 1)"; }

db=$(address db1) control=$(address control1) worker1=$(address worker1) worker2=$(address worker2)
url=http://$control:8080
metadata_password=$(secret 24) results_password=$(secret 24) broker_password=$(secret 24) flower_password=$(secret 24)
redis_password=$(secret 24) admin_password=$(secret 24) login_password=$(secret 24)
fernet_key=$(openssl rand -base64 32 | tr '+/' '-_') jwt_secret=$(secret 64) api_key=$(secret 64)

database_files() {
  local files=$tree/db1/etc/airflow-floor
  mkdir -p "$files"
  # The parameters of the role, with its values for a host of 8 GB.
  cat > "$files/airflow.conf" << END
listen_addresses = 'localhost,$db'
max_connections = 200
password_encryption = 'scram-sha-256'
shared_buffers = '1228MB'
effective_cache_size = '3684MB'
work_mem = '5MB'
maintenance_work_mem = '512MB'
max_wal_size = '2GB'
min_wal_size = '256MB'
checkpoint_timeout = '15min'
wal_compression = 'on'
random_page_cost = 1.1
tcp_keepalives_idle = 60
tcp_keepalives_interval = 10
tcp_keepalives_count = 6
idle_in_transaction_session_timeout = '30min'
log_min_duration_statement = '5s'
log_lock_waits = 'on'
END
  cat > "$files/pg_hba.conf" << END
local all postgres peer
host airflow airflow $control/32 scram-sha-256
host airflow_results airflow_results $control/32 scram-sha-256
host airflow_results airflow_results $worker1/32 scram-sha-256
host airflow_results airflow_results $worker2/32 scram-sha-256
END
  cat > "$files/databases.sql" << END
CREATE ROLE airflow LOGIN PASSWORD '$metadata_password';
CREATE ROLE airflow_results LOGIN PASSWORD '$results_password';
CREATE DATABASE airflow OWNER airflow ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE airflow_results OWNER airflow_results ENCODING 'UTF8' TEMPLATE template0;
END
  cat > "$files/redis.conf" << END
bind 127.0.0.1 $db
port 6379
protected-mode yes
supervised systemd
daemonize no
dir /var/lib/redis
aclfile /etc/redis/users.acl
appendonly yes
appendfsync everysec
save ""
maxmemory 2048mb
maxmemory-policy noeviction
timeout 0
tcp-keepalive 60
tcp-backlog 1024
disable-thp yes
logfile ""
loglevel notice
END
  cat > "$files/users.acl" << END
user default off
user admin on $(hashed "$redis_password") ~* &* +@all
user airflow on $(hashed "$broker_password") ~* &* +@all -@admin -@dangerous +info
user flower on $(hashed "$flower_password") ~* &* +@all -@admin -@dangerous +info
END
  chmod 0600 "$files"/{databases.sql,users.acl}
}

# usage: unit TREE COMPONENT 'AIRFLOW ARGUMENTS' KILL_MODE STOP_SECONDS RESTART PROTECT_PROC
unit() {
  mkdir -p "$1/etc/systemd/system"
  # The whole sandbox of the role's units.
  cat > "$1/etc/systemd/system/airflow-$2.service" << END
[Unit]
Description=Apache Airflow $2
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
EnvironmentFile=/etc/airflow/$2.env
ExecStart=/opt/airflow/current/bin/airflow $3
User=airflow
Group=airflow
WorkingDirectory=/var/lib/airflow
Restart=$6
RestartSec=5
KillMode=$4
TimeoutStopSec=$5
LimitNOFILE=65536
NoNewPrivileges=true
PrivateTmp=true
PrivateDevices=true
DevicePolicy=closed
ProtectSystem=strict
ReadWritePaths=/var/lib/airflow
ProtectHome=true
ProtectHostname=true
ProtectClock=true
ProtectKernelTunables=true
ProtectKernelModules=true
ProtectKernelLogs=true
ProtectControlGroups=true
ProtectProc=$7
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
MemoryDenyWriteExecute=true
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
CapabilityBoundingSet=
AmbientCapabilities=
PrivateUsers=true
RemoveIPC=true
KeyringMode=private
UMask=0027

[Install]
WantedBy=multi-user.target
END
}

# usage: environment FILE ADDRESS LINE...
environment() {
  local file=$1 address=$2
  shift 2
  cat > "$file" << END
AIRFLOW_HOME=/var/lib/airflow
AIRFLOW_CONFIG=/etc/airflow/airflow.cfg
AIRFLOW_CLUSTER_ADDRESS=$address
PYTHONPATH=/etc/airflow/python
HOME=/var/lib/airflow
PATH=/opt/airflow/current/bin:/usr/local/bin:/usr/bin:/bin
$(printf '%s\n' "$@")
END
  chmod 0600 "$file"
}

# usage: airflow_files HOST ADDRESS
airflow_files() {
  local files=$tree/$1 address=$2 name
  mkdir -p "$files"/{etc/airflow/python,opt/airflow/{canary,dags/current},usr/local/share/ca-certificates}
  find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t "$files/usr/local/share/ca-certificates" {} +
  cp "$role/locks/airflow-$version.txt" "$files/opt/airflow/lock.txt"
  cp "$role/locks/uv.txt" "$files/opt/airflow/uv.txt"
  cp -r dags/. "$files/opt/airflow/dags/current"
  cp "$role/canary/canary.py" "$files/opt/airflow/canary"
  echo '{"workers": ["worker1", "worker2"], "tasks": 36, "executors": []}' > "$files/opt/airflow/canary/canary.json"
  cp "$role/cluster_address.py" "$files/etc/airflow/python"
  local bundle='"classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs"'
  cat > "$files/etc/airflow/airflow.cfg" << END
[core]
executor = CeleryExecutor
auth_manager = airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager
execution_api_server_url = $url/execution/
hostname_callable = cluster_address.get
load_examples = False
dags_folder = /opt/airflow/dags/current
parallelism = 8
default_pool_task_slot_count = 128
[database]
sql_alchemy_pool_size = 5
sql_alchemy_max_overflow = 10
[logging]
base_log_folder = /var/lib/airflow/logs
worker_log_server_port = 8793
trigger_log_server_port = 8794
[api]
base_url = $url
port = 8080
workers = 1
expose_config = False
[scheduler]
enable_health_check = True
scheduler_health_check_server_host = 127.0.0.1
scheduler_health_check_server_port = 8974
task_instance_heartbeat_timeout = 60
[workers]
max_failed_heartbeats = 10
[dag_processor]
refresh_interval = 15
dag_bundle_storage_path = /var/lib/airflow/bundles
dag_bundle_config_list = [{"name": "dags-folder", $bundle: {}}, {"name": "canary", $bundle: {"path": "/opt/airflow/canary"}}]
[celery]
worker_concurrency = 4
flower_host = $address
flower_port = 5555
[celery_broker_transport_options]
visibility_timeout = 86400
END
  local metadata=AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=postgresql+psycopg2://airflow:$metadata_password@$db:5432/airflow
  local results=AIRFLOW__CELERY__RESULT_BACKEND=db+postgresql+psycopg2://airflow_results:$results_password@$db:5432/airflow_results
  local broker=AIRFLOW__CELERY__BROKER_URL=redis://airflow:$broker_password@$db:6379/0
  local fernet=AIRFLOW__CORE__FERNET_KEY=$fernet_key jwt=AIRFLOW__API_AUTH__JWT_SECRET=$jwt_secret api=AIRFLOW__API__SECRET_KEY=$api_key
  if [[ $1 == control1 ]]; then
    unit "$files" api-server api-server mixed 30 always invisible
    unit "$files" scheduler scheduler mixed 60 always invisible
    unit "$files" dag-processor dag-processor mixed 60 always invisible
    unit "$files" triggerer triggerer mixed 60 always invisible
    unit "$files" flower 'celery flower' control-group 30 always invisible
    for name in cli scheduler; do
      environment "$files/etc/airflow/$name.env" "$address" "$metadata" "$results" "$broker" "$fernet" "$jwt" "$api"
    done
    environment "$files/etc/airflow/api-server.env" "$address" "$metadata" "$fernet" "$jwt" "$api"
    environment "$files/etc/airflow/dag-processor.env" "$address" "$metadata" "$fernet"
    environment "$files/etc/airflow/triggerer.env" "$address" "$metadata" "$fernet" "$api"
    environment "$files/etc/airflow/flower.env" "$address" \
      "AIRFLOW__CELERY__BROKER_URL=redis://flower:$flower_password@$db:6379/0" "AIRFLOW__CELERY__FLOWER_BASIC_AUTH=admin:$login_password"
  else
    unit "$files" worker "celery worker --celery-hostname $1 --queues default,$1" mixed 3600 on-failure default
    environment "$files/etc/airflow/worker.env" "$address" "$results" "$broker" "$api"
  fi
}

install_database() {
  database_files
  deliver db1
  script db1 << 'END'
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends postgresql redis-server > /dev/null 2>&1
cd /etc/airflow-floor
redis() {
  install -g redis -m 0640 redis.conf users.acl /etc/redis
  systemctl enable --quiet redis-server 2> /dev/null
  systemctl restart redis-server
}
redis &
cluster=$(echo /etc/postgresql/*/main)
install airflow.conf -m 0644 "$cluster/conf.d"
install -o postgres -g postgres -m 0640 pg_hba.conf "$cluster"
systemctl restart "postgresql@$(basename "$(dirname "$cluster")")-main"
runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 --dbname=postgres < databases.sql
wait $!
END
  touch "$tree/database"
  mark "database and broker ready"
}

await_database() { until [[ -e $tree/database ]]; do sleep 0.1; done; }

# usage: install_airflow HOST ADDRESS
install_airflow() {
  airflow_files "$1" "$2"
  deliver "$1"
  script "$1" << 'END'
update-ca-certificates > /dev/null 2>&1 &
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends ca-certificates python3-venv > /dev/null 2>&1
wait $!
useradd --system --user-group --home-dir /var/lib/airflow --no-create-home --shell /usr/sbin/nologin airflow
install -d -o airflow -g airflow -m 0750 /var/lib/airflow
cd /opt/airflow
export PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
export UV_CACHE_DIR=/opt/airflow/cache UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=hardlink
python3 -m venv uv
uv/bin/pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --no-compile --require-hashes --requirement uv.txt
uv/bin/uv venv --quiet --relocatable --python /usr/bin/python3 current
uv/bin/uv pip sync --quiet --python current --require-hashes --only-binary=:all: --compile-bytecode lock.txt
rm -rf cache
END
  mark "$1: packages installed"
}

run_control() {
  install_airflow control1 "$control"
  await_database
  script control1 "$admin_password" "$control" << 'END'
cd /var/lib/airflow
airflow() (
  set -a
  . /etc/airflow/cli.env
  exec setpriv --reuid=airflow --regid=airflow --init-groups -- airflow "$@"
)
airflow db migrate > /tmp/migrate 2>&1 || { cat /tmp/migrate; exit 1; }
printf '%s\n%s\n' "$1" "$1" |
  airflow users create --username admin --role Admin --email admin@localhost.localdomain --firstname admin --lastname Airflow > /tmp/user 2>&1 &
systemctl daemon-reload
systemctl enable --quiet --now airflow-{api-server,scheduler,dag-processor,triggerer,flower}
python3 - "$2" << 'PYTHON'
import json, sys, time, urllib.request

api = f"http://{sys.argv[1]}:8080/api/v2/monitor/health"


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).read() or b"{}"
    except OSError:
        return None


def all_healthy():
    monitor = json.loads(answers(api) or "{}")
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return (
        all(monitor.get(part, {}).get("status") == "healthy" for part in parts)
        and answers("http://127.0.0.1:8974/health")
        and answers(f"http://{sys.argv[1]}:5555/healthcheck")
    )


deadline = time.monotonic() + 180
while not all_healthy():
    if time.monotonic() > deadline:
        sys.exit(f"control1 is not healthy after 180 s: {answers(api)}")
    time.sleep(0.25)
PYTHON
wait $! || { cat /tmp/user; exit 1; }
END
  mark "control1: healthy"
}

# usage: run_worker HOST ADDRESS
run_worker() {
  install_airflow "$1" "$2"
  await_database
  script "$1" "celery@$1" << 'END'
systemctl daemon-reload
systemctl enable --quiet --now airflow-worker
set -a
. /etc/airflow/worker.env
ping="
import os, sys
from celery import Celery
app = Celery(broker=os.environ['AIRFLOW__CELERY__BROKER_URL'])
sys.exit(0 if app.control.ping(destination=[sys.argv[1]], timeout=1, limit=1) else 1)
"
deadline=$((SECONDS + 180))
until trouble=$(/opt/airflow/current/bin/python -c "$ping" "$1" 2>&1); do
  [[ $SECONDS -lt $deadline ]] || { echo "no answer from $1 after 180 s: $trouble" >&2; exit 1; }
  sleep 0.25
done
END
  mark "$1: healthy"
}

api() {
  local path=$1
  shift
  curl --silent --show-error --fail --noproxy '*' --header 'Content-Type: application/json' ${token:+--header "Authorization: Bearer $token"} "$@" "$url$path"
}

fail() {
  echo "floor: $*" >&2
  exit 1
}

# usage: answers PATH TEXT   (reads the whole answer: grep -q would break curl's pipe)
answers() { [[ $(api "$1") == *"$2"* ]]; }

# usage: await SECONDS WHAT COMMAND...
await() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" 2> /dev/null; do
    [[ $SECONDS -lt $deadline ]] || fail "not in time: $what"
    sleep 0.5
  done
}

run_canary() {
  local dag=/api/v2/dags/dataops_canary run=/api/v2/dags/dataops_canary/dagRuns/floor number address state task
  token=$(api /auth/token --data "{\"username\": \"admin\", \"password\": \"$admin_password\"}" | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  await 120 "the canary is parsed" answers "$dag/tasks" '"on_worker2"'
  api "$dag/dagRuns" --data '{"logical_date": null, "dag_run_id": "floor"}' > /dev/null
  ended() {
    state=$(api "$run" | sed 's/.*"state":"\([^"]*\)".*/\1/')
    [[ $state == success || $state == failed ]]
  }
  await 240 "the canary has ended" ended
  [[ $state == success ]] || fail "the canary ended with: $state"
  answers "$run/taskInstances?state=success&limit=1" '"total_entries":41' || fail "not all of the canary's 41 tasks succeeded"
  number=0
  for address in "$worker1" "$worker2"; do
    task=$run/taskInstances/on_worker$((number + 1))
    answers "$task" "\"hostname\":\"$address\"" || fail "$task did not run on $address"
    answers "$task/logs/1" "canary $number" || fail "the log of $task cannot be read"
    number=$((number + 1))
  done
}

install_database &
run_control &
run_worker worker1 "$worker1" &
run_worker worker2 "$worker2" &
# Each in the order in which they end: the first that fails ends the run.
for _ in 1 2 3 4; do wait -n; done
mark converged
run_canary
mark verified
