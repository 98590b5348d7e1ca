//! One op, one name: every place that implements ops has a file of the op's name.

use std::collections::BTreeSet;
use std::path::Path;

/// Names of the files in `folder` (relative to the repository's root) with the given extension,
/// without it; empty if the folder does not exist.
fn names(folder: &str, extension: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return BTreeSet::new() };
    let names = entries.filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_stem()?.to_str()?.to_string();
        (path.extension()? == extension).then_some(name)
    });
    names.collect()
}

/// The ops: files of `runtime/src/plan/op`.
fn ops() -> BTreeSet<String> {
    let mut ops = names("runtime/src/plan/op", "rs");
    assert!(ops.remove("mod"), "runtime/src/plan/op/mod.rs should describe the ops");
    assert!(
        ops.remove("describe"),
        "runtime/src/plan/op/describe.rs should say what is asked of ops"
    );
    ops
}

#[test]
fn every_op_has_its_siblings() {
    let ops = ops();
    assert!(ops.len() >= 12, "only {ops:?}");
    // Folders that must always be complete, and those that must be complete once they hold any op.
    let places = [
        ("runtime/src/backend/cpu", "rs", true),
        ("runtime/src/backend/gpu", "rs", true),
        ("tests/op", "rs", true),
        ("tests/src/reference", "rs", true),
        ("shaders/src", "wgsl", true),
        ("kernels-cuda/src", "cu", false),
    ];
    let mut missing = Vec::new();
    for (folder, extension, required) in places {
        let there = names(folder, extension);
        if required || ops.iter().any(|op| there.contains(op)) {
            let lacking = ops.difference(&there);
            missing.extend(lacking.map(|op| format!("{folder}/{op}.{extension}")));
        }
    }
    assert!(missing.is_empty(), "ops without siblings: {missing:#?}");
}

/// The Rust files below `folder`.
fn rust_files(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn only_the_backend_of_an_api_names_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("runtime/src");
    let own = source.join("backend/gpu/wgpu");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let (inside, outside): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|path| path.starts_with(&own));
    // The crate, not the module `gpu::wgpu`.
    let names_crate = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap().replace("gpu::wgpu::", "");
        text.contains("wgpu::") || text.contains("use wgpu")
    };
    assert!(inside.iter().any(names_crate), "no file of {} names wgpu", own.display());
    let wrong: Vec<_> = outside.into_iter().filter(names_crate).collect();
    assert!(wrong.is_empty(), "these name wgpu: {wrong:#?}");
}

#[test]
fn every_op_file_is_compiled_and_named_as_its_op() {
    let text = |path: &str| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        std::fs::read_to_string(root.join(path)).unwrap()
    };
    let (ops_module, tests) = (text("runtime/src/plan/op/mod.rs"), text("tests/op/main.rs"));
    for op in ops() {
        assert!(ops_module.contains(&format!("mod {op};")), "{op} is no module of the ops");
        let description = text(&format!("runtime/src/plan/op/{op}.rs"));
        assert!(description.contains(&format!("\"{op}\"")), "no op calls itself {op}");
        assert!(tests.contains(&format!("mod {op};")), "tests/op/{op}.rs is not compiled");
    }
}
