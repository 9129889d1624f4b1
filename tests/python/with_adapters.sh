#!/usr/bin/env bash
# Runs a Python script with the capture adapters, in the environment that install_adapters.sh made.
#
#   with_adapters.sh LIBRARY SCRIPT [ARGUMENT]...
#
# Exit status 77, which CTest takes for "skipped", where that environment has no torch and transformers.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$root/.venv/adapters/bin/python
if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
  echo "skipped: no torch and transformers in .venv/adapters; traces/capture/python/install_adapters.sh puts them there"
  exit 77
fi
export EVICTSIM_CAPTURE_LIBRARY=$1 PYTHONPATH=$root/traces/capture/python:$root/tests/python
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
exec "$python" "${@:2}"
