#!/usr/bin/env bash
# test.sh MARKERS [PYTEST_OPTION...]: brings the cluster up, runs these tests, and takes it down.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
skip_unless_root_on_linux
trap '"$HERE/down.sh"' EXIT
"$HERE/up.sh"
"$ROOT/.venv/bin/pytest" "$HERE" -m "$@"
