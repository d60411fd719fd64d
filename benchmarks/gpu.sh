#!/usr/bin/env bash
# Kernels, forward passes, memory and whole evaluations on a CUDA device, in less than eight minutes: benchmarks/gpu.sh [--help]
# PYTHON names the interpreter; its packages are torch, triton and transformers at least. Nothing is installed or downloaded.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} HF_DATASETS_OFFLINE=${HF_DATASETS_OFFLINE:-1} TOKENIZERS_PARALLELISM=false
# Where act-eval is not installed, the one small package that all of it imports may be missing too.
"$python" -c 'import lazy_loader' 2>/dev/null || export PYTHONPATH=$PYTHONPATH:$root/benchmarks/stand_ins
exec "$python" "$root/benchmarks/gpu.py" "$@"
