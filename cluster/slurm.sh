#!/bin/bash
# One training on a Slurm cluster: a Ray node on each machine, with one worker that uses all its cores.
#
#   sbatch cluster/slurm.sh --hidden 256,256 --steps 2000 --out runs/first
#   sbatch --nodes=8 cluster/slurm.sh resume runs/first
#
# You pay for the allocation below. The environment that is activated must have distnum and ray[default];
# the run folder must be on a file system that all machines share.

#SBATCH --job-name=distnum
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=02:00:00
#SBATCH --signal=B:TERM@120

set -euo pipefail

# shellcheck source=/dev/null
source "${DISTNUM_ENV:-$HOME/distnum-env}/bin/activate"

command=train
case "${1:-}" in
  train | resume | scale)
    command=$1
    shift
    ;;
esac

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_health_check_initial_delay_ms=0 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=1000 RAY_health_check_failure_threshold=3
export RAY_worker_niceness=0
# Only processes of this job may use its Ray cluster.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python3 -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN

arguments=(--address auto)
if [ "$command" != scale ]; then
  arguments+=(--workers "$SLURM_JOB_NUM_NODES" --threads-per-worker "$SLURM_CPUS_PER_TASK")
fi

# Slurm sends SIGTERM two minutes before the time limit; the training then saves its state.
srun ray symmetric-run \
  --address "$head:6379" \
  --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" \
  -- distnum "$command" "$@" "${arguments[@]}" &
wait $!
