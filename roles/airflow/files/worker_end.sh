#!/bin/sh
# Stops workers without waiting for their tasks, which are ended.
# usage: worker_end.sh "UNIT..." PGREP_OPTIONS...  the workers, and what selects the processes that run tasks
set -u
units=$1
shift
# Tasks of other units on this host, such as those of a scheduler with LocalExecutor, go on.
tasks() {
  for task in $(pgrep "$@"); do
    for unit in $units; do
      if grep -qsF "/$unit" "/proc/$task/cgroup"; then echo "$task"; fi
    done
  done
}
tell() {
  signal=$1
  shift
  for task in $(tasks "$@"); do kill -s "$signal" "$task"; done
}
# shellcheck disable=SC2086  # a unit for each word
stop() { systemctl "$@" $units; }

stop stop --no-block
# Only the process that runs a task is told, and killed when its on_kill() took too long: its supervisor lives to say that
# the task failed, so that it may be tried elsewhere at once, instead of after a heartbeat timeout.
tell TERM "$@"
waited=0
while [ -n "$(tasks "$@")" ] && [ "$waited" -lt 10 ]; do
  sleep 1
  waited=$((waited + 1))
done
tell KILL "$@"
# shellcheck disable=SC2086  # as above
timeout 30 systemctl stop $units
stop kill --signal=KILL
stop reset-failed
exit 0
