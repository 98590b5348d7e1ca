// swift-tools-version:5.7
import PackageDescription

// libkinglet is found through pkg-config: ffi/install.sh PREFIX, then PKG_CONFIG_PATH=PREFIX/lib/pkgconfig.
let package = Package(
    name: "Kinglet",
    platforms: [.macOS(.v12), .iOS(.v15)],
    products: [.library(name: "Kinglet", targets: ["Kinglet"])],
    targets: [
        .systemLibrary(name: "CKinglet", pkgConfig: "kinglet"),
        .target(name: "Kinglet", dependencies: ["CKinglet"]),
        .executableTarget(name: "chat", dependencies: ["Kinglet"]),
        .testTarget(name: "KingletTests", dependencies: ["Kinglet"]),
    ]
)
