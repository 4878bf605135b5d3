#!/usr/bin/env bash
# Measure everything on a GPU machine without a package index, in twelve minutes.
#   tests/gpu/offline/run.sh --out FOLDER [--wheels FOLDER]... [--parts a,b,…] [--minutes 12] [--tiny]
# Wheels that collect.sh brought go into a folder of their own beside the packages that are there,
# which stay as they are. PYTHON names the interpreter that has torch.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cd "$root"
exec "${PYTHON:-python3}" "$here/parts.py" "$@"
