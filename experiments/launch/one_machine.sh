#!/bin/sh
# One machine with any number of GPUs: one process drives them all. Never run here: no GPU was at hand.
#     pip install 'jaxnas[cuda,imagenet]'
#     sh experiments/launch/one_machine.sh DATA_DIR WORKDIR
set -eu
data_dir=$1
workdir=$2

# 75 means "asked to stop, state saved"; whatever restarts the job may go on.
exec python -m experiments.imagenet_search --preset full --precision bfloat16 \
    --data-dir "$data_dir" --workdir "$workdir" --workers 16
