#!/usr/bin/env bash
# Install the built wheel with its [demo] extra into an empty environment and run a small demo outside the repository.
set -euo pipefail
python=${1:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/venv"
wheel=$(ls "$root"/dist/*.whl)
"$place/venv/bin/python" -m pip install -q -c "$root/constraints.txt" "${wheel}[demo]"
cd "$place"
HF_HUB_OFFLINE=1 venv/bin/wavfusion demo --out demo --clips "${CLIPS:-110}"
test -s demo/report.html -a -s demo/model.safetensors -a -s demo/metrics.json
