#!/usr/bin/env bash
# Compiles kinglet.h as a module, with the package's module map and with the installed one: examples/swift/check.sh [CLANG]
set -euo pipefail
cd "$(dirname "$0")/../.."
clang=${1-clang}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/include"
cp ffi/include/kinglet.h ffi/packaging/module.modulemap "$work/include/"
cat > "$work/program.m" << 'EOF'
@import CKinglet;
int main(void) {
    kinglet_model *model = 0;
    kinglet_status status = kinglet_check_abi(KINGLET_ABI_VERSION);
    return status == KINGLET_OK && kinglet_model_delete(model) == KINGLET_OK ? 0 : 1;
}
EOF
number=0
for map in examples/swift/Sources/CKinglet/module.modulemap "$work/include/module.modulemap"; do
    number=$((number + 1))
    # Implicit maps are off, so that this map is used.
    "$clang" -std=gnu11 -Wall -Wextra -Werror -fmodules -fno-implicit-module-maps -fmodules-cache-path="$work/cache$number" \
        -fmodule-map-file="$map" -I"$work/include" -fsyntax-only "$work/program.m"
done
echo "both module maps work"
