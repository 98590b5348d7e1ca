//! Gives the shared library the name by which programs ask for it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // Programs that were linked with one version of the interface don't start with another.
    if is("CARGO_CFG_TARGET_FAMILY", "unix") && is("CARGO_CFG_TARGET_VENDOR", "apple") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libkinglet.1.dylib");
    } else if is("CARGO_CFG_TARGET_OS", "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkinglet.so.1");
    }
}
