#!/bin/bash
# Joins the shards. Runs after all tasks of the array have ended, however they ended: a job that waits for their
# success (afterok) would wait for ever when one fails. So the first thing is to look what is missing.
#SBATCH --job-name=medseg-merge
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
set -euo pipefail

parts=() missing=()
for index in $(seq 1 "$SHARDS"); do
    part="$RESULTS/part_$index.json"
    # Outputs appear under their names only when whole; a .partial beside it is a task that is not done.
    if [ -f "$part" ] && [ ! -e "$part.partial" ]; then parts+=("$part"); else missing+=("$index"); fi
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "error: ${#missing[@]} of $SHARDS shards are missing: ${missing[*]}" >&2
    echo "hint: look into $RESULTS/log, then: submit.sh with ARRAY=$(IFS=,; echo "${missing[*]}")" >&2
    exit 1
fi
medseg evaluate --merge "${parts[@]}" -o "$RESULTS/results.json" --csv "$RESULTS/tables" --force
