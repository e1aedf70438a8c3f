#!/bin/bash
# Starts a small real Ray cluster on this machine, to try things out: a head and some more nodes.
#
#   cluster/local/start.sh [NODES] [CPUS]    by default 3 nodes of 2 logical CPUs each
#   cluster/local/stop.sh                    stops them, and nothing else
#
# The environment must have ray[default]. All files are in the folder $DISTNUM_CLUSTER (default:
# /tmp/distnum-cluster-UID), which only you can enter. The cluster listens on 127.0.0.1 only, and requires the token in
# the file "token" for everything but metrics and health checks. If the start fails, everything is stopped again.

set -euo pipefail
umask 077 # whatever is made here is readable by this user only, from the beginning

nodes=${1:-3} cpus=${2:-2}
home=${DISTNUM_CLUSTER:-/tmp/distnum-cluster-$UID}
if [[ $home != /* ]]; then home=$PWD/$home; fi
port=${DISTNUM_PORT:-6399} dashboard=${DISTNUM_DASHBOARD_PORT:-8265}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

fail() { # CODE MESSAGE
  echo "$2" >&2
  exit "$1"
}

listens() { # PORT ADDRESS USER: whether a server listens there; the arguments are patterns
  awk -v at="$2:$(printf %04X "$1")\$" -v user="^($3)\$" \
    '$2 ~ at && $4 == "0A" && $8 ~ user { found = 1 } END { exit !found }' /proc/net/tcp*
}

for number in "$nodes" "$cpus" "$port" "$dashboard"; do
  [[ $number =~ ^[1-9][0-9]{0,4}$ ]] || fail 2 "'$number' must be a whole number from 1."
done
# Paths of Ray's sockets may have 107 bytes, of which its own names below this folder need up to 75.
[ "$(printf %s "$home" | wc -c)" -le 32 ] || fail 2 "'$home' is too long: set DISTNUM_CLUSTER to a name of up to 32 bytes."
for number in "$port" "$dashboard"; do
  if listens "$number" "" ".*"; then
    fail 2 "Port $number is in use. Is a cluster running? Set DISTNUM_PORT and DISTNUM_DASHBOARD_PORT to other ports."
  fi
done
# This makes a new folder or fails, also for a link. In /tmp no other user can replace it later.
mkdir -- "$home" ||
  fail 2 "A cluster needs a new folder: stop the one in '$home' with stop.sh, or set DISTNUM_CLUSTER to another name."

started=
stop() {
  if [ "$started" ]; then return; fi
  trap '' INT TERM HUP
  tail -n 5 -- "$home"/*.log >&2 || true # there may be none yet
  DISTNUM_CLUSTER=$home "$here/stop.sh"
}
trap stop EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

random() { od -An -v -t x1 -N "$1" /dev/urandom | tr -d ' \n'; }

mark=$(random 16)
printf %s "$mark" > "$home/mark"
random 32 > "$home/token"
mkdir "$home/tmp"
cat > "$home/environment" << END
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$(printf %q "$home/token")
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 # connect to 127.0.0.1; the name is historic
END

# shellcheck source=/dev/null
. "$home/environment"
export TMPDIR=$home/tmp
export RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
export RAY_health_check_initial_delay_ms=0 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=1000 RAY_health_check_failure_threshold=3
# Stopped nodes end at once.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

start() { # NAME ARGUMENT...
  # Each node needs its own session and its own folder. The agents, which start jobs, use any free port,
  # because there may be other Ray nodes on this machine. stop.sh knows the processes by the mark in their environment,
  # which they get in a process group of their own.
  setsid env DISTNUM_CLUSTER_MARK="$mark" python3 "$here/ray_start.py" start --block --node-ip-address=127.0.0.1 \
    --num-cpus="$cpus" --object-store-memory=150000000 --dashboard-agent-listen-port=0 --temp-dir="$home/$1" "${@:2}" \
    > "$home/$1.log" 2>&1 < /dev/null &
}

wait_for_port() { # waits until the cluster listens on a port
  local until=$((SECONDS + 60))
  until listens "$1" 0100007F "$UID"; do # 127.0.0.1
    if [ $SECONDS -ge $until ] || ! kill -s 0 "$head" 2> /dev/null; then fail 1 "Ray has not started."; fi
    sleep 0.5
  done
}

start head --head --port="$port" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard"
head=$!
wait_for_port "$port"
for ((number = 2; number <= nodes; number++)); do
  start "node-$number" --address="127.0.0.1:$port"
done
wait_for_port "$dashboard"
[ "$(stat -c %a -- "$home")" = 700 ] || fail 1 "Other users can enter '$home'."
started=yes

cat << END
$nodes nodes of $cpus CPUs each are starting:

  distnum submit --address http://127.0.0.1:$dashboard --token-file $(printf %q "$home/token") --steps 100
  . $(printf %q "$home/environment"); distnum train --address 127.0.0.1:$port --steps 100
END
