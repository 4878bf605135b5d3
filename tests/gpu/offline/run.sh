#!/usr/bin/env bash
# Run all measurements on a GPU machine without a package index, in twelve minutes.
#   tests/gpu/offline/run.sh --out FOLDER [--wheels FOLDER]... [--parts a,b,…] [--minutes 12] [--tiny]
# The wheels of collect.sh are installed into a temporary folder; the machine's packages stay unchanged.
# PYTHON names the interpreter that has torch.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cd "$root"
exec "${PYTHON:-python3}" "$here/parts.py" "$@"
