//! Finds the model folder of a command: the one that was named, or else the demo model.

use std::path::{Path, PathBuf};

use crate::error::CliError;
use crate::paths;

/// Environment variable that names a model folder in place of `--model`.
const VARIABLE: &str = "KINGLET_MODEL";
/// The demo model in the source tree.
const IN_SOURCE: &str = "models/demo/hybrid";
/// The demo model of an installed program: `PREFIX/bin/kinglet`, `PREFIX/share/kinglet/demo`.
const INSTALLED: &str = "share/kinglet/demo";

/// Places to look for the demo model.
struct Places {
    /// The folder of the executable.
    executable: Option<PathBuf>,
    /// The root of the source tree that this program was built from.
    source: PathBuf,
    /// The current folder.
    current: PathBuf,
}

/// The model folder to use: `given`, or else the one in `KINGLET_MODEL`, or else the demo model.
///
/// # Errors
/// If the named path is not a model folder, or none was named and the demo model was not found.
pub(crate) fn find(given: Option<&Path>) -> Result<PathBuf, CliError> {
    let variable = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let executable = std::env::current_exe().ok().map(|path| path.canonicalize().unwrap_or(path));
    let places = Places {
        executable: executable.as_deref().and_then(Path::parent).map(Path::to_path_buf),
        source: root_of(Path::new(env!("CARGO_MANIFEST_DIR"))),
        current: PathBuf::from("."),
    };
    choose(given, variable.as_deref(), &places)
}

/// The root of the source tree, from the folder of this crate in it.
fn root_of(manifest: &Path) -> PathBuf {
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}

fn choose(
    given: Option<&Path>,
    variable: Option<&Path>,
    places: &Places,
) -> Result<PathBuf, CliError> {
    if let Some(path) = given {
        return named(path, "given with --model");
    }
    if let Some(path) = variable {
        return named(path, "given in KINGLET_MODEL");
    }
    let found = places.candidates().into_iter().find(|path| path.join("config.json").is_file());
    if let Some(path) = found {
        return Ok(path);
    }
    // Many programs have a config.json; weights next to it make it a model.
    if is_checkpoint(&places.current) {
        return Ok(places.current.clone());
    }
    Err(CliError::NoModel { looked: places.describe() })
}

/// The folder of a model that was named. The engine checks the contents of its files.
///
/// # Errors
/// If the path is not a model.
pub(crate) fn named(path: &Path, origin: &'static str) -> Result<PathBuf, CliError> {
    kinglet::resolve_folder(paths::expand(path)).map_err(|error| match error {
        kinglet::Error::NotAModel(source) => CliError::NotAModel { origin, source },
        error => error.into(),
    })
}

fn is_checkpoint(folder: &Path) -> bool {
    let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let has_weights = entries.any(|entry| entry.file_name().to_str().is_some_and(is_weights));
    has_weights && folder.join("config.json").is_file()
}

impl Places {
    /// Folders that may be the demo model, the most likely first.
    fn candidates(&self) -> Vec<PathBuf> {
        let mut candidates = Vec::new();
        // Walks from target/release up to the root of a source tree, and from bin to its prefix.
        for folder in self.executable.iter().flat_map(|folder| folder.ancestors()) {
            candidates.extend([folder.join(IN_SOURCE), folder.join(INSTALLED)]);
        }
        candidates.extend([self.source.join(IN_SOURCE), self.current.join(IN_SOURCE)]);
        candidates
    }

    fn describe(&self) -> String {
        let executable = self.executable.as_deref().unwrap_or(Path::new("."));
        format!(
            "at {IN_SOURCE} or {INSTALLED} in {} or a folder above it, nor at {IN_SOURCE} in {} or the current folder",
            executable.display(),
            self.source.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet::NotAModel;
    use std::fs;
    use tempfile::TempDir;

    /// Creates folders for an executable, a source tree and the current folder, without any model.
    fn tree() -> (TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let places = Places {
            executable: Some(folder("checkout/target/release")),
            source: folder("source"),
            current: folder("current"),
        };
        (root, places)
    }

    fn put_model(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
    }

    #[test]
    fn the_demo_model_is_found_in_each_place_and_the_nearest_wins() {
        let (root, places) = tree();
        // From the least to the most preferred: each must win over all before it.
        let order = [
            "current/models/demo/hybrid",
            "source/models/demo/hybrid",
            "checkout/share/kinglet/demo",
            "checkout/models/demo/hybrid",
            "checkout/target/share/kinglet/demo",
            "checkout/target/release/models/demo/hybrid",
        ];
        for place in order {
            let model = root.path().join(place);
            put_model(&model);
            assert_eq!(choose(None, None, &places).unwrap(), model);
        }
    }

    #[test]
    fn what_is_named_wins_and_is_not_replaced_by_the_demo_model() {
        let (root, places) = tree();
        put_model(&places.source.join(IN_SOURCE));
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        for (given, variable, origin) in
            [(Some(&a), Some(&b), "given with --model"), (None, Some(&b), "given in KINGLET_MODEL")]
        {
            let expected = given.or(variable).unwrap();
            match choose(given.map(PathBuf::as_path), variable.map(PathBuf::as_path), &places) {
                Err(CliError::NotAModel {
                    source: NotAModel::Nowhere { path, .. },
                    origin: found,
                }) => assert_eq!((&path, found), (expected, origin)),
                other => panic!("{other:?}"),
            }
        }
        fs::write(&b, "").unwrap();
        let error = choose(None, Some(&b), &places).unwrap_err();
        let is_file = |error: &CliError| {
            matches!(error, CliError::NotAModel { source: NotAModel::File { .. }, .. })
        };
        assert!(is_file(&error), "{error}");
        fs::create_dir(&a).unwrap();
        assert_eq!(choose(Some(&a), Some(&b), &places).unwrap(), a);
    }

    #[test]
    fn a_checkpoint_in_the_current_folder_is_the_last_resort() {
        let (_root, places) = tree();
        put_model(&places.current);
        match choose(None, None, &places) {
            Err(CliError::NoModel { looked }) => {
                for place in [&places.source, places.executable.as_ref().unwrap()] {
                    assert!(looked.contains(&place.display().to_string()), "{looked}");
                }
            }
            other => panic!("a config.json alone is no model: {other:?}"),
        }
        fs::write(places.current.join("model.safetensors"), "").unwrap();
        assert_eq!(choose(None, None, &places).unwrap(), places.current);
    }
}
