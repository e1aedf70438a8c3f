#!/bin/bash
# Starts a small real Ray cluster on this machine, to try things out: a head and some more nodes.
#
#   cluster/local/start.sh [NODES] [CPUS]    by default 3 nodes of 2 logical CPUs each
#   cluster/local/stop.sh                    stops them, and nothing else
#
# The environment must have ray[default]. All files are in the folder $DISTNUM_CLUSTER (default:
# /tmp/distnum-cluster). The cluster listens on this machine only, and requires the token in the file "token".

set -euo pipefail

nodes=${1:-3} cpus=${2:-2}
home=${DISTNUM_CLUSTER:-/tmp/distnum-cluster}
port=${DISTNUM_PORT:-6399} dashboard=${DISTNUM_DASHBOARD_PORT:-8265}

if [ -e "$home" ]; then
  echo "$home exists; is a cluster running? cluster/local/stop.sh stops it and removes the folder." >&2
  exit 2
fi
mkdir -m 700 "$home" "$home/tmp"
python3 -c "import secrets; print(secrets.token_hex(32))" > "$home/token"

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$home/token TMPDIR=$home/tmp
export RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
export RAY_health_check_initial_delay_ms=0 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=1000 RAY_health_check_failure_threshold=3
# Stopped nodes end at once.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

start() { # NAME ARGUMENT...
  local name=$1
  shift
  # Each node needs its own session and its own folder. The agents, which start jobs, use any free port,
  # because there may be other Ray nodes on this machine.
  setsid ray start --block --node-ip-address=127.0.0.1 --num-cpus="$cpus" --object-store-memory=150000000 \
    --dashboard-agent-listen-port=0 --temp-dir="$home/$name" "$@" > "$home/$name.log" 2>&1 < /dev/null &
  echo $! >> "$home/pids"
}

wait_for() { # SECONDS COMMAND...
  local until=$((SECONDS + $1))
  shift
  while ! "$@" > /dev/null 2>&1; do
    if [ $SECONDS -ge $until ]; then
      echo "Ray has not started; see $home/*.log." >&2
      exit 1
    fi
    sleep 0.5
  done
}

listens() { (exec 3<> "/dev/tcp/127.0.0.1/$1"); }

start head --head --port="$port" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard"
wait_for 60 listens "$port"
for ((number = 2; number <= nodes; number++)); do
  start "node-$number" --address="127.0.0.1:$port"
done
wait_for 60 listens "$dashboard"

cat << END
$nodes nodes of $cpus CPUs each are starting. With RAY_AUTH_TOKEN_PATH=$home/token:

  distnum submit --address http://127.0.0.1:$dashboard --token-file $home/token --steps 100
  RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$home/token distnum train --address 127.0.0.1:$port --steps 100
END
