#!/usr/bin/env bash
# Runs eight threads that share sessions at random under ThreadSanitizer: ffi/races.sh [SECONDS, 60].
# All code is instrumented, the standard library too, which needs a nightly toolchain and its source:
#     rustup toolchain install nightly --component rust-src
# KINGLET_NIGHTLY names the nightly of a certain day.
# Without wgpu: GPU drivers are not instrumented, and ThreadSanitizer reports false races in them.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1-60}
toolchain=${KINGLET_NIGHTLY-nightly}
target=$(rustc -vV | sed -n 's/^host: //p')
folder=target/races
# Keep line numbers for the reports.
CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_STRIP=none RUSTFLAGS=-Zsanitizer=thread cargo "+$toolchain" build -Zbuild-std --release --locked -p kinglet-ffi --no-default-features \
    --target "$target" --target-dir "$folder"
built=$PWD/$folder/$target/release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Programs load the library by its versioned name.
ln -s "$built/libkinglet.so" "$work/libkinglet.so.1"
ln -s libkinglet.so.1 "$work/libkinglet.so"
# Rust's own runtime matches the code that Rust compiled; gcc would link another version.
runtime=$(rustc "+$toolchain" --print sysroot)/lib/rustlib/$target/lib/librustc-nightly_rt.tsan.a
build() { # SOURCE PROGRAM LIBRARIES...
    gcc -std=c99 -D_POSIX_C_SOURCE=200809L -g -O1 -Wall -Wextra -Werror -pedantic -fsanitize=thread -Iffi/include -c "$1" -o "$2.o"
    gcc "$2.o" -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive -rdynamic "${@:3}" -lpthread -ldl -lm -lrt -o "$2"
}
# Two threads have the library write to the same address. If this deliberate race is not reported, silence proves
# nothing.
cat > "$work/race.c" << 'EOF'
#include <pthread.h>
#include "kinglet.h"
static kinglet_model *model;
static size_t shared;
static void *ask(void *unused) {
    int i;
    (void)unused;
    for (i = 0; i < 1000; i++) kinglet_model_vocabulary(model, &shared);
    return NULL;
}
int main(int argc, char **argv) {
    pthread_t one, two;
    if (argc < 2 || kinglet_model_open(argv[1], NULL, &model)) return 2;
    if (pthread_create(&one, NULL, ask, NULL) || pthread_create(&two, NULL, ask, NULL)) return 2;
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    return kinglet_model_delete(model) != KINGLET_OK;
}
EOF
export TSAN_OPTIONS="exitcode=66"
libkinglet=(-L"$work" -lkinglet -Wl,-rpath,"$work")
build "$work/race.c" "$work/race" "${libkinglet[@]}"
status=0
"$work/race" models/demo/xlstm > "$work/out" 2>&1 || status=$?
if [ $status != 66 ] || ! grep -q "kinglet_model_vocabulary" "$work/out"; then
    echo "a race made on purpose was not reported (status $status):" >&2
    cat "$work/out" >&2
    exit 1
fi
build tests/ffi/stress.c "$work/stress" "${libkinglet[@]}"
for model in models/demo/xlstm models/demo/hybrid; do
    calls=$("$work/stress" $model "$seconds")
    echo "$model: $calls"
done
echo "no races"
