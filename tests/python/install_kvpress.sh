#!/usr/bin/env bash
# Puts kvpress, of the version that evictsim's presses follow, into .venv/kvpress. It wants an older transformers than
# the adapters are tested with, so that comes along; torch is that of .venv/adapters. Nothing outside .venv/kvpress is
# touched, and no root is needed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
adapters=$root/.venv/adapters
folder=$root/.venv/kvpress
packages=(kvpress==0.5.5 transformers==5.2.0)

wanted="${packages[*]} on $(<"$adapters/installed")"
if [[ -f $folder/installed && $(<"$folder/installed") == "$wanted" ]]; then exit 0; fi
if [[ ! -x $folder/bin/pip ]]; then python3 -m venv "$folder"; fi
packages_of() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
echo "This installs into $folder: ${packages[*]}"
packages_of "$adapters" >"$(packages_of "$folder")/adapters.pth"
# pip says that it leaves the other environment's transformers alone.
"$folder/bin/pip" install --quiet "${packages[@]}"
echo "$wanted" >"$folder/installed"
