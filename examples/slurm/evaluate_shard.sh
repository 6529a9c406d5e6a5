#!/bin/bash
# One shard of an evaluation: task I of the array scores every Nth case. Submitted by submit.sh, which sets
# SHARDS, PREDICTIONS, REFERENCES, RESULTS and OPTIONS.
#SBATCH --job-name=medseg-evaluate
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
set -euo pipefail

part="$RESULTS/part_$SLURM_ARRAY_TASK_ID.json"
# --resume goes on where a task that was stopped and put back into the queue has been; --force replaces the
# part of an earlier submission. OPTIONS is split into words on purpose.
# shellcheck disable=SC2086
medseg evaluate -q -p "$PREDICTIONS" -r "$REFERENCES" -o "$part" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS" \
    --threads "${SLURM_CPUS_PER_TASK:-1}" --resume --force ${OPTIONS:-} || code=$?
# 3: some cases could not be scored. The part is whole, lists them, and the merged results will.
[ "${code:-0}" = 0 ] || [ "$code" = 3 ]
