#
# Ansible managed
#
# Restarts a worker that worker_check.py found idle beside its work: a warm shutdown, in which running tasks finish.
set -eu
[ -e /run/airflow-worker-check@gpu/restart ] || exit 0
rm /run/airflow-worker-check@gpu/restart
# One that somebody stops or restarts already is left to that.
[ "$(systemctl is-active airflow-worker@gpu.service)" = active ] || exit 0
main() { systemctl show --value --property=MainPID airflow-worker@gpu.service; }
# The tasks of the other workers on this host do not count.
busy() {
  for task in $(pgrep --uid airflow --full '^airflow worker -- '); do
    ! grep -qs '/airflow-worker@gpu[.]service' "/proc/$task/cgroup" || return 0
  done
  return 1
}
stuck=$(main)
systemctl restart --no-block airflow-worker@gpu.service
idle=0
while [ "$(main)" = "$stuck" ]; do
  if busy; then idle=0; else idle=$((idle + 1)); fi
  # Without a task, and without one whose end is still to be told (100 s), nothing is left that it could wait for.
  [ "$idle" -lt 120 ] || systemctl kill --signal=KILL airflow-worker@gpu.service || true
  sleep 1
done
