//! The cache of the hub's client: `models--ORG--NAME/` with `blobs/`, `refs/` and
//! `snapshots/COMMIT/`, a folder of links.

use std::collections::BTreeMap;
use std::env;
use std::path::{Component, Path, PathBuf};

use super::{NotAModel, names};
use crate::files::small_file;

/// Prefix of a model repository's folder name.
const MODELS: &str = "models--";
/// Longest commit name in a ref, in bytes.
const MAX_REF: u64 = 512;
/// Most refs that are read for a message.
const MAX_REFS: usize = 100;

/// Whether a folder is a repository in the cache.
pub(super) fn is_repository(folder: &Path) -> bool {
    let named = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MODELS));
    folder.join("snapshots").is_dir() && (named || folder.join("refs").is_dir())
}

/// The snapshot to open for a repository in the cache; `None` for other folders.
pub(super) fn snapshot(path: &Path) -> Result<Option<PathBuf>, NotAModel> {
    // The path may also be its `snapshots` folder.
    let above = path.file_name().filter(|name| *name == "snapshots").and_then(|_| path.parent());
    let Some(repository) = [Some(path), above].into_iter().flatten().find(|p| is_repository(p))
    else {
        // The client creates the folder before it has any snapshot.
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MODELS));
        return match named && path.join("blobs").is_dir() {
            true => Err(NotAModel::NoSnapshot { path: path.into() }),
            false => Ok(None),
        };
    };
    let snapshots = repository.join("snapshots");
    let mut found = names(&snapshots);
    found.retain(|name| !name.starts_with('.') && snapshots.join(name).is_dir());
    let main = commit(&repository.join("refs/main"));
    if let Some(main) = main.as_ref().filter(|main| found.contains(main)) {
        return Ok(Some(snapshots.join(main)));
    }
    match found.as_slice() {
        [] => Err(NotAModel::NoSnapshot { path: repository.into() }),
        [only] => {
            if let Some(main) = main {
                log::warn!(
                    "{}: refs/main names {}, which is not downloaded; using the only snapshot, {only}",
                    repository.display(),
                    main.escape_debug()
                );
            }
            Ok(Some(snapshots.join(only)))
        }
        _ => {
            let refs = refs(repository);
            let named = |commit: String| match refs.get(&commit) {
                Some(names) => format!("{commit} ({})", names.join(", ")),
                None => commit,
            };
            let found = found.into_iter().map(named).collect();
            Err(NotAModel::Snapshots { path: repository.into(), found })
        }
    }
}

/// Reads the commit in a ref's file.
fn commit(path: &Path) -> Option<String> {
    let text = String::from_utf8(small_file::read(path, MAX_REF).ok()?).ok()?;
    let commit = text.trim();
    // Accept only the name of a folder in `snapshots`.
    let plain = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| commit.to_string())
}

/// The branches and tags of each commit.
fn refs(repository: &Path) -> BTreeMap<String, Vec<String>> {
    let folder = repository.join("refs");
    let mut refs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names(&folder).into_iter().take(MAX_REFS) {
        if let Some(commit) = commit(&folder.join(&name)) {
            refs.entry(commit).or_default().push(name);
        }
    }
    refs
}

/// The hub name that `path` looks like: `org/name`, also within a URL, or a name without an owner
/// that the cache has.
pub(super) fn id(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let hosts =
        ["https://huggingface.co/", "http://huggingface.co/", "huggingface.co/", "hf.co/", "hf://"];
    let address = hosts.iter().find_map(|host| text.strip_prefix(host));
    if let Some(rest) = address {
        let mut parts = rest.split('/').filter(|part| !part.is_empty());
        let (owner, name) = (parts.next()?, parts.next()?);
        return (is_part(owner) && is_part(name)).then(|| format!("{owner}/{name}"));
    }
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().filter(|part| is_part(part))?),
            _ => return None,
        }
    }
    match parts.as_slice() {
        // If the owner's folder exists here, the path is more likely mistyped.
        [owner, name]
            if !Path::new(owner).exists() || cached(&format!("{owner}/{name}")).is_some() =>
        {
            Some(format!("{owner}/{name}"))
        }
        [name] if cached(name).is_some() => Some(name.to_string()),
        _ => None,
    }
}

/// Whether the hub allows this name for an owner or a model.
fn is_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=96).contains(&part.len())
        && part.chars().all(allowed)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
        && !part.ends_with(".safetensors")
        && !part.ends_with(".json")
}

/// The path of a model in the cache, if it can be opened.
pub(super) fn cached(id: &str) -> Option<PathBuf> {
    let name = format!("{MODELS}{}", id.replace('/', "--"));
    caches().into_iter().find_map(|cache| {
        let repository = cache.join(&name);
        let snapshot = snapshot(&repository).ok().flatten()?;
        snapshot.join("config.json").exists().then_some(snapshot)
    })
}

/// The folders where the hub's client may keep its downloads.
fn caches() -> Vec<PathBuf> {
    let variable =
        |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || env::home_dir().map(|home| home.join(".cache"));
    let hf_home = variable("HF_HOME")
        .or_else(|| Some(variable("XDG_CACHE_HOME").or_else(home)?.join("huggingface")));
    let named = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"].map(variable);
    named.into_iter().flatten().chain(hf_home.map(|home| home.join("hub"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        let id = |text: &str| super::id(Path::new(text));
        assert_eq!(
            id("ibm-granite/granite-4.0-h-350m").as_deref(),
            Some("ibm-granite/granite-4.0-h-350m")
        );
        assert_eq!(
            id("https://huggingface.co/state-spaces/mamba2-130m/tree/main").as_deref(),
            Some("state-spaces/mamba2-130m")
        );
        for path in
            ["/a/b", "./a/b", "../a", "a/b/c", "a", "a b/c", "a/b.safetensors", "a/.b", "~/a", ""]
        {
            assert_eq!(id(path), None, "{path}");
        }
        // A folder in the directory where the tests run.
        assert_eq!(id("src/nothing"), None);
    }

    #[test]
    fn a_ref_names_a_folder_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("kinglet-ref-{}", std::process::id()));
        std::fs::write(&folder, "0123abc\n").unwrap();
        assert_eq!(commit(&folder).as_deref(), Some("0123abc"));
        for text in ["", "../..", "a/b", "a\0"] {
            std::fs::write(&folder, text).unwrap();
            assert_eq!(commit(&folder), None, "{text}");
        }
        std::fs::remove_file(&folder).unwrap();
    }
}
