//! `models/FAMILIES.md`: which family has which kinds of layer, which ops compute them, and where these run. Made from
//! the code and the fixtures; this test fails if the page is out of date.
//!
//!     KINGLET_WRITE_TABLE=1 cargo test --release --workspace --test families

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use kinglet::models::{ModelSpec, supported};
use kinglet::plan::Plan;
use kinglet_tests::{Case, cases, quantized_cases};

/// What the fixtures show of a family.
#[derive(Default)]
struct Family {
    class: BTreeSet<String>,
    kinds: BTreeSet<&'static str>,
    /// Formats of its fixtures in MLX's layout.
    formats: BTreeSet<String>,
}

fn spec(case: &Case) -> ModelSpec {
    kinglet::read_spec(&case.folder).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// The ops of each kind of layer, from the plans of models with a single branch.
fn ops(spec: &ModelSpec, ops: &mut BTreeMap<&'static str, BTreeSet<&'static str>>) {
    let names = |spec: &ModelSpec| -> BTreeSet<_> {
        Plan::new(spec).ops.iter().map(|op| op.name()).collect()
    };
    let frame = names(&ModelSpec { blocks: Vec::new(), ..spec.clone() });
    for block in &spec.blocks {
        for branch in &block.branches {
            let mut block = block.clone();
            block.branches = vec![branch.clone()];
            let own = names(&ModelSpec { blocks: vec![block], ..spec.clone() });
            let kind = branch.mixer.layer().kind();
            ops.entry(kind).or_default().extend(own.difference(&frame));
        }
    }
}

fn page() -> String {
    let mut families: BTreeMap<String, Family> =
        supported().map(|name| (name.to_string(), Family::default())).collect();
    let mut by_kind = BTreeMap::new();
    for case in cases() {
        let spec = spec(&case);
        let config = std::fs::read_to_string(case.folder.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let family = families.get_mut(&spec.model_type).unwrap_or_else(|| panic!("{}", case.name));
        family.class.extend(config["architectures"][0].as_str().map(String::from));
        let branches = spec.blocks.iter().flat_map(|block| &block.branches);
        family.kinds.extend(branches.map(|branch| branch.mixer.layer().kind()));
        ops(&spec, &mut by_kind);
    }
    for case in quantized_cases() {
        // Such as `affine-4-64 mxfp8-8-32`: mode, bits, group.
        let formats = case.info["formats"].split_whitespace().map(|format| {
            match format.split('-').collect::<Vec<_>>()[..] {
                ["affine", bits, _] => format!("affine {bits}"),
                [mode, ..] => mode.to_string(),
                [] => String::new(),
            }
        });
        families.get_mut(&spec(&case).model_type).unwrap().formats.extend(formats);
    }
    let kinds: Vec<_> = by_kind.keys().copied().collect();
    let mut page = String::from(
        "# Families\n\n\
         Made from the code and the fixtures by `KINGLET_WRITE_TABLE=1 cargo test --release --workspace --test families`; a test holds it\n\
         current. A family is a `model_type`. Each has fixtures with the logits of `transformers`, on the CPU and through WGSL.\n\n\
         ## Kinds of layer\n\n",
    );
    let head = |page: &mut String, columns: &[&str]| {
        writeln!(page, "| {} |\n|{}", columns.join(" | "), " --- |".repeat(columns.len())).unwrap();
    };
    head(&mut page, &[&["`model_type`", "class"], &kinds[..], &["MLX formats tested"]].concat());
    for (name, family) in &families {
        assert!(!family.kinds.is_empty(), "{name} has no fixture");
        let class: Vec<_> = family.class.iter().map(|class| format!("`{class}`")).collect();
        let marks = kinds.iter().map(|kind| if family.kinds.contains(kind) { "x" } else { "" });
        let formats: Vec<_> = family.formats.iter().map(String::as_str).collect();
        let mut row = vec![format!("`{name}`"), class.join(", ")];
        row.extend(marks.map(String::from));
        row.push(formats.join(", "));
        writeln!(page, "| {} |", row.join(" | ")).unwrap();
    }
    page.push_str(
        "\n## Where they run\n\n\
         The ops of each kind of layer. Every op runs step by step for few tokens and as products of tiles or chunks for many.\n\n",
    );
    head(&mut page, &["kind", "op", "CPU", "WGSL (native and in the browser)", "CUDA"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let has = |path: String| if root.join(path).exists() { "x" } else { "" };
    for (kind, ops) in &by_kind {
        for op in ops {
            let cpu = has(format!("runtime/src/backend/cpu/{op}.rs"));
            let wgsl = has(format!("shaders/src/{op}.wgsl"));
            let cuda = has(format!("kernels-cuda/{op}.cu"));
            writeln!(page, "| {kind} | `{op}` | {cpu} | {wgsl} | {cuda} |").unwrap();
        }
    }
    page
}

#[test]
fn the_page_of_families_is_current() {
    if std::env::var_os("KINGLET_FIXTURES").is_some() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/FAMILIES.md");
    let page = page();
    if std::env::var_os("KINGLET_WRITE_TABLE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    assert!(
        written == page,
        "{} is out of date; its first lines say how to make it",
        path.display()
    );
}
