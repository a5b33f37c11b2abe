#
# Ansible managed
#
# Restarts a worker that worker_check.py found idle beside its work: a warm shutdown, in which running tasks finish.
set -eu
[ -e /run/airflow-worker-check/restart ] || exit 0
rm /run/airflow-worker-check/restart
# One that somebody stops or restarts already is left to that.
[ "$(systemctl is-active airflow-worker.service)" = active ] || exit 0
main() { systemctl show --value --property=MainPID airflow-worker.service; }
stuck=$(main)
systemctl restart --no-block airflow-worker.service
idle=0
while [ "$(main)" = "$stuck" ]; do
  if pgrep --uid airflow --full '^airflow worker -- ' > /dev/null; then idle=0; else idle=$((idle + 1)); fi
  # Without a task, and without one whose end is still to be told (100 s), nothing is left that it could wait for.
  [ "$idle" -lt 120 ] || systemctl kill --signal=KILL airflow-worker.service || true
  sleep 1
done
