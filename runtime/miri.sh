#!/usr/bin/env bash
# The `unsafe` code that Miri can interpret: the thread team with the data that it cuts, the identities that threads share, and what the C interface
# does with pointers. Vector units, mapped files and graphics cards are beyond it. Needs a nightly toolchain with Miri and the library's source:
#     rustup toolchain install nightly --component miri --component rust-src
# KINGLET_NIGHTLY names one of a day; KINGLET_MIRI_SEEDS=N runs the team's tests with N schedules of its threads (4).
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=${KINGLET_NIGHTLY-nightly}
miri() { # PACKAGE FILTER..
    # Tests wait by the clock. The threads of a test that is over may still be about to end.
    CARGO_INCREMENTAL=0 MIRIFLAGS="-Zmiri-disable-isolation ${flags-}" cargo "+$toolchain" miri test --locked --no-default-features --lib --target-dir target/miri -p "$1" -- "${@:2}"
}
miri kinglet cpu::split session::taken session::vectors blake2s
flags="-Zmiri-many-seeds=0..${KINGLET_MIRI_SEEDS-4}" miri kinglet cpu::team
miri kinglet-ffi tests::a_panic_becomes tests::the_last_error tests::handles tests::memory
