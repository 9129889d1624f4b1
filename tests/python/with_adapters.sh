#!/usr/bin/env bash
# Runs a Python script with the capture adapters, in the environment that install_adapters.sh made, or with --kvpress or
# --vllm in the one that install_kvpress.sh or install_vllm.sh made.
#
#   with_adapters.sh [--kvpress | --vllm] LIBRARY SCRIPT [ARGUMENT]...
#
# Exit status 77, which CTest takes for "skipped", where that environment lacks what is needed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
environment=adapters packages='torch, transformers' installer=traces/capture/python/install_adapters.sh
if [[ $1 == --kvpress || $1 == --vllm ]]; then
  environment=${1#--} packages="torch, ${1#--}" installer=tests/python/install_${1#--}.sh
  shift
fi
python=$root/.venv/$environment/bin/python
if ! "$python" -c "import $packages" 2>/dev/null; then
  echo "skipped: no ${packages/,/ and} in .venv/$environment; $installer puts them there"
  exit 77
fi
export EVICTSIM_CAPTURE_LIBRARY=$1 PYTHONPATH=$root/traces/capture/python:$root/tests/python
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
exec "$python" "${@:2}"
