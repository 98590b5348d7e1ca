//! [`NotAModel`]: why no model can be opened from a path, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::files::mounted;
use crate::weights::{Name, Names, weights_advice};

/// Why a path is not a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAModel {
    /// Nothing exists at the path.
    Nowhere {
        /// The path.
        path: PathBuf,
        /// A parent folder that does not exist either.
        missing: Option<PathBuf>,
    },
    /// The path is a dangling link.
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// The path is the name of a model on the hub.
    HubName {
        /// The name: `org/name`.
        id: String,
        /// Its path in the hub's cache, if it is there.
        cached: Option<PathBuf>,
    },
    /// The path is a file.
    File {
        /// The file.
        path: PathBuf,
        /// The folder that contains it, if that is a model.
        model: Option<PathBuf>,
    },
    /// The path is a repository in the hub's cache without a snapshot.
    NoSnapshot {
        /// The repository's folder.
        path: PathBuf,
    },
    /// The path is a repository in the hub's cache with several snapshots, and none is the main
    /// one.
    Snapshots {
        /// The repository's folder.
        path: PathBuf,
        /// The snapshots, each with its branches and tags.
        found: Vec<String>,
    },
    /// The folder contains folders of models.
    Folders {
        /// The folder.
        path: PathBuf,
        /// These folders.
        models: Vec<String>,
    },
    /// The folder holds an adapter to a model.
    Adapter {
        /// The folder.
        path: PathBuf,
        /// The model that it adapts.
        base: Option<String>,
    },
    /// The folder holds a pipeline of several models (`diffusers`).
    Pipeline {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has weights but no configuration.
    NoConfig {
        /// The folder.
        path: PathBuf,
        /// The files with weights.
        weights: Vec<String>,
        /// Whether it has Mistral's own layout, with `params.json`.
        params: bool,
    },
    /// The folder has only other files.
    OtherFiles {
        /// The folder.
        path: PathBuf,
        /// The files.
        files: Vec<String>,
    },
    /// The folder is empty.
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

/// Displays a folder, or the mounted files that stand for one.
pub(crate) struct Place<'a>(pub(crate) &'a Path);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match mounted::is_mounted(self.0) {
            true => f.write_str("the list of files"),
            false => self.0.display().fmt(f),
        }
    }
}

/// What a model is, for messages.
const A_MODEL: &str = "a model is a folder with config.json and *.safetensors";

impl fmt::Display for NotAModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere { path, missing } => {
                write!(f, "{} does not exist", path.display())?;
                if let Some(missing) = missing {
                    write!(f, " (nor does {})", missing.display())?;
                }
                write!(f, ": {A_MODEL}")
            }
            Self::DanglingLink { path, target } => write!(
                f,
                "{} is a link to {}, which does not exist: {A_MODEL}",
                path.display(),
                target.display()
            ),
            Self::HubName { id, cached: Some(cached) } => write!(
                f,
                "folder {id} does not exist, but the hub's cache has the model of that name: pass {}",
                cached.display()
            ),
            Self::HubName { id, cached: None } => write!(
                f,
                "folder {id} does not exist, and Kinglet downloads nothing: `hf download {id}` downloads the model of \
                 that name from the hub and prints its folder; pass that ({A_MODEL})"
            ),
            Self::File { path, model } => {
                write!(f, "{} is a file", path.display())?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                match model {
                    Some(model) => {
                        write!(f, ": pass its folder, {}", model.display())
                    }
                    None if name.ends_with(".safetensors") => write!(
                        f,
                        ", without the model's config.json beside it: {A_MODEL}, as downloaded from the hub"
                    ),
                    None if is_weights(&name) => {
                        write!(f, "{} ({A_MODEL})", weights_advice(&name))
                    }
                    None => write!(f, ": {A_MODEL}"),
                }
            }
            Self::NoSnapshot { path } => write!(
                f,
                "{} is a repository in the hub's cache without a snapshot: its download is unfinished, download it again",
                path.display()
            ),
            Self::Snapshots { path, found } => write!(
                f,
                "{} is a repository in the hub's cache with {} snapshots, and refs/main names none of them: pass one of the \
                 folders in its snapshots/: {}",
                path.display(),
                found.len(),
                Names(found)
            ),
            Self::Folders { path, models } => write!(
                f,
                "{} is not a model (it has no config.json) but contains {}: pass {}",
                path.display(),
                Names(models),
                if models.len() == 1 { "that folder" } else { "one of these folders" }
            ),
            Self::Adapter { path, base } => {
                write!(f, "{} is an adapter (adapter_config.json)", Place(path))?;
                if let Some(base) = base {
                    write!(f, " to {}", Name(base))?;
                }
                f.write_str(
                    ", not a model (config.json): merge it into its base model (`merge_and_unload` of `peft`), save the result \
                     with `save_pretrained`, and pass that folder",
                )
            }
            Self::Pipeline { path } => write!(
                f,
                "{} is a pipeline of `diffusers` (model_index.json), not a language model (config.json)",
                Place(path)
            ),
            Self::NoConfig { path, params: true, weights } => write!(
                f,
                "{} has {} and params.json, another layout, but no config.json: download config.json and \
                 model*.safetensors of the same model from the hub",
                Place(path),
                Names(weights)
            ),
            Self::NoConfig { path, weights, .. } => {
                write!(f, "{} has no config.json, only {}", Place(path), Names(weights))?;
                match weights.first() {
                    Some(first) if !is_usable(first) => f.write_str(weights_advice(first)),
                    _ => f.write_str(": download config.json of the same model too"),
                }
            }
            Self::OtherFiles { path, files } => write!(
                f,
                "{} is not a model: it has {} but neither config.json nor weights ({A_MODEL})",
                Place(path),
                Names(files)
            ),
            Self::Empty { path } => {
                write!(f, "{} is empty ({A_MODEL})", Place(path))
            }
        }
    }
}

impl std::error::Error for NotAModel {}

/// Whether a file of this name holds weights that can be loaded once there is a config.json.
fn is_usable(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.starts_with("adapter")
}

/// Whether a file of this name holds weights.
fn is_weights(name: &str) -> bool {
    !super::contents::other_weights(&[name.to_string()]).is_empty()
}
