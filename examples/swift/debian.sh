#!/usr/bin/env bash
# Builds the Swift package, runs its tests and chats, with the compiler of Debian 13: examples/swift/debian.sh FOLDER [BUILD_FOLDER]
#
# For Linux machines without Swift. Installs Debian in FOLDER (2.5 GB) and reuses it the next time; needs root and `debootstrap`. BUILD_FOLDER
# contains libkinglet.so (default: target/release). Exits with status 77 if Debian can't be installed.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: $0 FOLDER [BUILD_FOLDER]" >&2
    exit 2
fi
mkdir -p "$1"
root=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
built=${2-target/release}

prepare() {
    if [ ! -e "$root/usr/libexec/swift/bin/swift" ]; then
        debootstrap --variant=minbase trixie "$root" &&
            chroot "$root" apt-get update &&
            DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends \
                swiftlang libc6-dev libstdc++-14-dev pkg-config git
    fi && mount -t proc proc "$root/proc"
}
if ! prepare; then
    echo "$0: could not install Debian with Swift in $root; delete the folder if it is incomplete" >&2
    exit 77
fi
trap 'umount "$root/proc"' EXIT

rm -rf "$root/kinglet"
mkdir -p "$root/kinglet/examples" "$root/kinglet/models/demo"
ffi/install.sh "$root/kinglet/prefix" "$built"
cp -r examples/swift "$root/kinglet/examples/"
rm -rf "$root/kinglet/examples/swift/.build"
cp -r models/demo/hybrid "$root/kinglet/models/demo/"

swift() {
    chroot "$root" env PKG_CONFIG_PATH=/kinglet/prefix/lib/pkgconfig LD_LIBRARY_PATH=/kinglet/prefix/lib \
        swift "$1" --package-path /kinglet/examples/swift "${@:2}"
}
# Treat what Swift 6 rejects as an error already.
strict=(-Xswiftc -strict-concurrency=complete -Xswiftc -warnings-as-errors)
swift test "${strict[@]}"
printf 'Who are you?\nTell me a story about a dog.\n' | swift run "${strict[@]}" chat /kinglet/models/demo/hybrid
