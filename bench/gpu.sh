#!/usr/bin/env bash
# Checks and measures decoding on a GPU machine that has PyTorch and Triton, installing nothing:
#
#     bash bench/gpu.sh [FOLDER]       # results go to FOLDER, or to bench/results
#
# First fresh random inputs against the float64 reference, then the benchmark; under 8 minutes together.
# One file is left, decode_cuda.json. DEVICE=cpu tries the script where there is no GPU.
set -euo pipefail

device=${DEVICE:-cuda}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
results=${1:-$root/bench/results}
mkdir -p "$results"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

# The package as an installation would lay it out: kernels/ is its subpackage.
cp -r "$root/qa_fast" "$stage/qa_fast"
rm -rf "$stage/qa_fast/kernels" && cp -r "$root/kernels" "$stage/qa_fast/kernels"
export PYTHONPATH=$stage

python=${PYTHON:-python3}
"$python" "$root/bench/check_decode.py" --device "$device" --seconds "${SECONDS_TO_CHECK:-90}" \
    --output "$stage/check.json"
timeout 360 "$python" "$root/bench/decode.py" --device "$device" --output "$stage/decode.json" ${QUICK:+--quick}
"$python" - "$stage" "$results/decode_$device.json" <<'PYTHON'
import json, sys
from pathlib import Path

found = json.loads(Path(sys.argv[1], "decode.json").read_text())
found["check"] = json.loads(Path(sys.argv[1], "check.json").read_text())
Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n")
PYTHON
echo "written: $results/decode_$device.json"
