#!/bin/sh
# A Cloud TPU pod slice: the same command on every host of the slice. Never run here: no TPU was at hand.
#     sh experiments/launch/tpu_slice.sh TPU_NAME ZONE DATA_DIR WORKDIR
# DATA_DIR is a folder that every host sees, with imagenet2012 prepared as array_record; WORKDIR is needed by the first
# host alone. The library and its extras [tpu,imagenet] must be installed on every host.
set -eu
name=$1
zone=$2
data_dir=$3
workdir=$4

exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "cd jaxnas && \
    python -m experiments.imagenet_search --preset full --precision bfloat16 \
    --data-dir '$data_dir' --workdir '$workdir' --workers 48 --coordinator auto"
