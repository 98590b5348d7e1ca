#!/usr/bin/env bash
# Prints the size of the shared library, with GPU support and without: ffi/size.sh [BUILD FOLDER, target]. Fails above
# limits in bytes that are slightly above the present sizes. The targets are 8 MB and 4 MB (see README.md).
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1-target}
status=0
measure() { # LIMIT FOLDER WORDS FLAGS...
    local limit=$1 folder=$2 words=$3 size
    shift 3
    # Incremental builds can't be optimized at link time. Build only the shared library: the static one includes what
    # the linker would remove.
    CARGO_INCREMENTAL=0 cargo rustc --quiet --locked --profile dist -p kinglet-ffi --lib --crate-type cdylib --target-dir "$folder" "$@"
    size=$(wc -c < "$folder/dist/libkinglet.so")
    echo "$words: $size bytes"
    if [ "$size" -ge "$limit" ]; then
        echo "that is not below the limit of $limit" >&2
        status=1
    fi
}
measure 10500000 "$target/size-wgpu" "CPU and Vulkan"
measure 6800000 "$target/size-cpu" "CPU only" --no-default-features
exit $status
