#!/usr/bin/env bash
# Runs the C programs under valgrind and AddressSanitizer: ffi/sanitize.sh [FOLDER OF THE BUILT LIBRARY,
# target/release]. Valgrind sees all accesses of the library; its reports have line numbers if the library was built
# with CARGO_PROFILE_RELEASE_STRIP=none. AddressSanitizer sees the programs' own accesses, and frees and leaks on both
# sides.
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(cd "${1-target/release}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$built/libkinglet.so" "$work/libkinglet.so.1"
ln -s libkinglet.so.1 "$work/libkinglet.so"
# Hide GPU drivers: their leaks and findings are not ours.
export VK_ICD_FILENAMES=$work/none VK_DRIVER_FILES=$work/none XDG_RUNTIME_DIR=$work
hybrid=models/demo/hybrid xlstm=models/demo/xlstm

compile() { # SOURCE PROGRAM FLAGS...
    local source=$1 program=$2
    shift 2
    gcc -std=c99 -D_POSIX_C_SOURCE=200809L -g -Wall -Wextra -Werror -pedantic "$@" -Iffi/include "$source" \
        -L"$work" -lkinglet -lm -Wl,-rpath,"$work" -o "$work/$program"
}
for kind in plain asan; do
    flags=()
    [ $kind = asan ] && flags=(-fsanitize=address,undefined -fno-sanitize-recover=all)
    compile examples/c/chat.c chat-$kind "${flags[@]}"
    compile tests/ffi/hostile.c hostile-$kind "${flags[@]}"
    compile tests/ffi/hostile_sessions.c hostile_sessions-$kind "${flags[@]}"
done
# Only definite leaks count: memory that statics point to until the process ends is not a leak.
memcheck=(valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite)
echo "Say hello." | ASAN_OPTIONS=detect_leaks=1 "$work/chat-asan" $hybrid 1 > "$work/out"
"$work/hostile-asan" $hybrid $xlstm
"$work/hostile_sessions-asan" $hybrid $xlstm
echo "Say hello." | "${memcheck[@]}" "$work/chat-plain" $xlstm 1 > "$work/out"
"${memcheck[@]}" "$work/hostile-plain" $hybrid $xlstm
"${memcheck[@]}" "$work/hostile_sessions-plain" $hybrid $xlstm
echo "no reports"
