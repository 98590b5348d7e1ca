//! Finds the files that hold the weights of a folder.
//!
//! `model.safetensors` comes first, as in `transformers`; then the shards that
//! `model.safetensors.index.json` names; and if those are not all there, the shards that are. An
//! index may belong to another build, or may not have been downloaded. Only a file's header tells
//! which tensors it has. Symbolic links are followed, because download caches store files that way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::WeightsError;
use super::folder;
use super::index::{self, IndexError, MAX_SHARDS, WeightMap};
use super::map::Source;
use crate::files::mounted;

/// The file of a checkpoint that is not sharded.
const SINGLE: &str = "model.safetensors";
/// The index of a checkpoint that is.
const INDEX: &str = "model.safetensors.index.json";
/// Longest index accepted, in bytes. Checkpoints of a hundred thousand tensors have one of 10 MB.
const MAX_INDEX: u64 = 100_000_000;

/// The files of a checkpoint.
#[derive(Debug)]
pub(super) struct Located {
    /// The files that exist.
    pub(super) sources: Vec<Source>,
    /// The shard of each tensor, according to the index.
    pub(super) index: Option<WeightMap>,
    /// The files that are missing.
    pub(super) absent: Absent,
}

/// Missing files: those that an index names, or that the numbers in other shards' names imply.
#[derive(Clone, Debug, Default)]
pub(super) struct Absent {
    /// The folder searched.
    pub(super) folder: PathBuf,
    /// Their names.
    pub(super) files: Vec<String>,
}

/// Opens the files of the checkpoint in `folder`, and its index if there is one.
pub(super) fn locate(folder: &Path) -> Result<Located, WeightsError> {
    // A problem with an optional file, reported if nothing else is found.
    let mut problem = None;
    if let Some(single) = usable_or_absent(open_source(folder, SINGLE), &mut problem)? {
        // This file suffices, unless an index lists it as one of several. An index of other files
        // is stale.
        let index = read_index(folder).ok().flatten();
        let more = index.filter(|index| index.shards.len() > 1);
        return match more.filter(|index| index.shards.iter().any(|shard| shard == SINGLE)) {
            Some(index) => indexed(folder, index),
            None => Ok(Located { sources: vec![single], index: None, absent: Absent::default() }),
        };
    }
    if let Some(index) = usable_or_absent(read_index(folder), &mut problem)? {
        return indexed(folder, index);
    }
    let sets = numbered(folder);
    if sets.is_empty() {
        return Err(problem.unwrap_or_else(|| nothing_found(folder)));
    }
    let chosen = choose(folder, &sets)?;
    if let Some(problem) = problem {
        log::warn!("{problem}; reading {} files with weights without it", chosen.len());
    }
    let left = sets.values().map(BTreeMap::len).sum::<usize>() - chosen.len();
    if left > 0 {
        log::warn!("{}: ignoring {left} files with weights of another set", folder.display());
    }
    let absent = missing_shards(&sets, &chosen);
    open_all(folder, chosen, None, absent)
}

/// Returns what was found. If it is unusable and may count as absent, stores the reason in
/// `problem`.
fn usable_or_absent<T>(
    found: Result<Option<T>, WeightsError>,
    problem: &mut Option<WeightsError>,
) -> Result<Option<T>, WeightsError> {
    let void = match &found {
        Err(WeightsError::DanglingLink { .. } | WeightsError::NotAFile { .. }) => true,
        // Weights can be read without an index, but not without permission to read them.
        Err(WeightsError::Io { path, source, .. }) => {
            path.ends_with(INDEX) && source.kind() == ErrorKind::PermissionDenied
        }
        _ => false,
    };
    match found {
        Err(error) if void => {
            problem.get_or_insert(error);
            Ok(None)
        }
        found => found,
    }
}

/// Opens the shards of an index, or those that exist instead.
fn indexed(folder: &Path, index: WeightMap) -> Result<Located, WeightsError> {
    let (mut sources, mut there, mut lacking) = (Vec::new(), BTreeSet::new(), Vec::new());
    for shard in &index.shards {
        match open_source(folder, shard) {
            Ok(Some(source)) => {
                sources.push(source);
                there.insert(shard.clone());
            }
            Ok(None) | Err(WeightsError::DanglingLink { .. }) => lacking.push(shard.clone()),
            Err(error) => return Err(error),
        }
    }
    if lacking.is_empty() {
        return Ok(Located { sources, index: Some(index), absent: Absent::default() });
    }
    let sets = numbered(folder);
    let mut chosen = choose(folder, &sets)?;
    if there.is_empty() {
        if chosen.is_empty() {
            return Err(WeightsError::Incomplete {
                folder: folder.into(),
                files: lacking,
                tensors: index.tensors.len(),
                first: index.tensors.first().map(|(name, _)| name.to_string()).unwrap_or_default(),
            });
        }
        if !sets.iter().any(is_whole) {
            lacking = missing_shards(&sets, &chosen);
        }
    }
    // If one set is complete, shards of another one would only cause conflicts.
    let whole = sets.iter().any(is_whole);
    let in_sets: BTreeSet<&String> = sets.values().flat_map(BTreeMap::values).collect();
    chosen.extend(there.into_iter().filter(|name| !whole || !in_sets.contains(name)));
    log::info!(
        "{}: {} files with weights are missing, {} exist",
        folder.display(),
        lacking.len(),
        chosen.len()
    );
    open_all(folder, chosen, Some(index), lacking)
}

fn open_all(
    folder: &Path,
    names: BTreeSet<String>,
    index: Option<WeightMap>,
    files: Vec<String>,
) -> Result<Located, WeightsError> {
    let mut absent = Absent { folder: folder.into(), files };
    let mut sources = Vec::new();
    for name in names {
        match open_source(folder, &name)? {
            Some(source) => sources.push(source),
            None => absent.files.push(name),
        }
    }
    Ok(Located { sources, index, absent })
}

/// Shards by number, of a set whose names state its size.
type Set = BTreeMap<usize, String>;

/// The shards in `folder`, by the size of the set that their names state.
fn numbered(folder: &Path) -> BTreeMap<usize, Set> {
    let mut sets: BTreeMap<usize, Set> = BTreeMap::new();
    let mounted = mounted::is_mounted(folder);
    for name in folder::names(folder) {
        let Some((number, of)) = number(&name) else { continue };
        if mounted || fs::metadata(folder.join(&name)).is_ok() {
            sets.entry(of).or_default().insert(number, name);
        }
    }
    sets
}

/// Parses the two numbers of `model-00001-of-00003.safetensors`.
fn number(name: &str) -> Option<(usize, usize)> {
    let rest = name.strip_prefix("model")?.strip_suffix(".safetensors")?;
    let (number, of) = rest.strip_prefix(['-', '.', '_'])?.split_once("-of-")?;
    let parse = |digits: &str| {
        let plain = digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let (number, of): (usize, usize) = (parse(number)?, parse(of)?);
    (number <= of && (1..=MAX_SHARDS).contains(&of)).then_some((number, of))
}

/// Whether all shards of a set exist, counted from 1 or from 0.
fn is_whole((of, set): (&usize, &Set)) -> bool {
    set.len() >= *of
}

/// The shards to read: those of the one complete set, or all that exist.
fn choose(folder: &Path, sets: &BTreeMap<usize, Set>) -> Result<BTreeSet<String>, WeightsError> {
    let mut whole = sets.iter().filter(|&set| is_whole(set));
    let mixed = || {
        let first = |(_, set): (&usize, &Set)| set.values().next().cloned();
        WeightsError::MixedShards {
            folder: folder.into(),
            firsts: sets.iter().filter_map(first).collect(),
        }
    };
    match (whole.next(), whole.next()) {
        (Some(_), Some(_)) => Err(mixed()),
        (Some((_, set)), None) => Ok(set.values().cloned().collect()),
        (None, _) => {
            let all: BTreeSet<String> = sets.values().flat_map(BTreeMap::values).cloned().collect();
            if all.len() > MAX_SHARDS { Err(mixed()) } else { Ok(all) }
        }
    }
}

/// The names of the files missing from the sets of `chosen`.
fn missing_shards(sets: &BTreeMap<usize, Set>, chosen: &BTreeSet<String>) -> Vec<String> {
    let mut files = Vec::new();
    for (&of, set) in sets {
        let Some(name) = set.values().find(|name| chosen.contains(*name)) else { continue };
        let from = usize::from(!set.contains_key(&0));
        for number in (from..from + of).filter(|number| !set.contains_key(number)) {
            files.push(shard_name(name, number));
            if files.len() >= MAX_SHARDS {
                return files;
            }
        }
    }
    files
}

/// The name of shard `number` in the same set as `name`.
fn shard_name(name: &str, number: usize) -> String {
    let end = name.rfind("-of-").unwrap_or(name.len());
    let (before, after) = name.split_at(end);
    let stem = before.trim_end_matches(|c: char| c.is_ascii_digit());
    let width = before.len() - stem.len();
    format!("{stem}{number:0width$}{after}")
}

/// Reads the index of `folder`; `None` if there is none.
fn read_index(folder: &Path) -> Result<Option<WeightMap>, WeightsError> {
    let path = folder.join(INDEX);
    let Some(json) = read_index_file(&path)? else { return Ok(None) };
    let index = match json {
        Some(json) => index::parse(&json),
        None => Err(IndexError::TooLong { limit: MAX_INDEX }),
    };
    index.map(Some).map_err(|error| WeightsError::Index { path, error })
}

/// Reads the bytes of the index at `path`, mounted or not. The inner `None` means that it is too
/// long.
fn read_index_file(path: &Path) -> Result<Option<Option<Vec<u8>>>, WeightsError> {
    let io = |source| WeightsError::Io { doing: "read", path: path.to_path_buf(), source };
    match mounted::read(path, MAX_INDEX) {
        Some(Ok(read)) => return Ok(Some(read.ok())),
        Some(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Some(Err(error)) => return Err(io(error)),
        None => {}
    }
    let Some(file) = open(path)? else { return Ok(None) };
    let mut json = Vec::new();
    file.take(MAX_INDEX + 1).read_to_end(&mut json).map_err(io)?;
    Ok(Some(Some(json).filter(|json| json.len() as u64 <= MAX_INDEX)))
}

/// Opens a file of the folder, mounted or not; `None` if there is none.
fn open_source(folder: &Path, name: &str) -> Result<Option<Source>, WeightsError> {
    if let Some(mounted) = mounted::source(folder, name) {
        let io = |source| WeightsError::Io { doing: "open", path: folder.join(name), source };
        return mounted.map_err(io);
    }
    Ok(open(&folder.join(name))?.map(|file| Source::file(name, file)))
}

/// Opens a regular file, following links; `None` if there is none.
fn open(path: &Path) -> Result<Option<File>, WeightsError> {
    let io = |doing, source| WeightsError::Io { doing, path: path.to_path_buf(), source };
    // Check before opening: opening a named pipe would wait for a writer.
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => File::open(path).map(Some).map_err(|e| io("open", e)),
        Ok(metadata) => {
            let what = if metadata.is_dir() { "a folder" } else { "not a regular file" };
            Err(WeightsError::NotAFile { path: path.to_path_buf(), what })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(WeightsError::DanglingLink { path: path.to_path_buf() });
            }
            Ok(None)
        }
        Err(error) => Err(io("open", error)),
    }
}

/// Explains what the folder holds instead of weights.
fn nothing_found(folder: &Path) -> WeightsError {
    if !mounted::is_mounted(folder) {
        match fs::metadata(folder) {
            Ok(metadata) if !metadata.is_dir() => {
                return WeightsError::NotAFolder { path: folder.to_path_buf() };
            }
            Err(source) => {
                return WeightsError::Io { doing: "open", path: folder.to_path_buf(), source };
            }
            Ok(_) => {}
        }
    }
    let others = folder::other_weights(&folder::names(folder));
    WeightsError::NoWeights { folder: folder.to_path_buf(), others }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(names: &[&str]) -> BTreeMap<usize, Set> {
        let mut sets: BTreeMap<usize, Set> = BTreeMap::new();
        for name in names {
            let (number, of) = number(name).unwrap();
            sets.entry(of).or_default().insert(number, name.to_string());
        }
        sets
    }

    #[test]
    fn shards_are_known_by_their_numbers() {
        assert_eq!(number("model-00002-of-00013.safetensors"), Some((2, 13)));
        assert_eq!(number("model.1-of-2.safetensors"), Some((1, 2)));
        for name in [
            "model.safetensors",
            "model-00003-of-00002.safetensors",
            "model-00000-of-00000.safetensors",
            "model-00001-of-99999.safetensors",
            "model-1-of-99999999999999999999.safetensors",
            "model--1-of-2.safetensors",
            "model-00001-of-00002.bin",
            "adapter_model-00001-of-00002.safetensors",
        ] {
            assert_eq!(number(name), None, "{name}");
        }
    }

    #[test]
    fn the_rest_of_a_set_has_its_names() {
        let sets = sets(&["model-00002-of-00004.safetensors", "model-00004-of-00004.safetensors"]);
        let chosen = choose(Path::new("."), &sets).unwrap();
        assert_eq!(
            missing_shards(&sets, &chosen),
            ["model-00001-of-00004.safetensors", "model-00003-of-00004.safetensors"]
        );
    }

    #[test]
    fn the_set_that_is_whole_counts_and_two_are_in_doubt() {
        let mut names =
            vec!["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        names.push("model-00001-of-00003.safetensors");
        let chosen = choose(Path::new("."), &sets(&names)).unwrap();
        assert!(chosen.iter().all(|name| name.contains("of-00002")) && chosen.len() == 2);
        names.extend(["model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"]);
        let error = choose(Path::new("."), &sets(&names)).unwrap_err();
        assert!(matches!(error, WeightsError::MixedShards { .. }), "{error}");
    }
}
