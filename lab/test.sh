#!/usr/bin/env bash
# Run every stage of the tests in order, up to the first that fails.
# usage: lab/test.sh        what fits into an hour
#        lab/test.sh all    with the long scenarios, and the tests marked `long` of the others
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

stage machine lab/machine.sh chromium curl nftables shellcheck
# Lint and the tests without hosts leave a processor free: the first scenarios find their image built, or wait for it.
lab/image.sh > /dev/null 2>&1 &
stage lint make --no-print-directory lint
stage unit make --no-print-directory unit
stage playbooks make --no-print-directory playbooks
stage package make --no-print-directory package
long=' concurrency control_hosts debian13 faults firewall packages rotate tls workers '
if [[ ${1:-} != all ]]; then
  export TEST_WITHOUT_LONG=true
fi
# The smallest first: what breaks everywhere shows soonest there.
for file in molecule/{single_host,cluster,!(single_host|cluster)}/molecule.yml; do
  scenario=$(basename "$(dirname "$file")")
  if [[ ${1:-} == all || $long != *" $scenario "* ]]; then
    stage "scenario $scenario" molecule test -s "$scenario"
  fi
done

# The README's own commands, as a newcomer types them. Last, because it takes the image along.
# The first run is as talkative as can be, and yet tells no secret.
first() {
  ANSIBLE_VERBOSITY=3 ANSIBLE_DIFF_ALWAYS=true make --no-print-directory demo > .cache/first.txt 2>&1
}
no_secret_is_told() {
  .venv/bin/python - .lab/demo/inventory/group_vars/all/vault.yml .cache/first.txt << 'END'
import pathlib, sys, yaml
secrets = yaml.safe_load(pathlib.Path(sys.argv[1]).read_text())
said = pathlib.Path(sys.argv[2]).read_text()
told = sorted(name for name, value in secrets.items() if value in said)
assert len(secrets) >= 10 and "VALUE_SPECIFIED_IN_NO_LOG" in said, "this run would have told nothing"
sys.exit(f"told: {told}" if told else 0)
END
}
demo() {
  make --no-print-directory demo | tee .cache/demo.txt
}
nothing_changed() {
  grep -q ' changed=0' .cache/demo.txt && ! grep -E ' changed=[1-9]' .cache/demo.txt
}
# The addresses that it prints answer, and its commands show the passwords that they ask for and open a shell.
printed_is_true() {
  local web flower passwords
  web=$(awk '/^Web UI / {print $3}' .cache/demo.txt)
  flower=$(awk '/^Flower / {print $2}' .cache/demo.txt)
  passwords=$(bash -c "$(sed -n 's/^Passwords  //p' .cache/demo.txt)")
  value() { .venv/bin/python -c 'import sys, yaml; print(yaml.safe_load(sys.stdin)[sys.argv[1]])' "$1" <<< "$passwords"; }
  printf '{"username": "admin", "password": "%s"}' "$(value airflow_admin_password)" |
    curl --silent --show-error --fail --header 'Content-Type: application/json' --data @- "$web/auth/token" > /dev/null &&
    printf 'user = "admin:%s"' "$(value airflow_flower_password)" |
    curl --silent --show-error --fail --config - "$flower/workers" > /dev/null &&
    ! curl --silent --fail "$flower/workers" > /dev/null &&
    [[ $(make --no-print-directory shell HOST=worker1 <<< hostname 2> /dev/null | tail -n 1) == worker1 ]]
}
nothing_left() {
  local lab=label=dataops-airflow-lab
  [[ -z $(podman ps --all --quiet --filter "$lab=demo") && -z $(podman network ls --quiet --filter "$lab=demo") ]] &&
    [[ ! -e .lab/demo && ! -e .cache/lab ]] &&
    # The hosts of another lab keep their image.
    [[ -n $(podman ps --all --quiet --filter "$lab") || -z $(podman images --quiet --filter reference=localhost/airflow-lab) ]]
}
stage "make demo" first
stage "no secret in its output" no_secret_is_told
stage "make demo, again" demo
stage "nothing changed" nothing_changed
stage "what the demo prints" printed_is_true
stage "make demo-down" make --no-print-directory demo-down
stage "nothing is left of the demo" nothing_left

printf '\n%d passed, 0 failed\n' "$passed"
