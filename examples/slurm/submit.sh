#!/bin/bash
# Scores a large set on a Slurm cluster: an array of shards, then a job that joins them.
#
#   submit.sh PREDICTIONS REFERENCES RESULTS [SHARDS]
#
# PREDICTIONS, REFERENCES and RESULTS are folders that all nodes see. RESULTS/results.json is what a single run of
# `medseg evaluate` would have written, byte for byte. Environment: OPTIONS (more options of medseg evaluate),
# ARRAY (which shards to run, for example 3,7 after a failure; all of them by default). Prints the number of the
# merging job.
set -euo pipefail

if [ $# -lt 3 ] || [ $# -gt 4 ]; then
    sed -n '2,5p' "$0" >&2
    exit 2
fi
here="$(cd "$(dirname "$0")" && pwd)"
PREDICTIONS="$(realpath "$1")" REFERENCES="$(realpath "$2")" SHARDS="${4:-10}"
mkdir -p "$3/log"
RESULTS="$(realpath "$3")"
export PREDICTIONS REFERENCES RESULTS SHARDS OPTIONS="${OPTIONS:-}"

array="${ARRAY:-1-$SHARDS}"
# A part of an earlier submission must not pass for one of this.
for index in $(seq 1 "$SHARDS"); do
    if [ -z "${ARRAY:-}" ]; then rm -f "$RESULTS/part_$index.json" "$RESULTS/part_$index.json.partial"; fi
done
job="$(sbatch --parsable --export=ALL --array="$array" --output="$RESULTS/log/shard_%a.txt" "$here/evaluate_shard.sh")"
sbatch --parsable --export=ALL --dependency="afterany:$job" --output="$RESULTS/log/merge.txt" "$here/merge.sh"
