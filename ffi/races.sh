#!/usr/bin/env bash
# Eight threads that share sessions at random, under ThreadSanitizer: ffi/races.sh [SECONDS, 60].
# All code is built with it, the standard library too, which needs a nightly toolchain and its source:
#     rustup toolchain install nightly --component rust-src
# Without wgpu: drivers of graphics cards are not built with it, and what it doesn't see it reports.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1-60}
target=$(rustc -vV | sed -n 's/^host: //p')
folder=target/races
RUSTFLAGS=-Zsanitizer=thread cargo +nightly build -Zbuild-std --release --locked -p kinglet-ffi --no-default-features \
    --target "$target" --target-dir "$folder"
built=$PWD/$folder/$target/release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Rust's own runtime, which fits what Rust was compiled to call; gcc would link its own, of another version.
runtime=$(rustc +nightly --print sysroot)/lib/rustlib/$target/lib/librustc-nightly_rt.tsan.a
build() { # SOURCE PROGRAM LIBRARIES...
    gcc -std=c99 -D_POSIX_C_SOURCE=200809L -g -O1 -Wall -Wextra -Werror -pedantic -fsanitize=thread -Iffi/include -c "$1" -o "$2.o"
    gcc "$2.o" -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive -rdynamic "${@:3}" -lpthread -ldl -lm -lrt -o "$2"
}
# A race made on purpose must be reported: else silence says nothing.
cat > "$work/race.c" << 'EOF'
#include <pthread.h>
static int count;
static void *add(void *unused) {
    int i;
    (void)unused;
    for (i = 0; i < 1000; i++) count++;
    return NULL;
}
int main(void) {
    pthread_t one, two;
    if (pthread_create(&one, NULL, add, NULL) || pthread_create(&two, NULL, add, NULL)) return 2;
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    return 0;
}
EOF
export TSAN_OPTIONS="exitcode=66"
build "$work/race.c" "$work/race"
status=0
"$work/race" > "$work/out" 2>&1 || status=$?
if [ $status != 66 ]; then
    echo "a race made on purpose was not reported (status $status):" >&2
    cat "$work/out" >&2
    exit 1
fi
build tests/ffi/stress.c "$work/stress" -L"$built" -lkinglet -Wl,-rpath,"$built"
for model in models/demo/xlstm models/demo/hybrid; do
    "$work/stress" $model "$seconds"
done
echo "no races"
