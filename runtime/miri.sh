#!/usr/bin/env bash
# Runs the tests of the `unsafe` code that Miri can interpret: the thread team with the data it splits, the identities that threads share, and the pointers
# of the C interface. Miri can't interpret vector units, mapped files or GPUs. Needs a nightly toolchain with Miri and the standard library's source:
#     rustup toolchain install nightly --component miri --component rust-src
# KINGLET_NIGHTLY names another toolchain; KINGLET_MIRI_SEEDS=N runs the team's tests with N thread schedules (default 4).
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=${KINGLET_NIGHTLY-nightly}
miri() { # PACKAGE FILTER..
    # Tests use the clock, and a finished test's threads may still be ending.
    CARGO_INCREMENTAL=0 MIRIFLAGS="-Zmiri-disable-isolation ${flags-}" cargo "+$toolchain" miri test --locked --no-default-features --lib --target-dir target/miri -p "$1" -- "${@:2}"
}
miri kinglet cpu::split session::token_list session::vectors blake2s
flags="-Zmiri-many-seeds=0..${KINGLET_MIRI_SEEDS-4}" miri kinglet cpu::team
miri kinglet-ffi tests::a_panic_becomes tests::the_last_error tests::handles tests::memory
