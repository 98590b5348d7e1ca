#!/usr/bin/env bash
# Makes shaders/src/generated/ from the WGSL files. Run it after changing any of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export KINGLET_GENERATE=1
# First the declared kernels; then, compiled with these, their metadata.
cargo test --quiet -p kinglet-shaders --test generated kernels > /dev/null
cargo test --quiet -p kinglet-shaders --test generated
