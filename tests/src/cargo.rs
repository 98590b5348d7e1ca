//! Building what tests run as programs or load as libraries.

use std::path::PathBuf;
use std::process::Command;

/// Builds a package of the workspace in the profile that the running test was built in, into the same target folder, and gives the
/// folder in which its products are. Panics when it doesn't build.
pub fn build(package: &str) -> PathBuf {
    // target/PROFILE/deps/TEST-HASH
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let profile = match folder.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        name => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", package, "--profile", profile]);
    build.arg("--target-dir").arg(folder.parent().unwrap());
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(build.status().unwrap().success(), "{package} does not build");
    folder.to_path_buf()
}
