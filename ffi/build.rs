//! Gives the shared library the name by which programs ask for it, and makes the file of that name beside it.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_FAMILY", "unix") {
        return;
    }
    // Programs that were linked with one version of the interface don't start with another.
    if is("CARGO_CFG_TARGET_VENDOR", "apple") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libkinglet.1.dylib");
        link("libkinglet.1.dylib", "libkinglet.dylib");
    } else if is("CARGO_CFG_TARGET_OS", "android") {
        // A package holds no links and no names with versions.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkinglet.so");
    } else {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkinglet.so.1");
        link("libkinglet.so.1", "libkinglet.so");
    }
}

/// Makes `name` a link to `library` in the folder that cargo puts the library into. Without it, a program that was linked
/// with `-L target/release` would ask for a file that is not there.
fn link(name: &str, library: &str) {
    let Some(folder) = products() else { return };
    let path = folder.join(name);
    // Another build of the same folder may be making it right now.
    if make(&path, library).is_err() && std::fs::read_link(&path).ok() != Some(library.into()) {
        println!("cargo::warning=no link {} could be made to {library}", path.display());
    }
}

/// The folder of the profile, as `target/release`: the one that holds `build`, where scripts write.
fn products() -> Option<PathBuf> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR")?);
    let build =
        out.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "build"))?;
    build.parent().map(Path::to_path_buf)
}

#[cfg(unix)]
fn make(path: &Path, library: &str) -> std::io::Result<()> {
    match std::fs::read_link(path) {
        Ok(target) if target == Path::new(library) => return Ok(()),
        Ok(_) => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    std::os::unix::fs::symlink(library, path)
}

/// On another host: whoever takes the library to its target names it there.
#[cfg(not(unix))]
fn make(_: &Path, _: &str) -> std::io::Result<()> {
    Ok(())
}
