#!/bin/sh
# Restarts a worker that worker_check.py found idle beside its work: a warm shutdown, in which running tasks finish.
# usage: worker_check.sh UNIT FOLDER PGREP_OPTIONS...  the worker, where the finding is, and what selects running tasks
set -eu
unit=$1 finding=$2/restart
shift 2
[ -e "$finding" ] || exit 0
rm "$finding"
# One that somebody stops or restarts already is left to that.
[ "$(systemctl is-active "$unit")" = active ] || exit 0
main() { systemctl show --value --property=MainPID "$unit"; }
# Tasks of other workers on this host do not count.
busy() {
  for task in $(pgrep "$@"); do
    ! grep -qsF "/$unit" "/proc/$task/cgroup" || return 0
  done
  return 1
}
stuck=$(main)
systemctl restart --no-block "$unit"
idle=0
while [ "$(main)" = "$stuck" ]; do
  if busy "$@"; then idle=0; else idle=$((idle + 1)); fi
  # Without a task, and without one whose end is still to be told (100 s), nothing is left that it could wait for.
  [ "$idle" -lt 120 ] || systemctl kill --signal=KILL "$unit" || true
  sleep 1
done
