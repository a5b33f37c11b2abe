#!/usr/bin/env bash
# Run every stage of the tests in order, up to the first that fails.
# usage: lab/test.sh        what fits into an hour
#        lab/test.sh all    with the long scenarios
set -euo pipefail
shopt -s extglob nullglob
cd "$(dirname "$0")/.."

mkdir -p .cache
passed=0
stage() {
  local name=$1 start=$SECONDS
  shift
  printf '\n===== %s\n' "$name"
  rm -f .cache/failures.txt .cache/ansible.log
  if ! ANSIBLE_LOG_PATH=$PWD/.cache/ansible.log "$@"; then
    # What failed comes last, where a reader of a long log looks: tests, or else Ansible's tasks.
    if [[ -s .cache/failures.txt ]]; then
      cat .cache/failures.txt
    elif [[ -s .cache/ansible.log ]]; then
      grep -E -A 30 '[|] (fatal|failed): ' .cache/ansible.log | tail -n 150 || true
    fi
    printf '\n===== %s FAILED after %d s\n%d passed, 1 failed\n' "$name" $((SECONDS - start)) "$passed"
    exit 1
  fi
  passed=$((passed + 1))
  printf '===== %s passed in %d s\n' "$name" $((SECONDS - start))
}

stage machine lab/machine.sh chromium shellcheck
stage lint make --no-print-directory lint
stage unit make --no-print-directory unit
long=' packages '
# The smallest first: what breaks everywhere shows soonest there.
for file in molecule/{single_host,cluster,!(single_host|cluster)}/molecule.yml; do
  scenario=$(basename "$(dirname "$file")")
  if [[ ${1:-} == all || $long != *" $scenario "* ]]; then
    stage "scenario $scenario" molecule test -s "$scenario"
  fi
done

# The README's own commands, as a newcomer types them. Last, because it takes the image along.
nothing_left() {
  local lab=label=dataops-airflow-lab
  [[ -z $(podman ps --all --quiet --filter "$lab=demo") && -z $(podman network ls --quiet --filter "$lab=demo") ]] &&
    [[ ! -e .lab/demo && ! -e .cache/lab ]] &&
    # The hosts of another lab keep their image.
    [[ -n $(podman ps --all --quiet --filter "$lab") || -z $(podman images --quiet --filter reference=localhost/airflow-lab) ]]
}
stage "make demo" make --no-print-directory demo
stage "make demo, again" make --no-print-directory demo
stage "make demo-down" make --no-print-directory demo-down
stage "nothing is left of the demo" nothing_left

printf '\n%d passed, 0 failed\n' "$passed"
