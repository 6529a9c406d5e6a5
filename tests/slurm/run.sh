#!/usr/bin/env bash
# Runs examples/slurm and examples/snakemake for real, on one machine:
#
#   tests/slurm/run.sh target/release/medseg [CASES]
#
# Makes CASES (300) small phantom pairs, scores them in one run and in 10 shards, and compares the results byte
# for byte; also with a shard that fails. Needs root on Debian: installs slurmctld, slurmd, slurm-client and munge,
# starts them with a configuration of its own (SLURM_CONF), and stops what it started. Snakemake is taken from
# PATH or installed into a virtual environment.
set -euo pipefail

medseg="$(realpath "$1")"
cases="${2:-300}"
root="$(cd "$(dirname "$0")/../.." && pwd)"
[ "$(id -u)" = 0 ] || { echo "error: needs root, to start munge and Slurm" >&2; exit 1; }
work="$(mktemp -d)"
started=()
stop() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap stop EXIT
step() { printf '== %s\n' "$*"; }
fail() { echo "error: $*" >&2; tail -n 20 "$work"/results/log/*.txt "$work"/slurm/*.log >&2 2>/dev/null || true; exit 1; }
mkdir -p "$work/bin" "$work/slurm/state" "$work/slurm/spool"
ln -s "$medseg" "$work/bin/medseg"
export PATH="$work/bin:$PATH"

step "packages"
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
fi

step "$cases pairs"
mkdir -p "$work/predictions" "$work/references"
for seed in 1 2 3 4 5 6; do
    medseg phantom -q -o "$work/case$seed" --seed "$seed" --size 40,36,30 --spacing 8,8,8 --damaged
done
for number in $(seq -w 1 "$cases"); do
    seed=$((1 + 10#$number % 6))
    ln "$work/case$seed/pred.nii.gz" "$work/predictions/case_$number.nii.gz"
    ln "$work/case$seed/label.nii.gz" "$work/references/case_$number.nii.gz"
done

step "single run"
medseg evaluate -q -p "$work/predictions" -r "$work/references" -o "$work/single.json" >/dev/null

step "Slurm on this machine"
if ! pgrep -x munged >/dev/null; then
    mkdir -p /run/munge /var/log/munge
    chown -R munge:munge /run/munge /var/log/munge /etc/munge /var/lib/munge
    su -s /bin/sh munge -c /usr/sbin/munged
    started+=("$(cat /run/munge/munged.pid)")
fi
sed -e "s|@DIR@|$work/slurm|" -e "s|@CPUS@|$(nproc)|" "$root/tests/slurm/slurm.conf" > "$work/slurm/slurm.conf"
echo "CgroupAutomount=no" > "$work/slurm/cgroup.conf"
export SLURM_CONF="$work/slurm/slurm.conf"
slurmctld -c -D -f "$SLURM_CONF" 2>/dev/null & started+=($!)
slurmd -D -N localhost -f "$SLURM_CONF" 2>/dev/null & started+=($!)
for _ in $(seq 60); do
    sinfo -h -o %t 2>/dev/null | grep -q idle && break
    sleep 0.5
done
sinfo -h -o %t | grep -q idle || fail "Slurm has no idle node: $(sinfo 2>&1)"

# Waits for the job and prints how it ended.
outcome() {
    while squeue -h -j "$1" 2>/dev/null | grep -q .; do sleep 0.5; done
    scontrol show job "$1" -o | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p'
}
submit() { "$root/examples/slurm/submit.sh" "$work/predictions" "$work/references" "$work/results" 10; }

step "array of 10 shards, then the merge"
state="$(outcome "$(submit)")"
[ "$state" = COMPLETED ] || fail "the merge ended as $state"
cmp "$work/single.json" "$work/results/results.json" || fail "the merged results differ from the single run"

step "a shard that fails is named, and can be run again"
rm "$work/results/results.json"
# In place of the program: one that fails for shard 4.
cat > "$work/bin/broken" <<SCRIPT
#!/bin/bash
case " \$* " in *" --shard 4/10 "*) exit 1 ;; esac
exec "$medseg" "\$@"
SCRIPT
chmod +x "$work/bin/broken"
ln -sfn broken "$work/bin/medseg"
state="$(outcome "$(submit)")"
[ "$state" = FAILED ] || fail "the merge of an incomplete set ended as $state"
grep -q "1 of 10 shards are missing: 4" "$work/results/log/merge.txt" || fail "the missing shard is not named"
[ ! -e "$work/results/results.json" ] || fail "an incomplete set was merged"
ln -sfn "$medseg" "$work/bin/medseg"
state="$(outcome "$(ARRAY=4 submit)")"
[ "$state" = COMPLETED ] || fail "the second merge ended as $state"
cmp "$work/single.json" "$work/results/results.json" || fail "the results after the repeated shard differ"

step "Snakemake"
if ! command -v snakemake >/dev/null; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q snakemake-minimal 2>/dev/null || "$work/venv/bin/pip" install -q snakemake
    export PATH="$work/venv/bin:$PATH"
fi
cd "$work"
snakemake -q -s "$root/examples/snakemake/Snakefile" --cores "$(nproc)" --config \
    predictions=predictions references=references results=snake shards=10 > "$work/snakemake.log" 2>&1 \
    || { cat "$work/snakemake.log" >&2; exit 1; }
cmp "$work/single.json" "$work/snake/results.json" || fail "Snakemake's results differ from the single run"

step "done: $cases pairs, 10 shards, results equal to the single run"
