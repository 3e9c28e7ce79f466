#!/bin/sh
# One of the machines of pirl/machines: a worker that takes a run at a time, in a clone of its own (docs/machines.md).
#   flows/worker.sh                      # in the clone in which it is called
#   sbatch --array=1-4 flows/worker.sh   # by Slurm, four of them, in clones that the job makes on its node's disk
#SBATCH --job-name=pirl
#SBATCH --gres=gpu:1
#SBATCH --time=1-00:00:00
set -eu
if [ -n "${SLURM_JOB_ID:-}" ]; then
    clone=${TMPDIR:-/tmp}/pirl-$SLURM_JOB_ID
    git clone --quiet . "$clone"
    # What git does not have: edited parameters, and DVC's remote where it is this machine's alone.
    cp params.yaml "$clone/"
    [ ! -f .dvc/config.local ] || cp .dvc/config.local "$clone/.dvc/"
    cd "$clone"
fi
export PIRL_SHARE=1 PIRL_CLONE="$PWD" PYTHONPATH="$PWD"
exec prefect worker start --pool pirl --limit 1
