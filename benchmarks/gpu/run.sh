#!/usr/bin/env bash
# Everything that only a GPU can tell, in one call of at most eight minutes; see README.md beside this file.
#
#     benchmarks/gpu/run.sh                   # on a machine with a CUDA GPU; results in benchmarks/gpu/results/
#     benchmarks/gpu/run.sh --cpu --small     # every step that a CPU has, at tiny size, to test the script itself
#
# PYTHON chooses the interpreter. Wheels that prepare.sh gathered are installed beside it, not into it.
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-$(command -v python3)}
WHEELS=benchmarks/gpu/wheels
if compgen -G "$WHEELS/*.whl" > /dev/null; then
    SITE=$(mktemp -d)
    trap 'rm -rf "$SITE"' EXIT
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$SITE" "$WHEELS"/*.whl \
        || echo "run.sh: the wheels of $WHEELS could not be installed; going on without them" >&2
    export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
"$PYTHON" benchmarks/gpu/driver.py "$@"
