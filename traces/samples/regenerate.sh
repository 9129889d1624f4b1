#!/usr/bin/env bash
# Records traces/samples/smollm2-135m-instruct.h5 again. Wants evictsim-capture and the model:
# traces/capture/install_llama.sh fetches what is needed; `./dev sample` does all of it.
#
#   traces/samples/regenerate.sh [path of evictsim-capture] [path of the GGUF file] [output] [float32 GGUF file]
#
# Sensitivity is measured with the float32 copy of the model that analysis/damage/fidelity/to_float32.py makes, where one
# is given, else with the quantised model itself, whose rounding hides weak layers.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
capture=${1:-$root/build/release/bin/evictsim-capture}
model=${2:-$root/.venv/models/SmolLM2-135M-Instruct.Q4_1.gguf}
output=${3:-$here/smollm2-135m-instruct.h5}
float32=${4:-$model}

for file in "$capture" "$model" "$float32"; do
  if [[ ! -e $file ]]; then
    echo "regenerate.sh: $file is not there; traces/capture/install_llama.sh and a build provide it" >&2
    exit 1
  fi
done

"$capture" run --model "$model" --prompt "$here/prompt.txt" --chat-template --decode 72 \
  --layers 0,5,10,15,20,25,29 --q-rows all --dtype f16 --threads 1 --ubatch 512 --store-text \
  --task needle-in-prose \
  --span 'evidence=The gardener at Netherfield keeps the key of the north gate under the blue beehive.' \
  --span 'question=Where does the gardener at Netherfield keep the key of the north gate? Tell it as a short letter of one paragraph to the new owner.' \
  -o "$output"

"$capture" sensitivity --model "$float32" --threads 1 --into "$output"
