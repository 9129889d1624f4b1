#!/usr/bin/env bash
# Measures what policies cost a model, calibrates predicted damage on it and writes the table of docs/fidelity.md.
#
#   analysis/damage/fidelity/measure.sh MODEL.gguf [FOLDER]
#
# FOLDER (build/damage) gets truth.csv, the calibrations and the tables. What truth.csv holds already is not run again.
# Environment: CAPTURE and EVICTSIM name the programs, THREADS how many threads a text takes, POLICIES, BUDGETS, LENGTHS
# and ROWS what is run, PROSE and FACTS the texts (names in texts/, separated by commas), DOCUMENT the page that gets the
# table (docs/fidelity.md; empty: none).
set -euo pipefail

if (($# < 1 || $# > 2)); then
  echo "usage: measure.sh MODEL.gguf [FOLDER]" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
model=$1
folder=${2:-$root/build/damage}
capture=${CAPTURE:-$root/build/release/bin/evictsim-capture}
evictsim=${EVICTSIM:-$root/build/release/bin/evictsim}
threads=${THREADS:-1}
policies=${POLICIES:-random,knorm,streaming_llm,snapkv,tova,h2o,adakv(snapkv),pyramidkv,criticalkv(snapkv),expected_attention,keydiff,window}
budgets=${BUDGETS:-0.1,0.25,0.5}
lengths=${LENGTHS:-512,1024}
rows=${ROWS:-64}
prose=${PROSE:-emma,mansfield_park,northanger_abbey,jargon_culture,persuasion}
facts=${FACTS:-pride_and_prejudice,sense_and_sensibility,emma_late,jargon_writing,mansfield_park_late}
document=${DOCUMENT-$root/docs/fidelity.md}

for file in "$capture" "$evictsim" "$model"; do
  if [[ ! -e $file ]]; then
    echo "measure.sh: $file is not there" >&2
    exit 1
  fi
done
mkdir -p "$folder"

files() { # files NAME,NAME,...: their paths, with commas
  local name paths=()
  IFS=, read -ra names <<<"$1"
  for name in "${names[@]}"; do paths+=("$here/texts/$name.txt"); done
  (IFS=,; echo "${paths[*]}")
}
verify() { # verify KIND NAMES LENGTHS
  "$capture" verify --model "$model" --prompt "$(files "$2")" --text "$1" --length "$3" --rows "$rows" \
    --policy "$policies" --budget "$budgets" --threads "$threads" --csv "$folder/truth.csv" --resume
}
# Short texts first, so that an early end leaves a table.
IFS=, read -ra each_length <<<"$lengths"
for length in "${each_length[@]}"; do
  verify prose "$prose" "$length"
  verify facts "$facts" "$length"
done

# Sensitivity comes from the built-in probe texts, which are not scored; any trace of the model can hold it.
probe=$folder/probe.h5
if [[ ! -e $probe ]]; then
  printf 'The gardener keeps the key of the north gate under the blue beehive.' >"$folder/probe.txt"
  "$capture" run --model "$model" --prompt "$folder/probe.txt" --decode 2 --threads "$threads" -o "$folder/part.h5"
  "$capture" sensitivity --model "$model" --threads "$threads" --into "$folder/part.h5"
  mv "$folder/part.h5" "$probe"
fi
"$evictsim" calibrate "$folder/truth.csv" "$probe" -o "$folder/model.cal.json" | tee "$folder/table.txt"

if [[ -n $document ]]; then
  python3 - "$document" "$folder/table.txt" <<'PYTHON'
import sys

document, table = sys.argv[1:]
begin, end = "<!-- damage: begin -->\n", "<!-- damage: end -->\n"
with open(table, encoding="utf-8") as stream:
    lines = [line for line in stream if not line.startswith("Wrote ")]
with open(document, encoding="utf-8") as stream:
    text = stream.read()
if text.count(begin) != 1 or text.count(end) != 1:
    sys.exit(f"measure.sh: {document} needs the lines {begin.strip()} and {end.strip()}, once each")
before, rest = text.split(begin)
after = rest.split(end)[1]
with open(document, "w", encoding="utf-8") as stream:
    stream.write(before + begin + "".join(lines).strip() + "\n" + end + after)
PYTHON
fi
