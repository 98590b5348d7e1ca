//! Model folders that are broken or meant to do harm: each gives a typed error whose message says what is wrong and where;
//! none panics, and none makes us take more than a little memory.
//!
//! Broken safetensors files by themselves are the subject of `runtime/tests/hostile_weights.rs`.

#[allow(unsafe_code)]
mod counting;

mod config_sizes;
mod config_text;
mod extras;
mod folder;
mod foreign;
mod layouts;
mod quantized;
mod values;
mod weights;

use std::path::Path;

use kinglet::{Activations, Error, Model, ModelOptions};
use kinglet_tests::temp::TempDir;
use kinglet_tests::{Case, cases};

/// What opening may hold at once beyond four times the size of the files: error messages, buffers of the system's
/// libraries, the plan of a small model, the stacks' bookkeeping.
const ALLOWANCE: usize = 1 << 20;

/// Opens `folder` on one thread, and sees to it that this takes memory in proportion to what is in the folder.
fn open_with(folder: &Path, options: &ModelOptions) -> Result<Model, Error> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size: usize = files.filter_map(|file| Some(file.metadata().ok()?.len() as usize)).sum();
    let (result, peak) = counting::peak(|| Model::open(folder, options));
    assert!(
        peak <= 4 * size + ALLOWANCE,
        "{peak} bytes were held to open {size} bytes: {:?}",
        result.err().map(|e| e.to_string())
    );
    result
}

fn open(folder: &Path) -> Result<Model, Error> {
    open_with(folder, &ModelOptions::new().threads(1).activations(Activations::F32))
}

/// The error of opening `folder`, and its message, which must name each of `parts`.
fn refused(folder: &Path, parts: &[&str]) -> Error {
    let error = match open(folder) {
        Err(error) => error,
        Ok(_) => panic!("it opened, though {parts:?} should be complained about"),
    };
    let (message, path) = (error.to_string(), folder.display().to_string());
    // The folder's own name, which has digits of chance in it, proves nothing.
    let without_path = message.replace(&path, "");
    for part in parts {
        let whole = Path::new(part).is_absolute();
        let found = if whole { &message } else { &without_path };
        assert!(found.contains(part), "no {part:?} in: {message}");
    }
    error
}

/// A fixture by its name.
fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case {name}"))
}

/// A case for each family: the one called `plain`, or else the first.
fn one_of_each_family() -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    for case in cases() {
        let (family, name) = case.name.split_once('/').unwrap();
        let known = all.iter().position(|c| c.name.starts_with(&format!("{family}/")));
        match known {
            None => all.push(case),
            Some(at) if name == "plain" => all[at] = case,
            Some(_) => {}
        }
    }
    assert_eq!(all.len(), kinglet::models::supported().count());
    all
}

/// A copy of a fixture to be spoilt.
fn copy(name: &str) -> TempDir {
    TempDir::copy_of(&case(name).folder)
}
