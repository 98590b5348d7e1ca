#!/usr/bin/env bash
# Builds the package and the page into dist/. Needs Rust (rustup), Node.js and npm. Any static server can serve `dist`:
#
#     examples/web/build.sh && npm --prefix examples/web run serve
#
# With --quick it takes a fraction of the time: only the module with WebGPU, larger and slower, and not the one with
# threads.
set -euo pipefail
cd "$(dirname "$0")"
quick=false
case ${1-} in
    "") ;;
    --quick) quick=true ;;
    *)
        echo "usage: $0 [--quick]" >&2
        exit 2
        ;;
esac
target=${CARGO_TARGET_DIR:-../../target/web}
wasm=wasm32-unknown-unknown

if command -v rustup > /dev/null && ! rustup target list --installed | grep -qx "$wasm"; then
    rustup target add "$wasm"
fi
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --no-audit --no-fund
fi

# Every browser with WebGPU, and those of some years before it, support vectors.
features=+simd128
if $quick; then
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C target-feature=$features" \
        cargo build --profile quick --locked -p kinglet-web --target "$wasm" --target-dir "$target"
    profile=quick
else
    # Compiles the standard library too, from rustup's source: for size, and again for the module with threads, whose
    # memory is shared. Panics then omit their location, which saves a twelfth of the module. Stable compilers need an
    # explicit permission for both.
    if command -v rustup > /dev/null && ! rustup component list --installed | grep -q '^rust-src'; then
        rustup component add rust-src
    fi
    export RUSTC_BOOTSTRAP=1
    compile() { # FEATURES FOLDER FLAGS...
        local rustflags=$1 folder=$2
        shift 2
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-Z location-detail=none -C target-feature=$rustflags" \
            cargo build --release --locked -p kinglet-web --target "$wasm" --target-dir "$folder" \
            -Z build-std=std,panic_abort -Z build-std-features=optimize_for_size "$@"
    }
    compile "$features" "$target"

    # With threads and without WebGPU, whose objects belong to one thread.
    shared="$features,+atomics,+bulk-memory,+mutable-globals -C link-arg=--shared-memory -C link-arg=--import-memory"
    shared="$shared -C link-arg=--max-memory=4294967296"
    for symbol in __wasm_init_tls __tls_size __tls_align __tls_base; do
        shared="$shared -C link-arg=--export=$symbol"
    done
    compile "$shared" "$target/threads" --no-default-features
    unset RUSTC_BOOTSTRAP
    profile=release
fi

rm -rf dist
mkdir -p dist/kinglet dist/models
# Makes a module from the compiler's output, without its names: `module FROM TO`.
module() {
    cargo run --quiet --locked -p kinglet-web-bindgen --target-dir "$target" -- "$1/$wasm/$profile/kinglet_web.wasm" "$1/bindgen"
    cp "$1"/bindgen/kinglet_web.js "$1"/bindgen/kinglet_web.d.ts "$2/"
    if $quick; then
        cp "$1/bindgen/kinglet_web_bg.wasm" "$2/"
        return
    fi
    node_modules/.bin/wasm-opt -O2 --enable-simd --enable-threads --enable-bulk-memory --enable-bulk-memory-opt \
        --enable-nontrapping-float-to-int --enable-sign-ext --enable-mutable-globals --enable-reference-types --enable-multivalue \
        "$1/bindgen/kinglet_web_bg.wasm" -o "$2/kinglet_web_bg.wasm"
}
module "$target" dist/kinglet
if ! $quick; then
    mkdir dist/kinglet/threads
    module "$target/threads" dist/kinglet/threads
fi

if $quick; then
    # A stub that type-checks in place of the omitted module.
    mkdir dist/kinglet/threads
    printf '%s\n' 'export function runThread(address: number): void;' 'export default function init(options: unknown): Promise<unknown>;' \
        > dist/kinglet/threads/kinglet_web.d.ts
fi
node_modules/.bin/tsc -p package
node_modules/.bin/tsc -p package/worker.json
node_modules/.bin/tsc -p page
if $quick; then
    rm -r dist/kinglet/threads
fi
cp page/index.html page/style.css page/icon.svg dist/
# The page's libraries, as published; `index.html` names their paths. Each starts with its licence.
mkdir -p dist/vendor
for library in marked/lib/marked.esm.js dompurify/dist/purify.es.mjs; do
    sed '/^\/\/# sourceMappingURL=/d' "node_modules/$library" > "dist/vendor/${library%%/*}.js"
done
for model in hybrid xlstm; do
    mkdir -p "dist/models/$model"
    cp ../../models/demo/$model/*.* "dist/models/$model/"
done

if $quick; then
    exit
fi
for module in dist/kinglet/kinglet_web_bg.wasm dist/kinglet/threads/kinglet_web_bg.wasm; do
    bytes=$(gzip -9 -c "$module" | wc -c)
    printf '%s: %d bytes, %d gzipped\n' "$module" "$(wc -c < "$module")" "$bytes"
    if [ "$bytes" -gt 2000000 ]; then
        echo "a gzipped module must be smaller than 2 MB" >&2
        exit 1
    fi
done
