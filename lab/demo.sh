#!/usr/bin/env bash
# Start or remove the demo: the cluster of inventories/cluster on systemd containers of this machine.
# usage: lab/demo.sh up|down
set -euo pipefail
cd "$(dirname "$0")/.."

overlay=lab/inventories/demo.yml
inventory=.lab/demo/inventory
play() { ansible-playbook -i "$inventory" -i "$overlay" "$@"; }

steps=7
step=0
say() {
  step=$((step + 1))
  printf '\n\033[1m===== %d/%d %s\033[0m\n' "$step" "$steps" "$*"
}

up() {
  say "Prepare this machine: podman, runc and the image builder"
  lab/machine.sh
  say "Build the image of a bare Debian host"
  lab/image.sh
  say "Start the hosts"
  lab/inventory.sh demo
  play lab/create.yml
  say "Make the secrets"
  play playbooks/secrets.yml
  say "Bring the hosts to the state that the inventory describes (ansible-playbook site.yml)"
  play site.yml
  say "Verify the running cluster (playbooks/verify.yml)"
  play playbooks/verify.yml
  say "Ready"
  local address
  address=$(ssh -T -G -F .lab/demo/ssh_config control1 | awk '$1 == "hostname" {print $2}')
  cat << END
Web UI     http://$address:8080   user admin, password airflow_admin_password
Flower     http://$address:5555   user admin, password airflow_flower_password
Passwords  grep -E 'airflow_(admin|flower)_password' $inventory/group_vars/all/vault.yml

These addresses answer on this machine only. From elsewhere: ssh -L 8080:$address:8080 -L 5555:$address:5555 THIS_MACHINE

Try next
  run a DAG       switch parallel_dag on in the web UI and trigger it
  add a worker    write "worker3:" below worker2 in $inventory/hosts.yml, then: make demo
  open a shell    make shell HOST=worker1
  change a value  edit $inventory/group_vars/all/, then: make demo
  remove it all   make demo-down
END
}

down() {
  # Where podman is missing, no demo can be running.
  if command -v podman > /dev/null; then
    ANSIBLE_LOCALHOST_WARNING=false ansible-playbook -i "$overlay" lab/destroy.yml
    lab/image.sh --remove
  fi
  rmdir --ignore-fail-on-non-empty .lab 2> /dev/null || true
}

case ${1:-} in
  up | down) "$1" ;;
  *)
    echo "usage: lab/demo.sh up|down" >&2
    exit 2
    ;;
esac
