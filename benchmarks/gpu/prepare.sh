#!/usr/bin/env bash
# Gathers what the GPU machine lacks (its Python 3.12 holds torch 2.11+cu130 but older transformers and no kernels) as wheels in
# benchmarks/gpu/wheels/, which git ignores. Run it here, where pip reaches an index; the folder travels with the checkout.
#
#     benchmarks/gpu/prepare.sh [--with-bitsandbytes]      # bitsandbytes only if it fits
#
# Fails if wheels and checkout together exceed 64 MB.
set -euo pipefail
cd "$(dirname "$0")/../.."
WHEELS=benchmarks/gpu/wheels
LIMIT=$((64 * 1024 * 1024))
PACKAGES=("transformers==5.24.0" "huggingface_hub==2.4.0" "tokenizers==0.23.3" "kernels==0.17.2" "tomlkit" "peft==0.21.2" "accelerate==1.15.0" "httpx2" "httpcore2" "truststore")
PLATFORMS=(manylinux_2_34_x86_64 manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_24_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64)
PYTHON=${PYTHON:-$(command -v python3.11 || command -v python3)}

rm -rf "$WHEELS"
mkdir -p "$WHEELS"
flags=(--quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp)
for platform in "${PLATFORMS[@]}"; do flags+=(--platform "$platform"); done
for package in "${PACKAGES[@]}"; do
    "$PYTHON" -m pip download "${flags[@]}" --dest "$WHEELS" "$package"
done

size() { # bytes of the wheels and of the files that git would send
    { find "$WHEELS" -name '*.whl' -print0; git ls-files -z --cached --others --exclude-standard; } | sort -zu \
        | xargs -0 stat --format=%s 2> /dev/null | awk '{ sum += $1 } END { printf "%d", sum }'
}

if [ "${1:-}" = "--with-bitsandbytes" ]; then
    "$PYTHON" -m pip download "${flags[@]}" --dest "$WHEELS" "bitsandbytes"
    if [ "$(size)" -gt $LIMIT ]; then
        rm "$WHEELS"/bitsandbytes-*.whl
        echo "prepare.sh: bitsandbytes does not fit; its step will say that it was not installed"
    fi
fi
total=$(size)
echo "prepare.sh: $(ls "$WHEELS" | wc -l) wheels; $((total / 1024 / 1024)) MB together with the checkout (limit 64)"
[ "$total" -le $LIMIT ] || { echo "prepare.sh: too large to travel" >&2; exit 1; }
