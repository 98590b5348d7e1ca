//! Builds what tests run as programs or load as libraries.

use std::path::PathBuf;
use std::process::Command;

/// Builds the workspace's programs and libraries in the profile of the running test, in the same
/// target folder, and returns the folder of the products. Panics if the build fails.
pub fn build() -> PathBuf {
    // target/PROFILE/deps/TEST-HASH
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let profile = match folder.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        name => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // Everything that `cargo test --workspace` selects, so that dependencies have the same
    // features. A single package would have others, and nearly everything would be compiled again.
    build.args([
        "build",
        "--quiet",
        "--workspace",
        "--tests",
        "--bins",
        "--lib",
        "--profile",
        profile,
    ]);
    build.arg("--target-dir").arg(folder.parent().unwrap());
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(build.status().unwrap().success(), "the workspace does not build");
    folder.to_path_buf()
}
