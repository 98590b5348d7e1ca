//! The index of a checkpoint in several files, `model.safetensors.index.json`.
//!
//! Its form is `{"metadata": {..}, "weight_map": {"TENSOR": "SHARD", ..}}`. Shards are files in the
//! same folder; names that could lead out of it are rejected.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::error::{Name, json_message};
use super::header::Text;

/// Most shards; each is a file kept open.
pub(super) const MAX_SHARDS: usize = 4096;
/// Longest file name on any common file system, in bytes.
const MAX_SHARD_NAME: usize = 255;

/// What is wrong with `model.safetensors.index.json`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum IndexError {
    /// It is too long.
    TooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// Its JSON has the wrong structure.
    Json(String),
    /// It lists a tensor twice.
    DuplicateName(String),
    /// A shard's name is not a plain file name.
    ShardName {
        /// A tensor in the shard.
        tensor: String,
        /// The name.
        shard: String,
    },
    /// It lists too many shards.
    TooManyShards {
        /// The limit.
        limit: usize,
    },
    /// It lists no tensor.
    Empty,
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { limit } => {
                write!(f, "longer than {limit} bytes, too long for an index")
            }
            Self::Json(message) => write!(f, "not a valid index: {message}"),
            Self::DuplicateName(tensor) => write!(f, "it lists tensor {} twice", Name(tensor)),
            Self::ShardName { tensor, shard } => write!(
                f,
                "it maps tensor {} to {}, which is not the name of a file in the same folder",
                Name(tensor),
                Name(shard)
            ),
            Self::TooManyShards { limit } => write!(f, "it lists more than {limit} files"),
            Self::Empty => f.write_str("its weight_map is empty"),
        }
    }
}

impl std::error::Error for IndexError {}

/// The shard of each tensor, according to an index.
#[derive(Debug)]
pub(super) struct WeightMap {
    /// Distinct file names of the shards.
    pub(super) shards: Vec<String>,
    /// Tensor names with indices into `shards`, sorted by name.
    pub(super) tensors: Vec<(Box<str>, u32)>,
}

impl WeightMap {
    /// The shard of a tensor, as an index into `shards`.
    pub(super) fn shard_of(&self, tensor: &str) -> Option<u32> {
        let at = self.tensors.binary_search_by(|(name, _)| (**name).cmp(tensor)).ok()?;
        self.tensors.get(at).map(|(_, shard)| *shard)
    }
}

pub(super) fn parse(json: &[u8]) -> Result<WeightMap, IndexError> {
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

/// Whether `name` can only refer to a file in the folder itself, on any system.
fn is_plain(name: &str) -> bool {
    let separates = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    (1..=MAX_SHARD_NAME).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(separates)
}

struct IndexVisitor<'p> {
    /// The reason for stopping, if it was not the JSON itself.
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
