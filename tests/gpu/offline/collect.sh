#!/usr/bin/env bash
# Collect the wheels that run.sh installs on a GPU machine without a package index.
#   tests/gpu/offline/collect.sh [FOLDER]
# FOLDER/1 gets the first 55 MiB, FOLDER/2 the rest, if any. PYTHON names an interpreter with pip;
# PYTHON_VERSION (3.12) and CUDA (13) are the machine's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/wheels}
python=${PYTHON:-python3}
version=${PYTHON_VERSION:-3.12}
limit=$((55 * 1024 * 1024))

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Print the pin of requirements/, unless the line has its own specifier.
requirement() {
    local pin
    pin=$(sed -n "s/^\($1==[^ ;]*\).*/\1/p" "$here"/../../../requirements/{local,dev}.txt | head -n 1)
    echo "${pin:-$1}"
}

platforms=(manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux_2_24_x86_64 manylinux_2_28_x86_64)
names=()
while read -r line; do
    case $line in '' | '#'*) continue ;; esac
    names+=("$(requirement "$line")")
done <"$here/wheels.txt"
deepspeed=$(requirement deepspeed)  # has no wheel; one without compiled operators builds anywhere
"$python" -m pip download --quiet --no-deps --dest "$scratch" --only-binary=:all: \
    --python-version "$version" "${platforms[@]/#/--platform=}" "${names[@]/$deepspeed/pip}"
rm "$scratch"/pip-*
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --wheel-dir "$scratch" "$deepspeed"
"$python" "$here/slim.py" "${CUDA:-13}" "$scratch"/bitsandbytes-*.whl

rm -rf "$folder"
mkdir -p "$folder/1"
size=0
while read -r line; do
    case $line in '' | '#'*) continue ;; esac
    name=${line%%[<>=]*}
    wheel=$(ls "$scratch/${name//-/_}"-*.whl)
    size=$((size + $(stat --format %s "$wheel")))
    place=1
    [ $size -le $limit ] || place=2
    mkdir -p "$folder/$place"
    mv "$wheel" "$folder/$place/"
done <"$here/wheels.txt"
du --summarize --human-readable --apparent-size "$folder"/*
