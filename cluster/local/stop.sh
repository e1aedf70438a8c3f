#!/bin/bash
# Stops the cluster that cluster/local/start.sh started, and removes its folder.

set -euo pipefail

home=${DISTNUM_CLUSTER:-/tmp/distnum-cluster}
if [ ! -e "$home/pids" ]; then
  echo "There is no cluster in $home." >&2
  exit 2
fi

# Each node is a process group of its own.
for signal in TERM KILL; do
  while read -r pid; do
    kill -s "$signal" -- "-$pid" 2> /dev/null || true
  done < "$home/pids"
  for _ in $(seq 20); do
    alive=0
    while read -r pid; do
      if kill -s 0 -- "-$pid" 2> /dev/null; then alive=1; fi
    done < "$home/pids"
    if [ $alive = 0 ]; then break; fi
    sleep 0.25
  done
done
rm -rf "$home"
