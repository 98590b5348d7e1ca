#!/usr/bin/env bash
# Builds the package and the page into dist/. Needs Rust (rustup), Node.js and npm. `dist` is served by any static server:
#
#     examples/web/build.sh && npm --prefix examples/web run serve
set -euo pipefail
cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-../../target/web}
wasm=wasm32-unknown-unknown

if command -v rustup > /dev/null && ! rustup target list --installed | grep -qx "$wasm"; then
    rustup target add "$wasm"
fi
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --no-audit --no-fund
fi

# Every browser with WebGPU, and those of the years before it, have vectors.
CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C target-feature=+simd128" \
    cargo build --release --locked -p kinglet-web --target "$wasm" --target-dir "$target"
cargo run --quiet --locked -p kinglet-web-bindgen --target-dir "$target" -- "$target/$wasm/release/kinglet_web.wasm" "$target/bindgen"

rm -rf dist
mkdir -p dist/kinglet dist/models
cp "$target"/bindgen/kinglet_web.js "$target"/bindgen/kinglet_web.d.ts dist/kinglet/
node_modules/.bin/wasm-opt -O2 --enable-simd --enable-bulk-memory --enable-bulk-memory-opt --enable-nontrapping-float-to-int \
    --enable-sign-ext --enable-mutable-globals --enable-reference-types --enable-multivalue \
    "$target/bindgen/kinglet_web_bg.wasm" -o dist/kinglet/kinglet_web_bg.wasm

node_modules/.bin/tsc -p package
node_modules/.bin/tsc -p package/worker.json
node_modules/.bin/tsc -p page
cp page/index.html page/style.css page/icon.svg dist/
for model in hybrid xlstm; do
    mkdir -p "dist/models/$model"
    cp ../../models/demo/$model/*.* "dist/models/$model/"
done

bytes=$(gzip -9 -c dist/kinglet/kinglet_web_bg.wasm | wc -c)
printf 'kinglet_web_bg.wasm: %d bytes, %d gzipped\n' "$(wc -c < dist/kinglet/kinglet_web_bg.wasm)" "$bytes"
if [ "$bytes" -gt 2000000 ]; then
    echo "the module must stay below 2 MB gzipped" >&2
    exit 1
fi
