#!/usr/bin/env bash
# All that needs an NVIDIA GPU, in one go, under 8 minutes and without a network: the tests marked "cuda", then
# `python -m benchmarks gpu`, which writes results/gpu-*.json. It needs PyTorch for CUDA with the Triton that comes with it.
#
#   bash benchmarks/gpu.sh                     # with `python`, or PYTHON=..., of an environment that has the rest
#   WHEELS=folder bash benchmarks/gpu.sh       # what is missing is installed from wheels carried along
#
# RESULTS=folder says where the files go. Without a GPU it says so and stops with status 0.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python}"
RESULTS="${RESULTS:-results}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$RESULTS"

if [ -n "${WHEELS:-}" ]; then
  # torch and triton stay as they are: --no-deps, and only what does not import yet.
  for wheel in "$WHEELS"/*.whl; do
    "$PYTHON" -m pip install --quiet --no-index --no-deps "$wheel" || echo "not installed: $wheel"
  done
fi

"$PYTHON" - <<'PY'
import torch
print("torch", torch.__version__, "CUDA", torch.version.cuda)
try:
    import triton
    print("triton", triton.__version__)
except ImportError as error:
    print("triton:", error)
PY

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "skipped: PyTorch sees no NVIDIA GPU; nothing was tested or measured"
  exit 0
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
"$PYTHON" -m alignmamba2 doctor

status=0
# A failing test does not keep the measurements from being made.
timeout 150 "$PYTHON" -m pytest -q -o addopts= -m cuda -p no:cacheprovider tests/test_gpu.py tests/test_scan_backends.py \
  tests/test_discrepancy.py tests/test_transport_edges.py tests/test_training.py tests/test_batch.py \
  2>&1 | tee "$RESULTS/gpu-tests.log" || status=$?
for part in scan models layer alignment; do
  timeout 75 "$PYTHON" -m benchmarks gpu --only "$part" --budget 0.3 --results "$RESULTS" || status=$?
done
exit "$status"
