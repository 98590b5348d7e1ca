//! Checks each small checkpoint in `tests/fixtures` (made with `transformers`) against the spec of
//! its config: the spec names exactly the tensors of the file, with their shapes, and the older
//! spelling of the config gives the same spec. Checkpoints converted by MLX are checked against the
//! spec in its layout.

use kinglet_models::{Config, Layout, ModelSpec, Quantization, spec, spec_in};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

type Shapes = BTreeMap<String, Vec<usize>>;

/// Every `tests/fixtures/FAMILY/CASE` of the workspace, and every `tests/fixtures/quantized/CASE`.
fn cases() -> Result<(Vec<PathBuf>, Vec<PathBuf>), Box<dyn Error>> {
    let all = folders()?.into_iter();
    let (others, cases): (Vec<_>, _) = all.partition(|path| {
        path.parent().is_some_and(|p| p.ends_with("quantized") || p.ends_with("foreign"))
    });
    let quantized = others.into_iter();
    let quantized =
        quantized.filter(|path| path.parent().is_some_and(|p| p.ends_with("quantized")));
    Ok((cases, quantized.collect()))
}

fn folders() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let mut cases = Vec::new();
    for family in fs::read_dir(root)? {
        let family = family?.path();
        if !family.is_dir() {
            continue;
        }
        for case in fs::read_dir(family)? {
            let case = case?.path();
            if case.join("config.json").is_file() {
                cases.push(case);
            }
        }
    }
    cases.sort();
    Ok(cases)
}

fn read_spec(path: &Path) -> Result<ModelSpec, Box<dyn Error>> {
    let model = spec(&Config::parse(&fs::read_to_string(path)?)?);
    model.map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Names and shapes in all safetensors files of a case, except the reference's.
fn shapes(case: &Path) -> Result<Shapes, Box<dyn Error>> {
    let mut shapes = Shapes::new();
    for file in fs::read_dir(case)? {
        let file = file?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !(name.starts_with("model") && name.ends_with(".safetensors")) {
            continue;
        }
        let bytes = fs::read(&file)?;
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or("no header length")?;
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        let header = rest.get(..length).ok_or("header cut off")?;
        let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header)?;
        for (name, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            shapes.insert(name, serde_json::from_value(entry["shape"].clone())?);
        }
    }
    Ok(shapes)
}

/// Whether `name` matches `pattern`, in which `*` matches any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).any(|cut| name.get(cut..).is_some_and(|name| matches(rest, name)))
        }),
    }
}

#[test]
fn specs_name_the_tensors_of_the_files() -> Result<(), Box<dyn Error>> {
    let (cases, _) = cases()?;
    assert!(!cases.is_empty(), "no fixtures");
    for case in &cases {
        let mut model = read_spec(&case.join("config.json"))?;
        let mut found = shapes(case)?;
        if ["kimi_linear", "olmo_hybrid"].contains(&&*model.model_type) {
            // transformers saves the dense networks of the one and the norms of the other under other names.
            model.fit_names(&found.keys().map(String::as_str).collect::<Vec<_>>());
        }
        if model.model_type == "olmo_hybrid" {
            // It cuts the joint convolution elsewhere than where queries and keys end.
            found.retain(|name, _| !name.ends_with("_conv1d.weight"));
        }
        let mut wanted: Shapes =
            model.tensors().into_iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        assert_eq!(wanted.len(), model.tensors().len(), "{}: a name twice", case.display());
        if model.model_type == "olmo_hybrid" {
            wanted.retain(|name, _| !name.ends_with("_conv1d.weight"));
        }
        let ignored = |name: &str| model.ignored.iter().any(|pattern| matches(pattern, name));
        found.retain(|name, _| wanted.contains_key(name) || !ignored(name));
        assert_eq!(wanted, found, "{}", case.display());
    }
    Ok(())
}

#[test]
fn older_spellings_give_the_same_spec() -> Result<(), Box<dyn Error>> {
    let mut compared = 0;
    for case in &cases()?.0 {
        let older = case.join("config.legacy.json");
        if older.is_file() {
            let (older, newer) = (read_spec(&older)?, read_spec(&case.join("config.json"))?);
            assert_eq!(older, newer, "{}", case.display());
            compared += 1;
        }
    }
    assert!(compared > 0, "no fixture has an older spelling");
    Ok(())
}

#[test]
fn specs_in_the_layout_of_mlx_name_the_tensors_of_what_it_converts() -> Result<(), Box<dyn Error>> {
    let (_, cases) = cases()?;
    assert!(cases.len() >= 50, "only {} cases", cases.len());
    let (mut other_names, mut entries) = (0, 0);
    for case in &cases {
        let config = Config::parse(&fs::read_to_string(case.join("config.json"))?)?;
        let mut model = spec_in(&config, Layout::Mlx)?;
        other_names += usize::from(model != spec(&config)?);
        let all = shapes(case)?;
        // Families of which mlx-lm changes the weights are not written in its layout, only read; nor are the parts of a projection that it
        // makes of the whole (Kimi Linear).
        let mut read = model.clone();
        read.fit_names(&all.keys().map(String::as_str).collect::<Vec<_>>());
        read.fit_factors(|name| all.get(name).map(Vec::as_slice))?;
        if read.is_folded() || model.model_type == "kimi_linear" {
            model = read;
        }
        let packed = |name: &str| {
            name.strip_suffix(".weight").is_some_and(|p| all.contains_key(&format!("{p}.scales")))
        };
        let beside = |name: &str| {
            let parts = [".scales", ".biases", ".global_scale"];
            let prefix = parts.iter().find_map(|part| name.strip_suffix(part));
            prefix.is_some_and(|prefix| packed(&format!("{prefix}.weight")))
        };
        let wanted: Shapes =
            model.tensors().into_iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        let ignored = |name: &str| model.ignored.iter().any(|pattern| matches(pattern, name));
        let found: Vec<_> = all
            .iter()
            .filter(|(name, _)| !beside(name))
            .filter(|(name, _)| wanted.contains_key(*name) || !ignored(name))
            .collect();
        assert_eq!(
            wanted.keys().collect::<Vec<_>>(),
            found.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            "{}",
            case.display()
        );
        for (name, shape) in found {
            let wanted = wanted.get(name).ok_or("checked just now")?;
            let rows = |shape: &[usize]| shape.split_last().map(|(_, rows)| rows.to_vec());
            if packed(name) {
                assert_eq!(rows(shape), rows(wanted), "{}: {name}", case.display());
            } else {
                assert_eq!(shape, wanted, "{}: {name}", case.display());
            }
        }
        // Every entry of the config belongs to an existing module.
        if let Some(Quantization::Mlx(stated)) = config.quantization()? {
            for (path, _) in stated.layers() {
                let known = wanted.contains_key(&format!("{path}.weight"));
                assert!(known, "{}: {path}", case.display());
                entries += 1;
            }
        }
    }
    assert!(other_names >= 15 && entries >= 20, "{other_names} {entries}");
    Ok(())
}
