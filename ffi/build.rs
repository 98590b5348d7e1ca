//! Sets the name that the shared library is loaded by, and creates a link of that name next to it.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_FAMILY", "unix") {
        return;
    }
    // A program linked with one interface version must not start with another.
    if is("CARGO_CFG_TARGET_VENDOR", "apple") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libkinglet.1.dylib");
        link("libkinglet.1.dylib", "libkinglet.dylib");
    } else if is("CARGO_CFG_TARGET_OS", "android") {
        // An Android package holds no symbolic links and no versioned names.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkinglet.so");
    } else {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkinglet.so.1");
        link("libkinglet.so.1", "libkinglet.so");
    }
}

/// Makes `name` a link to `library` in cargo's output folder. Without it, a program linked with `-L
/// target/release` would load a file that does not exist.
fn link(name: &str, library: &str) {
    let Some(folder) = products() else { return };
    let path = folder.join(name);
    // Another build in the same folder may be creating it at the same time.
    if make(&path, library).is_err() && std::fs::read_link(&path).ok() != Some(library.into()) {
        println!("cargo::warning=can't link {} to {library}", path.display());
    }
}

/// The profile's folder, for example `target/release`: the parent of `build`, where build scripts
/// write.
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

/// On other hosts the library is renamed when it is copied to its target.
#[cfg(not(unix))]
fn make(_: &Path, _: &str) -> std::io::Result<()> {
    Ok(())
}
