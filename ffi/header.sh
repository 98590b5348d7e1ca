#!/usr/bin/env bash
# Writes include/kinglet.h from the sources; with --check only reports whether it is current. Needs Python and cbindgen:
#     cargo install cbindgen --version 0.29.4 --locked
set -euo pipefail
cd "$(dirname "$0")"
made=$(mktemp)
trap 'rm -f "$made"' EXIT
# cbindgen leaves trailing blanks on empty comment lines.
cbindgen --quiet --config cbindgen.toml . | sed 's/[[:space:]]*$//' | python3 sections.py > "$made"
if [ "${1-}" = --check ]; then
    diff -u include/kinglet.h "$made" || { echo "kinglet.h is not current: run ffi/header.sh" >&2; exit 1; }
else
    mkdir -p include
    cp "$made" include/kinglet.h
    chmod 644 include/kinglet.h
fi
