#!/usr/bin/env bash
# Rehearse a run on a GPU machine without an index on a CPU: an environment with the packages of such a
# machine, the wheels of collect.sh, and run.sh in tiny sizes. Takes 6 GB of disk and some minutes.
#   PYTHON=python3.12 tests/gpu/offline/rehearse.sh [options of run.sh, as --parts b,c,d,e]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/machine"
python=$folder/machine/bin/python
"$python" -m pip install --quiet torch==2.11.0 transformers==5.17.0 huggingface-hub==1.6.0 \
    typer==0.20.0 accelerate==1.15.0 peft==0.21.2 numpy pyarrow pytest safetensors tokenizers
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PYTHON=$python PYTHON_VERSION=$version "$here/collect.sh" "$folder/wheels"
PYTHON=$python PIP_NO_INDEX=1 "$here/run.sh" --tiny --minutes 30 --out "$folder/out" \
    --wheels "$folder/wheels/1" "$@"
