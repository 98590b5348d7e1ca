//! Broken and malicious model folders: each gives a typed error whose message says what is wrong
//! and where. None panics, and none makes the library allocate more than a little memory.
//!
//! Broken safetensors files are tested in `runtime/tests/hostile_weights.rs`.

#[allow(unsafe_code)]
mod counting;

mod config_sizes;
mod config_text;
mod extras;
mod folder;
mod foreign;
mod fp8;
mod layouts;
mod quantized;
mod spellings;
mod values;
mod weights;

use std::path::Path;

use kinglet::{Activations, Error, Model, ModelOptions};
use kinglet_tests::temp::TempDir;
use kinglet_tests::{Case, cases};

/// Memory that opening may use beyond four times the size of the files: error messages, the system
/// libraries' buffers, the plan of a small model, bookkeeping of stacks.
const ALLOWANCE: usize = 1 << 20;

/// Opens `folder` on one thread, and checks that memory use is proportional to the size of the
/// folder.
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
        Ok(_) => panic!("it opened, but should fail with {parts:?}"),
    };
    let (message, path) = (error.to_string(), folder.display().to_string());
    // The folder's own name has random digits, so it proves nothing.
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

/// A case of each family: the one called `plain`, or else the first.
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

/// A copy of a fixture to break.
fn copy(name: &str) -> TempDir {
    TempDir::copy_of(&case(name).folder)
}
