//! Which files a checkpoint consists of: `model.safetensors`, or the shards that
//! `model.safetensors.index.json` names.
//!
//! An index is `{"metadata": {..}, "weight_map": {"TENSOR": "SHARD", ..}}`. Shards are files in
//! the same folder; a name that could lead out of it is refused. Symbolic links are followed, for
//! that is how download caches store their files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::error::{Name, WeightsError, json_message};
use super::header::Text;
use super::map::Source;
use crate::mounted;

/// The one file of a checkpoint that is not sharded.
pub(super) const SINGLE: &str = "model.safetensors";
/// The file that names the shards of one that is.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Longest index that is read. Checkpoints of a hundred thousand tensors have 10 MB.
const MAX_INDEX: u64 = 100_000_000;
/// Most shards; each is a file kept open.
const MAX_SHARDS: usize = 4096;
/// Longest name of a file, in bytes, on any common file system.
const MAX_SHARD_NAME: usize = 255;
/// Weights in other formats that an error names.
const MAX_OTHERS: usize = 8;

/// What is wrong with `model.safetensors.index.json`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum IndexError {
    /// It is longer than any is.
    TooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// It is not the JSON that it should be.
    Json(String),
    /// It names a tensor twice.
    DuplicateName(String),
    /// It names a shard that is not simply a file of the folder.
    ShardName {
        /// A tensor that should be in the shard.
        tensor: String,
        /// The name.
        shard: String,
    },
    /// It names too many shards.
    TooManyShards {
        /// The limit.
        limit: usize,
    },
    /// It names no tensor.
    Empty,
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { limit } => write!(f, "longer than {limit} bytes: this is no index"),
            Self::Json(message) => write!(f, "not as an index is: {message}"),
            Self::DuplicateName(tensor) => write!(f, "tensor {} stands in it twice", Name(tensor)),
            Self::ShardName { tensor, shard } => write!(
                f,
                "tensor {} should be in {}, which is not the name of a file in the same folder",
                Name(tensor),
                Name(shard)
            ),
            Self::TooManyShards { limit } => write!(f, "it names more than {limit} files"),
            Self::Empty => f.write_str("its weight_map names no tensor"),
        }
    }
}

impl std::error::Error for IndexError {}

/// Where an index has each tensor.
#[derive(Debug)]
pub(super) struct WeightMap {
    /// The shards' file names, each once.
    pub(super) shards: Vec<String>,
    /// Name of a tensor and its index in `shards`, sorted by name.
    pub(super) tensors: Vec<(Box<str>, u32)>,
}

/// Opens the files of the checkpoint in `folder`, and its index if there is one.
pub(super) fn locate(folder: &Path) -> Result<(Vec<Source>, Option<WeightMap>), WeightsError> {
    if let Some(single) = open_source(folder, SINGLE)? {
        return Ok((vec![single], None));
    }
    let path = folder.join(INDEX);
    let index = match read_index(folder, &path)? {
        Some(json) => parse(&json),
        None => Err(IndexError::TooLong { limit: MAX_INDEX }),
    };
    let index = index.map_err(|error| WeightsError::Index { path, error })?;
    let mut sources = Vec::new();
    for (id, shard) in index.shards.iter().enumerate() {
        let Some(source) = open_source(folder, shard)? else {
            let tensors = index.tensors.iter().filter(|(_, of)| *of as usize == id).count();
            let (folder, shard) = (folder.to_path_buf(), shard.clone());
            return Err(WeightsError::MissingShard { folder, shard, tensors });
        };
        sources.push(source);
    }
    Ok((sources, Some(index)))
}

/// The bytes of the index at `path`, wherever that is; `None` if they are too many.
fn read_index(folder: &Path, path: &Path) -> Result<Option<Vec<u8>>, WeightsError> {
    let io = |source| WeightsError::Io { doing: "read", path: path.to_path_buf(), source };
    match mounted::read(path, MAX_INDEX) {
        Some(Ok(read)) => return Ok(read.ok()),
        Some(Err(error)) if error.kind() == ErrorKind::NotFound => {
            return Err(WeightsError::NoWeights { folder: folder.into(), others: Vec::new() });
        }
        Some(Err(error)) => return Err(io(error)),
        None => {}
    }
    let Some(file) = open(path)? else { return Err(nothing_found(folder)) };
    let mut json = Vec::new();
    file.take(MAX_INDEX + 1).read_to_end(&mut json).map_err(io)?;
    Ok(Some(json).filter(|json| json.len() as u64 <= MAX_INDEX))
}

/// Opens a file of the folder, wherever that is; `None` if nothing has that name.
fn open_source(folder: &Path, name: &str) -> Result<Option<Source>, WeightsError> {
    if let Some(mounted) = mounted::source(folder, name) {
        let io = |source| WeightsError::Io { doing: "open", path: folder.join(name), source };
        return mounted.map_err(io);
    }
    Ok(open(&folder.join(name))?.map(|file| Source::file(name, file)))
}

/// Opens a regular file, through links; `None` if nothing has that name.
fn open(path: &Path) -> Result<Option<File>, WeightsError> {
    let io = |doing, source| WeightsError::Io { doing, path: path.to_path_buf(), source };
    // Asked before opening: to open a named pipe would wait for somebody to write to it.
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => File::open(path).map(Some).map_err(|e| io("open", e)),
        Ok(metadata) => {
            let what = if metadata.is_dir() { "a folder" } else { "no regular file" };
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

/// Says what is there instead of weights.
fn nothing_found(folder: &Path) -> WeightsError {
    match fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => {
            return WeightsError::NotAFolder { path: folder.to_path_buf() };
        }
        Err(source) => {
            return WeightsError::Io { doing: "open", path: folder.to_path_buf(), source };
        }
        Ok(_) => {}
    }
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let weights = [".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt", ".npz", ".h5"];
        if weights.iter().any(|end| name.ends_with(end)) && name != "training_args.bin" {
            others.push(name);
        }
    }
    // Safetensors first: they are nearest to what is needed.
    others.sort_by_key(|name| (!name.ends_with(".safetensors"), name.clone()));
    others.truncate(MAX_OTHERS);
    WeightsError::NoWeights { folder: folder.to_path_buf(), others }
}

fn parse(json: &[u8]) -> Result<WeightMap, IndexError> {
    let mut problem = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = deserializer
        .deserialize_map(IndexVisitor { problem: &mut problem })
        .and_then(|index| deserializer.end().map(|()| index));
    let mut index =
        read.map_err(|error| problem.unwrap_or_else(|| IndexError::Json(json_message(&error))))?;
    index.tensors.sort_unstable();
    for pair in index.tensors.windows(2) {
        if let [a, b] = pair
            && a.0 == b.0
        {
            return Err(IndexError::DuplicateName(a.0.to_string()));
        }
    }
    if index.tensors.is_empty() { Err(IndexError::Empty) } else { Ok(index) }
}

/// Whether `name` can only be a file of the folder that it is looked for in, on any system.
fn is_plain(name: &str) -> bool {
    let separates = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    (1..=MAX_SHARD_NAME).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(separates)
}

struct IndexVisitor<'p> {
    /// Why reading stopped, where that was not the JSON itself.
    problem: &'p mut Option<IndexError>,
}

impl<'de> Visitor<'de> for IndexVisitor<'_> {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key_seed(Text)? {
            if key != "weight_map" {
                map.next_value::<IgnoredAny>()?;
            } else if found.is_some() {
                return Err(A::Error::duplicate_field("weight_map"));
            } else {
                found = Some(map.next_value_seed(MapSeed { problem: self.problem })?);
            }
        }
        found.ok_or_else(|| A::Error::missing_field("weight_map"))
    }
}

struct MapSeed<'p> {
    problem: &'p mut Option<IndexError>,
}

impl<'de> serde::de::DeserializeSeed<'de> for MapSeed<'_> {
    type Value = WeightMap;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<WeightMap, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MapSeed<'_> {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object that maps tensors to files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let mut ids: BTreeMap<Cow<'de, str>, u32> = BTreeMap::new();
        let mut tensors = Vec::new();
        while let Some(tensor) = map.next_key_seed(Text)? {
            let shard = map.next_value_seed(Text)?;
            let id = match ids.get(&shard) {
                Some(&id) => id,
                None => {
                    if !is_plain(&shard) {
                        let (tensor, shard) = (tensor.into_owned(), shard.into_owned());
                        *self.problem = Some(IndexError::ShardName { tensor, shard });
                        return Err(A::Error::custom("see `problem`"));
                    }
                    if ids.len() >= MAX_SHARDS {
                        *self.problem = Some(IndexError::TooManyShards { limit: MAX_SHARDS });
                        return Err(A::Error::custom("see `problem`"));
                    }
                    let id = ids.len() as u32;
                    ids.insert(shard, id);
                    id
                }
            };
            tensors.push((tensor.into(), id));
        }
        let mut shards = vec![String::new(); ids.len()];
        for (shard, id) in ids {
            if let Some(slot) = shards.get_mut(id as usize) {
                *slot = shard.into_owned();
            }
        }
        Ok(WeightMap { shards, tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_maps_tensors_to_shards() {
        let index = parse(
            br#"{"metadata": {"total_size": 5, "x": [[{}]]},
                "weight_map": {"b": "two.safetensors", "a": "one.safetensors", "c": "two.safetensors"}}"#,
        )
        .unwrap();
        assert_eq!(index.shards, ["two.safetensors", "one.safetensors"]);
        let tensors: Vec<_> = index.tensors.iter().map(|(n, id)| (&**n, *id)).collect();
        assert_eq!(tensors, [("a", 1), ("b", 0), ("c", 0)]);
    }

    #[test]
    fn a_shard_that_could_lie_elsewhere_is_refused() {
        for shard in
            ["../a", "/a", "a/b", "..", ".", "", "C:a", "\\\\\\\\host\\\\a", "a\\\\b", "a\\u0000b"]
        {
            let json = format!(r#"{{"weight_map": {{"t": "{shard}"}}}}"#);
            let error = parse(json.as_bytes()).unwrap_err();
            assert!(
                matches!(&error, IndexError::ShardName { tensor, .. } if tensor == "t"),
                "{shard}: {error}"
            );
        }
    }

    #[test]
    fn other_faults_of_an_index() {
        let parse = |json: &str| parse(json.as_bytes()).unwrap_err();
        assert_eq!(parse(r#"{"weight_map": {}}"#), IndexError::Empty);
        let twice = parse(r#"{"weight_map": {"a": "x", "a": "x"}}"#);
        assert_eq!(twice, IndexError::DuplicateName("a".into()));
        for json in [
            "",
            "[]",
            "{}",
            r#"{"weight_map": []}"#,
            r#"{"weight_map": {"a": 1}}"#,
            r#"{"weight_map": {"a": "x"}} x"#,
            r#"{"weight_map": {"a": "x"}, "weight_map": {}}"#,
        ] {
            assert!(matches!(parse(json), IndexError::Json(_)), "{json}");
        }
        let many: Vec<_> = (0..=MAX_SHARDS).map(|i| format!(r#""t{i}": "s{i}""#)).collect();
        let many = parse(&format!(r#"{{"weight_map": {{{}}}}}"#, many.join(",")));
        assert_eq!(many, IndexError::TooManyShards { limit: MAX_SHARDS });
    }
}
