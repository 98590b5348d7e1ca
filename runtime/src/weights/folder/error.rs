//! [`NotAModel`]: what a path is that no model can be opened from, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::files::mounted;
use crate::weights::{Name, Names, instead_of_weights};

/// Why a path is not that of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAModel {
    /// Nothing is there.
    Nowhere {
        /// The path.
        path: PathBuf,
        /// A folder above it that is not there either.
        missing: Option<PathBuf>,
    },
    /// A link to nothing.
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// No path, but the name that a model has on the hub.
    HubName {
        /// The name: `org/name`.
        id: String,
        /// Where the hub's cache has it.
        cached: Option<PathBuf>,
    },
    /// A file.
    File {
        /// The file.
        path: PathBuf,
        /// The folder that it is in, where that is a model.
        model: Option<PathBuf>,
    },
    /// A repository in the hub's cache that has no snapshot.
    NoSnapshot {
        /// The repository's folder.
        path: PathBuf,
    },
    /// A repository in the hub's cache with several snapshots, none of which is the main one.
    Snapshots {
        /// The repository's folder.
        path: PathBuf,
        /// The snapshots, each with the branches and tags that it is known by.
        found: Vec<String>,
    },
    /// A folder that holds folders of models.
    Folders {
        /// The folder.
        path: PathBuf,
        /// The models' folders in it.
        models: Vec<String>,
    },
    /// An adapter to a model.
    Adapter {
        /// The folder.
        path: PathBuf,
        /// The model that it is for.
        base: Option<String>,
    },
    /// Several models that work together: a pipeline of `diffusers`.
    Pipeline {
        /// The folder.
        path: PathBuf,
    },
    /// Weights without a configuration.
    NoConfig {
        /// The folder.
        path: PathBuf,
        /// The files with weights.
        weights: Vec<String>,
        /// Whether it is Mistral's own layout, with `params.json`.
        params: bool,
    },
    /// Other files alone.
    OtherFiles {
        /// The folder.
        path: PathBuf,
        /// The files.
        files: Vec<String>,
    },
    /// Nothing is in the folder.
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

/// A folder, or the files that stand for one.
pub(crate) struct Place<'a>(pub(crate) &'a Path);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match mounted::is_mounted(self.0) {
            true => f.write_str("the list of files"),
            false => self.0.display().fmt(f),
        }
    }
}

/// What a model is, for those who gave something else.
const A_MODEL: &str = "a model is a folder with config.json and *.safetensors";

impl fmt::Display for NotAModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere { path, missing } => {
                write!(f, "{} does not exist", path.display())?;
                if let Some(missing) = missing {
                    write!(f, " (there is no {})", missing.display())?;
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
                "{id} does not exist as a folder; the hub's cache has the model of that name: give {}",
                cached.display()
            ),
            Self::HubName { id, cached: None } => write!(
                f,
                "{id} does not exist as a folder, and nothing is downloaded here: `hf download {id}` fetches the model of \
                 that name from the hub and prints its folder; give that ({A_MODEL})"
            ),
            Self::File { path, model } => {
                write!(f, "{} is a file", path.display())?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                match model {
                    Some(model) => {
                        write!(f, ": give the folder that it is in, {}", model.display())
                    }
                    None if name.ends_with(".safetensors") => write!(
                        f,
                        ", and config.json of the same model is not beside it: {A_MODEL}, as it is downloaded from the hub"
                    ),
                    None if is_weights(&name) => {
                        write!(f, "{} ({A_MODEL})", instead_of_weights(&name))
                    }
                    None => write!(f, ": {A_MODEL}"),
                }
            }
            Self::NoSnapshot { path } => write!(
                f,
                "{} is a repository in the hub's cache without a snapshot: the download was not finished, download it again",
                path.display()
            ),
            Self::Snapshots { path, found } => write!(
                f,
                "{} is a repository in the hub's cache with {} snapshots, and refs/main names none of them: give one of the \
                 folders in its snapshots/: {}",
                path.display(),
                found.len(),
                Names(found)
            ),
            Self::Folders { path, models } => write!(
                f,
                "{} is no model (config.json is not in it) but holds {}: give {}",
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
                    ", not a model (config.json): merge it into its base model (`merge_and_unload` of `peft`), store the result \
                     with `save_pretrained`, and give that folder",
                )
            }
            Self::Pipeline { path } => write!(
                f,
                "{} is a pipeline of `diffusers` (model_index.json), not a language model (config.json)",
                Place(path)
            ),
            Self::NoConfig { path, params: true, weights } => write!(
                f,
                "{} has {} and params.json, a layout of its own, and no config.json: download config.json and \
                 model*.safetensors of the same model from the hub",
                Place(path),
                Names(weights)
            ),
            Self::NoConfig { path, weights, .. } => {
                write!(f, "{} has no config.json, only {}", Place(path), Names(weights))?;
                match weights.first() {
                    Some(first) if !is_usable(first) => f.write_str(instead_of_weights(first)),
                    _ => f.write_str(": config.json comes with the model, download it as well"),
                }
            }
            Self::OtherFiles { path, files } => write!(
                f,
                "{} is no model: it has {} but neither config.json nor weights ({A_MODEL})",
                Place(path),
                Names(files)
            ),
            Self::Empty { path } => {
                write!(f, "{} is empty: config.json is not in it ({A_MODEL})", Place(path))
            }
        }
    }
}

impl std::error::Error for NotAModel {}

/// Whether files of this name hold weights that can be read where config.json is.
fn is_usable(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.starts_with("adapter")
}

/// Whether a file of this name holds weights.
fn is_weights(name: &str) -> bool {
    !super::contents::other_weights(&[name.to_string()]).is_empty()
}
