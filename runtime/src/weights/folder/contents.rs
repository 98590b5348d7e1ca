//! Examines what a path holds instead of a model.

use std::fs;
use std::path::{Path, PathBuf};

use super::{NotAModel, hub, names};
use crate::files::{mounted, small_file};

/// Most weights files that an error lists.
const MAX_NAMED: usize = 8;
/// Most folders that are searched.
const MAX_FOLDERS: usize = 2000;
/// Largest description of an adapter, in bytes.
const MAX_ADAPTER_CONFIG: u64 = 1 << 20;

/// Endings of files with weights, the most useful first.
const ENDINGS: [&str; 14] = [
    ".safetensors",
    ".gguf",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".ggml",
    ".npz",
    ".onnx",
    ".h5",
    ".msgpack",
    ".tflite",
    ".mlmodel",
    ".pdparams",
];
/// Files that training leaves beside the weights.
const OF_TRAINING: [&str; 6] =
    ["training_args", "optimizer", "scheduler", "rng_state", "random_states", "scaler"];

/// The files among `names` that hold weights of some kind, the most useful first.
pub(crate) fn other_weights(names: &[String]) -> Vec<String> {
    let rank = |name: &&String| {
        let lower = name.to_lowercase();
        let training = OF_TRAINING.iter().any(|begin| lower.starts_with(begin));
        let rank = ENDINGS.iter().position(|ending| lower.ends_with(ending));
        rank.filter(|_| !training)
    };
    let mut found: Vec<_> = names.iter().filter_map(|name| Some((rank(&name)?, name))).collect();
    found.sort();
    found.into_iter().map(|(_, name)| name.clone()).collect()
}

/// Explains `path`, which is a file.
pub(super) fn of_file(path: &Path) -> NotAModel {
    let folder = path.parent().map(|parent| match parent.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => parent.to_path_buf(),
    });
    let model = folder.filter(|folder| is_model(folder));
    NotAModel::File { path: path.into(), model }
}

/// Explains `folder`, which has no config.json.
pub(super) fn of_folder(folder: &Path) -> NotAModel {
    let path = folder.to_path_buf();
    let names = names(folder);
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let mut weights = other_weights(&names);
    // If other weights lie beside an adapter's description, they may be the model.
    let adapter = has("adapter_config.json") || has("adapters.safetensors");
    if adapter && weights.iter().all(|name| name.starts_with("adapter")) {
        return NotAModel::Adapter { base: base_of(folder), path };
    }
    if has("model_index.json") {
        return NotAModel::Pipeline { path };
    }
    if !weights.is_empty() {
        let params =
            has("params.json") && weights.iter().all(|name| name.starts_with("consolidated"));
        weights.truncate(MAX_NAMED);
        return NotAModel::NoConfig { path, weights, params };
    }
    let models = models_in(folder, &names);
    if !models.is_empty() {
        return NotAModel::Folders { path, models };
    }
    let files: Vec<String> = names.into_iter().filter(|name| !name.starts_with('.')).collect();
    if files.is_empty() { NotAModel::Empty { path } } else { NotAModel::OtherFiles { path, files } }
}

/// The model that an adapter is for, according to its description.
fn base_of(folder: &Path) -> Option<String> {
    let json = small_file::read(&folder.join("adapter_config.json"), MAX_ADAPTER_CONFIG).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&json).ok()?;
    let field = ["base_model_name_or_path", "model"].iter().find_map(|name| value.get(name));
    Some(field?.as_str()?.to_string())
}

/// Whether a folder is a model, or a model's repository in the hub's cache.
fn is_model(folder: &Path) -> bool {
    folder.join("config.json").exists() || hub::is_repository(folder)
}

/// The models in `folder`, or two levels below it as in `org/name`.
fn models_in(folder: &Path, names: &[String]) -> Vec<String> {
    if mounted::is_mounted(folder) {
        return Vec::new();
    }
    let mut budget = MAX_FOLDERS;
    let mut folders = |folder: &Path, names: &[String]| -> Vec<String> {
        let visible = names.iter().filter(|name| !name.starts_with('.'));
        let taken: Vec<String> = visible
            .take(budget)
            .filter(|name| fs::metadata(folder.join(name)).is_ok_and(|found| found.is_dir()))
            .cloned()
            .collect();
        budget -= taken.len();
        taken
    };
    let first = folders(folder, names);
    let models: Vec<String> =
        first.iter().filter(|name| is_model(&folder.join(name))).cloned().collect();
    if !models.is_empty() {
        return models;
    }
    let mut models = Vec::new();
    for name in &first {
        let below = folder.join(name);
        for inner in folders(&below, &super::names(&below)) {
            if is_model(&below.join(&inner)) {
                models.push(format!("{name}/{inner}"));
            }
        }
    }
    models
}
