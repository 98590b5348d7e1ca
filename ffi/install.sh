#!/usr/bin/env bash
# Builds libkinglet and installs it with kinglet.h and files for pkg-config, CMake and Swift; see usage below.
set -euo pipefail

usage() {
    cat << 'END'
usage: ffi/install.sh PREFIX [--profile PROFILE] [--target TRIPLE] [--no-default-features]
       ffi/install.sh PREFIX BUILD_FOLDER

Installs into PREFIX/lib and PREFIX/include: the shared and the static library, kinglet.h, a module map, and files for
pkg-config and CMake. It first builds the library with cargo, with the profile `dist` (small) unless you name another;
CARGO_TARGET_DIR and cargo's configuration are honoured. With BUILD_FOLDER it builds nothing and installs the library
that is there. DESTDIR, if set, is prepended to PREFIX.

--no-default-features builds without GPU support.
END
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
prefix="" built="" profile=dist target=${CARGO_BUILD_TARGET-} features=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit 0 ;;
        --profile | --target)
            [ $# -ge 2 ] || fail "$1 needs a value"
            if [ "$1" = --profile ]; then profile=$2; else target=$2; fi
            shift
            ;;
        --profile=*) profile=${1#*=} ;;
        --target=*) target=${1#*=} ;;
        --release) profile=release ;;
        --no-default-features) features=("$1") ;;
        -*) usage >&2 && exit 2 ;;
        *) if [ -z "$prefix" ]; then prefix=$1; elif [ -z "$built" ]; then built=$1; else usage >&2 && exit 2; fi ;;
    esac
    shift
done
[ -n "$prefix" ] || { usage >&2 && exit 2; }

if [ -z "$built" ]; then
    cargo=${CARGO-cargo}
    command -v "$cargo" > /dev/null || fail "cargo is not on the path: building the library needs Rust (https://rustup.rs)"
    manifest=$here/../Cargo.toml
    where=$("$cargo" metadata --no-deps --format-version 1 --manifest-path "$manifest" |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    [ -n "$where" ] || fail "cargo metadata names no target folder"
    options=(--profile "$profile" ${features[@]+"${features[@]}"})
    [ -z "$target" ] || options+=(--target "$target")
    # The build takes minutes: show its progress on a terminal only.
    [ -t 2 ] || options+=(--quiet)
    "$cargo" build --package kinglet-ffi --locked --manifest-path "$manifest" "${options[@]}"
    case $profile in dev | test) folder=debug ;; bench) folder=release ;; *) folder=$profile ;; esac
    built=$where${target:+/$target}/$folder
fi
library=libkinglet.so
[ ! -f "$built/libkinglet.dylib" ] || library=libkinglet.dylib
[ -f "$built/$library" ] || fail "there is no $library in $built: omit BUILD_FOLDER to build it"

prefix=${DESTDIR-}$prefix
mkdir -p "$prefix/lib/pkgconfig" "$prefix/lib/cmake/kinglet" "$prefix/include"
prefix=$(cd "$prefix" && pwd)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
if [ $library = libkinglet.dylib ]; then
    versioned=libkinglet.1.dylib
    private="-framework Metal -framework QuartzCore -framework Foundation -framework CoreFoundation -liconv"
else
    versioned=libkinglet.so.1
    # Output of `cargo rustc -p kinglet-ffi --crate-type staticlib -- --print native-static-libs`.
    private="-lgcc_s -lutil -lrt -lpthread -lm -ldl"
fi
install -m 755 "$built/$library" "$prefix/lib/$versioned"
ln -sf "$versioned" "$prefix/lib/$library"
if [ -f "$built/libkinglet.a" ]; then
    install -m 644 "$built/libkinglet.a" "$prefix/lib/"
fi
install -m 644 "$here/include/kinglet.h" "$here/packaging/module.modulemap" "$prefix/include/"
install -m 644 "$here/packaging/kinglet-config.cmake" "$prefix/lib/cmake/kinglet/"
sed -e "s|@VERSION@|$version|" "$here/packaging/kinglet-config-version.cmake.in" > "$prefix/lib/cmake/kinglet/kinglet-config-version.cmake"
sed -e "s|@VERSION@|$version|" -e "s|@PRIVATE@|$private|" "$here/packaging/kinglet.pc.in" > "$prefix/lib/pkgconfig/kinglet.pc"
cat << END
libkinglet $version is in $prefix. To compile a program that finds it at run time:
    export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
    cc program.c \$(pkg-config --cflags --libs kinglet) -Wl,-rpath,$prefix/lib
END
