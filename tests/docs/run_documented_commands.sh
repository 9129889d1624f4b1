#!/usr/bin/env bash
# Do the commands in the documents work as they are written?
#
# usage: run_documented_commands.sh SOURCE_DIR SCRATCH_DIR
#
# Every fenced block that follows a line <!-- run --> in README.md and docs/*.md is run by bash, the blocks of one
# document in order and in one shell, in a scratch folder that holds copies of docs/ and traces/samples/. Our programs
# are in PATH. A command that fails fails the test, and so does a set of documents without any marked block.
set -euo pipefail
source_dir=$1
scratch=$2/work

extract() { # extract DOCUMENT: the marked blocks as one script that names each block's line before it runs
  awk -v name="$(basename "$1")" '
    /^<!-- run -->[ \t]*$/ { marked = 1; next }
    marked && /^```/ { inside = 1; marked = 0; printf "echo \"== %s:%d\"\n", name, NR + 1; next }
    marked && NF { printf "%s:%d: a run mark without a block\n", name, NR > "/dev/stderr"; exit 1 }
    inside && /^```/ { inside = 0; next }
    inside { print }
    END { if (inside || marked) { printf "%s: a block without an end\n", name > "/dev/stderr"; exit 1 } }
  ' "$1"
}

blocks=0
for document in "$source_dir"/README.md "$source_dir"/docs/*.md; do
  script=$2/$(basename "$document").sh
  extract "$document" >"$script"
  count=$(grep -c '^echo "== ' "$script" || true)
  if ((count == 0)); then continue; fi
  blocks=$((blocks + count))
  rm -rf "$scratch"
  mkdir -p "$scratch/traces"
  cp -r "$source_dir/docs" "$scratch/docs"
  cp -r "$source_dir/traces/samples" "$scratch/traces/samples"
  (cd "$scratch" && bash -euo pipefail "$script" </dev/null) || {
    echo "failed: $document, in the block named last above" >&2
    exit 1
  }
done
rm -rf "$scratch"
if ((blocks == 0)); then
  echo "no block is marked <!-- run -->, so nothing was checked" >&2
  exit 1
fi
echo "$blocks documented blocks ran"
