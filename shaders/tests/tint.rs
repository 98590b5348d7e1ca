//! Dawn's compiler, which browsers use, must accept every variant that naga accepts. Without `tint`
//! on the path the test prints a note; with `KINGLET_REQUIRE_TINT=1` in the environment it fails.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use kinglet_shaders::{Variant, metadata, source};

/// Features that naga has and Dawn lacks: a variant with one never runs in a browser.
const NAGA_ONLY: &str = "enable wgpu_";

/// The error that `tint` reports for a file, if any.
fn complaint(file: &Path) -> std::io::Result<Option<String>> {
    let output = Command::new("tint").args(["--format", "wgsl"]).arg(file).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then_some(text))
}

/// Whether the only complaint is about control flow that depends on the subgroup size. It is the
/// same for all threads of a workgroup, but Dawn does not know that of a structure's members. wgpu
/// offers no subgroups in a browser, so Dawn never sees these variants.
fn of_sizes(complaint: &str) -> bool {
    let mut errors = complaint.lines().filter(|line| line.contains(" error: "));
    errors.all(|line| line.contains("uniform control flow"))
}

fn is_there() -> bool {
    let mut probe = Command::new("tint");
    probe.arg("--help").stdout(Stdio::null()).stderr(Stdio::null());
    match probe.status() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => panic!("tint can't be started: {error}"),
    }
}

#[test]
fn dawn_accepts_every_variant_and_refuses_what_is_wrong() {
    if !is_there() {
        let text = "NOTHING IS CHECKED WITH DAWN HERE: no tint on the path\n";
        assert!(std::env::var_os("KINGLET_REQUIRE_TINT").is_none(), "{text}");
        // Bypasses the capture of passing tests' output.
        let _ = std::io::stderr().write_all(text.as_bytes());
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let check = |name: &str, text: &str| {
        let file = folder.join(format!("{name}.wgsl"));
        std::fs::write(&file, text).unwrap();
        complaint(&file).unwrap()
    };
    // Otherwise a program that accepts anything would pass.
    assert!(check("wrong", "fn f() -> f32 { return 1u; }").is_some(), "tint accepts nonsense");
    let mut refused = Vec::new();
    for variant in Variant::all() {
        let (name, mut text) = (variant.name(), source(variant).unwrap());
        // Dawn requires this directive; naga refuses it, so it can't be in the source.
        if metadata(variant).is_some_and(|metadata| metadata.subgroups) {
            text.insert_str(0, "enable subgroups;\n");
        }
        if text.contains(NAGA_ONLY) {
            continue;
        }
        let own = metadata(variant).is_some_and(|metadata| metadata.subgroups);
        if let Some(complaint) = check(&name, &text).filter(|text| !own || !of_sizes(text)) {
            refused.push(format!("{name}: {complaint}"));
        }
    }
    assert!(refused.is_empty(), "{} variants:\n{}", refused.len(), refused.join("\n"));
}
