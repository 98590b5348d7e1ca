#!/usr/bin/env bash
# Installs libkinglet, kinglet.h and what finds them: ffi/install.sh PREFIX [FOLDER OF THE BUILT LIBRARY, target/dist].
# Build it first: cargo build --profile dist -p kinglet-ffi
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: $0 PREFIX [BUILD_FOLDER]" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
prefix=$1
built=${2-$here/../target/dist}
mkdir -p "$prefix/lib/pkgconfig" "$prefix/lib/cmake/kinglet" "$prefix/include"
prefix=$(cd "$prefix" && pwd)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
if [ -f "$built/libkinglet.dylib" ]; then
    install -m 755 "$built/libkinglet.dylib" "$prefix/lib/libkinglet.1.dylib"
    ln -sf libkinglet.1.dylib "$prefix/lib/libkinglet.dylib"
    private="-framework Metal -framework QuartzCore -framework Foundation -framework CoreFoundation -liconv"
else
    install -m 755 "$built/libkinglet.so" "$prefix/lib/libkinglet.so.1"
    ln -sf libkinglet.so.1 "$prefix/lib/libkinglet.so"
    # What `cargo rustc -p kinglet-ffi --crate-type staticlib -- --print native-static-libs` says.
    private="-lgcc_s -lutil -lrt -lpthread -lm -ldl"
fi
if [ -f "$built/libkinglet.a" ]; then
    install -m 644 "$built/libkinglet.a" "$prefix/lib/"
fi
install -m 644 "$here/include/kinglet.h" "$here/packaging/module.modulemap" "$prefix/include/"
install -m 644 "$here/packaging/kinglet-config.cmake" "$prefix/lib/cmake/kinglet/"
sed -e "s|@VERSION@|$version|" "$here/packaging/kinglet-config-version.cmake.in" > "$prefix/lib/cmake/kinglet/kinglet-config-version.cmake"
sed -e "s|@VERSION@|$version|" -e "s|@PRIVATE@|$private|" "$here/packaging/kinglet.pc.in" > "$prefix/lib/pkgconfig/kinglet.pc"
