#!/usr/bin/env bash
# Makes shaders/src/generated/ anew from the WGSL files. Run it after a change of any of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export KINGLET_GENERATE=1
# First the kernels that the headers declare; then, compiled with these, their metadata.
cargo test --quiet -p kinglet-shaders --test generated kernels > /dev/null
cargo test --quiet -p kinglet-shaders --test generated
