#!/usr/bin/env bash
# Resolve Airflow's packages afresh: the newest of each, less what roles/airflow/files/constraints leaves out. Run a cluster
# with the result. A package whose newest version breaks Airflow shows here first; those constraints then leave it out, too.
# usage: lab/lock_check.sh
set -euo pipefail
cd "$(dirname "$0")/.."

overlay=lab/inventories/lock_check.yml
inventory=.lab/lock_check/inventory
lock=$inventory/airflow-lock.txt
play() { ansible-playbook -i "$inventory" -i "$overlay" "$@"; }

remove() {
  ANSIBLE_LOCALHOST_WARNING=false ansible-playbook -i "$overlay" lab/destroy.yml
  rmdir --ignore-fail-on-non-empty .lab 2> /dev/null || true
}

finish() {
  local code=$?
  if ((code)) && [[ -e $lock ]]; then
    printf '\nThe newest packages do not work. Suspects, from the lock that ships to the one that failed:\n' >&2
    tools/locks.py --compare "$lock" >&2 || true
  elif ((code)); then
    printf '\nThere is no new lock: see above.\n' >&2
  fi
  # What failed is told above; an exit code of the removal would hide it.
  remove || true
  exit "$code"
}

lab/machine.sh
# What an interrupted run left: its lock would be preferred to the newest versions.
remove
trap finish EXIT
lab/inventory.sh lock_check
play lab/create.yml
play playbooks/secrets.yml
play playbooks/lock.yml -e airflow_lock_upgrade=true -e airflow_lock_cutoff= -e airflow_constraints=
play site.yml
play playbooks/verify.yml
printf '\nThe newest packages work. From the lock that ships:\n'
tools/locks.py --compare "$lock"
