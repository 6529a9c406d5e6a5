#!/usr/bin/env bash
# Compiles kernels.cu to kernels.ptx, the text that the driver turns into code for its GPU.
#
#     src/nn/cuda/make_ptx.sh [FOLDER]
#
# Needs python3 and network access, no GPU and no CUDA: the compiler comes from the Python package index into FOLDER
# [default: a temporary one], about 300 MB. The text is written for compute_75 (Turing) in PTX 6.3, the oldest of each
# that has all it uses, so that every driver that knows such a GPU reads it; ptxas then assembles it for every
# generation since. tests/cuda checks that kernels.ptx belongs to kernels.cu.
set -euo pipefail
cd "$(dirname "$0")"
folder="${1:-$(mktemp -d)}"
if [ ! -x "$folder/bin/pip" ]; then
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet \
        'nvidia-cuda-nvcc==13.0.88' 'nvidia-cuda-crt==13.0.88' 'nvidia-nvvm==13.0.88' \
        'nvidia-cuda-runtime==13.0.96' 'nvidia-cuda-cccl==13.0.85'
fi
export PATH="$(echo "$folder"/lib/python3*/site-packages/nvidia/cu13)/bin:$PATH"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
nvcc -arch=compute_75 -ptx -O3 --fmad=true -o "$work/compiled.ptx" kernels.cu
{
    echo "// Made by make_ptx.sh from kernels.cu, SHA-256 $(sha256sum kernels.cu | cut -d' ' -f1), with nvcc 13.0.88."
    # Without the compiler's own remarks, and with the oldest version that assembles.
    sed -e '/^\/\//d' -e '/^$/d' -e 's/^\.version .*/.version 6.3/' "$work/compiled.ptx"
} > "$work/kernels.ptx"
for generation in sm_75 sm_80 sm_86 sm_89 sm_90 sm_100 sm_120; do
    ptxas -arch="$generation" -o "$work/$generation.cubin" "$work/kernels.ptx"
    echo "assembled for $generation: $(stat -c %s "$work/$generation.cubin") bytes"
done
mv "$work/kernels.ptx" kernels.ptx
