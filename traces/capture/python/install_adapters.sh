#!/usr/bin/env bash
# Puts torch and transformers, of the versions that the adapters are tested with, into an environment of their own,
# .venv/adapters by default. Nothing outside that folder is touched, and no root is needed. pip keeps its downloads, so a
# second time is quick.
#
#   traces/capture/python/install_adapters.sh [FOLDER]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
folder=${1:-$root/.venv/adapters}
torch=torch==2.15.0
packages=(transformers==5.23.0 h5py==3.16.0 numpy==2.4.6 gguf==0.19.0 accelerate==1.15.0 setuptools==84.2.1)

wanted="$torch ${packages[*]}"
if [[ -f $folder/installed && $(<"$folder/installed") == "$wanted" ]]; then exit 0; fi
mkdir -p "$(dirname "$folder")"
if [[ ! -x $folder/bin/pip ]] && ! python3 -m venv "$folder"; then
  echo "install_adapters.sh: python3 cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2
  exit 1
fi
echo "This installs into $folder: $wanted"
# The build without CUDA is a tenth of the size; package mirrors may have the other one only.
"$folder/bin/pip" install --quiet --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu "$torch" ||
  "$folder/bin/pip" install --quiet "$torch"
"$folder/bin/pip" install --quiet "${packages[@]}"
echo "$wanted" >"$folder/installed"
