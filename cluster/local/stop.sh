#!/bin/bash
# Stops the cluster that cluster/local/start.sh started in the folder $DISTNUM_CLUSTER (default:
# /tmp/distnum-cluster-UID), and removes the folder.

set -euo pipefail

home=${DISTNUM_CLUSTER:-/tmp/distnum-cluster-$UID}
if [[ $home != /* ]]; then home=$PWD/$home; fi

# Only start.sh of this user makes such a folder.
mark=
if [ -d "$home" ] && [ ! -L "$home" ] && [ "$(stat -c %u:%a -- "$home")" = "$UID:700" ] && [ -f "$home/mark" ]; then
  mark=$(head -c 100 -- "$home/mark" | tr -d '\0')
fi
if [[ ! $mark =~ ^[0-9a-f]{32}$ ]]; then
  echo "There is no cluster of yours in '$home'." >&2
  exit 2
fi

groups() { # prints the process groups in which a process has the mark in its environment
  local file
  grep -lsz "^DISTNUM_CLUSTER_MARK=$mark\$" /proc/[0-9]*/environ | while read -r file; do
    if [ -O "$file" ]; then ps -o pgid= -p "$(cut -d / -f 3 <<< "$file")"; fi
  done | sort -u || true # none is left, or one has just ended
}

for signal in TERM KILL; do
  for group in $(groups); do
    kill -s "$signal" -- "-$group" 2> /dev/null || true
  done
  for _ in {1..20}; do
    if [ -z "$(groups)" ]; then break 2; fi
    sleep 0.25
  done
done
rm -rf -- "$home"
