#!/bin/bash
# Slurm: one process for each GPU, as JAX's detection of Slurm expects, restarted from its checkpoint before the time limit and after a failed node.
# Never run here: no cluster was at hand.
#     sbatch --export=ALL,DATA_DIR=...,WORKDIR=... experiments/launch/slurm.sh
#SBATCH --job-name=jaxnas
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# SIGTERM to the tasks five minutes before the end: the search finishes its step, saves, and exits with 75.
#SBATCH --signal=TERM@300
set -u

srun --kill-on-bad-exit=1 python -m experiments.imagenet_search --preset full --precision bfloat16 \
    --data-dir "$DATA_DIR" --workdir "$WORKDIR" --workers 6 --coordinator auto
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
