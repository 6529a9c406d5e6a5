#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can show: medseg on the GPU against the processor, against PyTorch and against
# nnU-Net on the same GPU, in turns, with the ratio of every pair.
#
#     examples/gpu_check.sh MODEL IMAGES [ROUNDS]
#
# MODEL is an nnU-Net results folder (Trainer__Plans__3d_fullres), IMAGES a folder of cases in its naming (case_0000.nii.gz),
# ROUNDS how often each pair is timed [default: 3]. Needs a built medseg (MEDSEG, default target/release/medseg), cuDNN 9 on
# the loader's path, and for the comparison a Python with torch and nnunetv2 (PYTHON, default python3); without it, medseg
# is only timed against itself. With MEDSEG_SHARED also nnU-Net's reference cases. Nothing else should use the GPU.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,11p' "$0" | cut -c3-
    exit 2
fi
model="$(realpath "$1")"
images="$(realpath "$2")"
rounds="${3:-3}"
medseg="${MEDSEG:-target/release/medseg}"
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$medseg" info --devices
"$medseg" info --devices --json | grep -q '"device": "cuda:0"' || { echo "error: no GPU" >&2; exit 1; }

echo "== labels: every precision against the processor"
"$medseg" infer -i "$images" -m "$model" -o "$work/cpu" --device cpu -q
for precision in fp32 tf32 fp16 bf16; do
    "$medseg" infer -i "$images" -m "$model" -o "$work/$precision" --device cuda --precision "$precision" -q
    for expected in "$work"/cpu/*.nii*; do
        echo "$precision $(basename "$expected"): $("$medseg" compare "$expected" "$work/$precision/$(basename "$expected")" | tail -1)" || true
    done
done

if [ -n "${MEDSEG_SHARED:-}" ]; then
    echo "== nnU-Net's reference cases on the GPU"
    "$python" "$(dirname "$0")/../tests/every_isa.py" "$medseg" "$MEDSEG_SHARED/reference/nnunet" --sets cuda
fi

seconds() { # runs a command, prints its wall seconds
    local start end
    start=$(date +%s.%N)
    "$@" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
    end=$(date +%s.%N)
    echo "$end - $start" | bc -l
}

gpus="$("$medseg" info --devices --json | grep -c '"device": "cuda:')"
if [ "$gpus" -gt 1 ]; then
    echo "== cases spread over $gpus GPUs against one: the same bytes where the GPUs are of one kind"
    for round in $(seq "$rounds"); do
        one="$(seconds "$medseg" infer -i "$images" -m "$model" -o "$work/first$round" --device cuda --precision fp16)"
        all="$(seconds "$medseg" infer -i "$images" -m "$model" -o "$work/all$round" --device cuda:all --precision fp16)"
        same="$(diff -rq "$work/first$round" "$work/all$round" > /dev/null && echo same || echo other)"
        echo "round $round: one $one s, all $all s, ratio $(echo "$one / $all" | bc -l | cut -c1-5), $same bytes"
    done
fi

if "$python" -c 'import torch, nnunetv2; assert torch.cuda.is_available()' 2> /dev/null; then
    echo "== one patch: PyTorch autocast, channels last, cuDNN benchmark, against medseg fp16, both without copies"
    cat > "$work/forward.py" <<'PYTHON'
import sys, time, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
predictor = nnUNetPredictor(device=torch.device("cuda"), verbose=False)
predictor.initialize_from_trained_model_folder(sys.argv[1], use_folds=None, checkpoint_name="checkpoint_final.pth")
torch.backends.cudnn.benchmark = True
patch = predictor.configuration_manager.patch_size
flat = len(patch) == 2
layout = torch.channels_last if flat else torch.channels_last_3d
network = predictor.network.cuda().eval().to(memory_format=layout)
channels = len(predictor.dataset_json["channel_names"])
image = torch.randn(1, channels, *patch, device="cuda").to(memory_format=layout)
times = []
with torch.inference_mode(), torch.autocast("cuda", torch.float16):
    for _ in range(15):
        torch.cuda.synchronize(); start = time.perf_counter()
        network(image)
        torch.cuda.synchronize(); times.append(1e3 * (time.perf_counter() - start))
print(sorted(times[5:])[len(times[5:]) // 2])
PYTHON
    for round in $(seq "$rounds"); do
        theirs="$("$python" "$work/forward.py" "$model" | tail -1)"
        ours="$("$medseg" bench model -m "$model" --device cuda --precision fp16 --repeats 15 --json |
            "$python" -c 'import json, sys; print(json.load(sys.stdin)["runs"][0]["median_ms"])')"
        echo "round $round: PyTorch $theirs ms, medseg $ours ms, ratio $(echo "$theirs / $ours" | bc -l | cut -c1-5)"
    done
    echo "== whole runs: nnUNetv2_predict_from_modelfolder against medseg infer --precision fp16"
    for round in $(seq "$rounds"); do
        theirs="$(seconds nnUNetv2_predict_from_modelfolder -i "$images" -o "$work/theirs$round" -m "$model" -device cuda)"
        ours="$(seconds "$medseg" infer -i "$images" -m "$model" -o "$work/ours$round" --device cuda --precision fp16)"
        echo "round $round: nnU-Net $theirs s, medseg $ours s, ratio $(echo "$theirs / $ours" | bc -l | cut -c1-5)"
    done
else
    echo "note: no Python with torch, nnunetv2 and this GPU: compared with the processor only"
    for round in $(seq "$rounds"); do
        theirs="$(seconds "$medseg" infer -i "$images" -m "$model" -o "$work/theirs$round" --device cpu)"
        ours="$(seconds "$medseg" infer -i "$images" -m "$model" -o "$work/ours$round" --device cuda)"
        echo "round $round: processor $theirs s, GPU $ours s, ratio $(echo "$theirs / $ours" | bc -l | cut -c1-5)"
    done
fi
