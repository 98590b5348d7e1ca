#!/usr/bin/env bash
# How large the shared library is that apps ship, with graphics cards and without: ffi/size.sh [FOLDER FOR BUILDS, target].
# Fails above the limits, in bytes, which are what it has and a little: the aims are 8 MB and 4 MB (see README.md).
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1-target}
status=0
measure() { # LIMIT FOLDER WORDS FLAGS...
    local limit=$1 folder=$2 words=$3 size
    shift 3
    # Incremental builds can't be optimized at linking. The shared library alone: the static one holds what the linker would leave out.
    CARGO_INCREMENTAL=0 cargo rustc --quiet --locked --profile dist -p kinglet-ffi --lib --crate-type cdylib --target-dir "$folder" "$@"
    size=$(wc -c < "$folder/dist/libkinglet.so")
    echo "$words: $size bytes"
    if [ "$size" -ge "$limit" ]; then
        echo "that is not below $limit" >&2
        status=1
    fi
}
measure 10500000 "$target/size-wgpu" "processor and Vulkan"
measure 6800000 "$target/size-cpu" "processor alone" --no-default-features
exit $status
