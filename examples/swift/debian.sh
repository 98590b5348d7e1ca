#!/usr/bin/env bash
# Builds the Swift package, passes its tests and chats, with the compiler of Debian 13: examples/swift/debian.sh FOLDER [BUILD_FOLDER]
#
# For Linux machines that have no Swift. FOLDER becomes a Debian of its own (2.5 GB), and is used again the next time; as root, and `debootstrap`
# must be there. BUILD_FOLDER has libkinglet.so, target/release if nothing else is said. Exits with 77 where that Debian can't be made.
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
    echo "$0: no Debian with Swift in $root; if one was begun there, delete it" >&2
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
# What Swift 6 makes errors of is one already.
strict=(-Xswiftc -strict-concurrency=complete -Xswiftc -warnings-as-errors)
swift test "${strict[@]}"
printf 'Who are you?\nTell me a story about a dog.\n' | swift run "${strict[@]}" chat /kinglet/models/demo/hybrid
