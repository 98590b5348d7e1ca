//! The header of a safetensors file: a length, then JSON with the position of each tensor.
//!
//! ```text
//! u64 little-endian: n | n bytes of JSON | data
//! {"NAME": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {..}}
//! ```
//!
//! The element types come from the `safetensors` crate, but the JSON is parsed here. Version 0.8 of
//! the crate first builds a tree of generic values from the whole header (a hostile header of 100
//! MB takes gigabytes), silently keeps the last of two tensors of one name, overflows an addition
//! for offsets near 2^64 (a panic with overflow checks), and its errors name neither tensor nor
//! numbers. Otherwise this accepts and rejects the same files, and tests compare the two.
//!
//! Memory: nothing is allocated before the length was checked against the file, and a tensor's
//! entry takes less than four times its text.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::error::{Name, Shape, json_message};

/// Longest header accepted, in bytes; the same as the reference implementation's.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// Most dimensions of a tensor. Checkpoints have up to 5.
pub(super) const MAX_RANK: usize = 8;
/// Bytes before the JSON.
pub(super) const PREFIX: usize = 8;

/// A tensor in a header, checked against its file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Outermost dimension first.
    pub(crate) shape: Arc<[usize]>,
    /// The range of its bytes, from the start of the file.
    pub(crate) range: Range<usize>,
    /// The index of its file; 0 until several files are joined.
    pub(super) part: u32,
    /// Type of its elements.
    pub(crate) dtype: Dtype,
}

/// What is wrong with the header of a safetensors file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file is too short for the header's length.
    TooShort {
        /// Length of the file.
        len: u64,
    },
    /// The file is a Git LFS pointer.
    GitLfsPointer,
    /// The stated length of the header exceeds the limit.
    TooLong {
        /// Length of the header.
        header: u64,
        /// The limit.
        limit: u64,
    },
    /// The stated length of the header exceeds the file.
    PastEnd {
        /// Length of the header.
        header: u64,
        /// Length of the file.
        len: u64,
    },
    /// The header is not UTF-8.
    NotUtf8 {
        /// Length of the valid prefix, in bytes.
        valid: usize,
    },
    /// The header's JSON has the wrong structure.
    Json(String),
    /// Two entries have the same name.
    DuplicateName(String),
    /// The element type is unknown.
    Dtype {
        /// The tensor.
        tensor: String,
        /// The type in the header.
        dtype: String,
    },
    /// A shape has too many dimensions.
    Rank {
        /// The tensor.
        tensor: String,
        /// The limit.
        limit: usize,
    },
    /// The size of a shape overflows, or is not a whole number of bytes.
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its type.
        dtype: String,
    },
    /// Offsets end before they begin.
    Descending {
        /// The tensor.
        tensor: String,
        /// First byte, from the end of the header.
        begin: u64,
        /// End of its bytes, exclusive.
        end: u64,
    },
    /// The offsets don't match the size of the shape.
    Size {
        /// The tensor.
        tensor: String,
        /// Bytes between the offsets.
        found: u64,
        /// Bytes that shape and type need.
        expected: u64,
    },
    /// A tensor overlaps the one before it, or leaves a gap.
    Offsets {
        /// The tensor.
        tensor: String,
        /// Its first byte, from the end of the header.
        begin: u64,
        /// The end of the tensor before it.
        expected: u64,
    },
    /// A tensor's bytes are not in the file, which was truncated.
    Truncated {
        /// The tensor.
        tensor: String,
        /// Its end, from the end of the header.
        end: u64,
        /// Bytes after the header.
        data: u64,
    },
    /// There are bytes after the last tensor.
    TrailingBytes {
        /// Bytes that belong to tensors.
        used: u64,
        /// Bytes after the header.
        data: u64,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { len } => write!(
                f,
                "the file has only {len} bytes, too few for a safetensors header: download it again"
            ),
            Self::GitLfsPointer => f.write_str(
                "the file is a Git LFS pointer: run `git lfs pull` to fetch the weights",
            ),
            Self::TooLong { header, limit } => write!(
                f,
                "the first 8 bytes state a header of {header} bytes, above the limit of {limit}: \
                 this is not a safetensors file, or it is damaged"
            ),
            Self::PastEnd { header, len } => write!(
                f,
                "the header should have {header} bytes, but the whole file has {len}: \
                 the file is truncated, download it again"
            ),
            Self::NotUtf8 { valid } => {
                write!(f, "the header is not UTF-8 at byte {valid}")
            }
            Self::Json(message) => write!(f, "the header is not valid for safetensors: {message}"),
            Self::DuplicateName(tensor) => {
                write!(f, "tensor {} is in the header twice", Name(tensor))
            }
            Self::Dtype { tensor, dtype } => {
                write!(f, "tensor {} has the unknown dtype {}", Name(tensor), Name(dtype))
            }
            Self::Rank { tensor, limit } => {
                write!(f, "tensor {} has more than {limit} dimensions", Name(tensor))
            }
            Self::Shape { tensor, shape, dtype } => write!(
                f,
                "tensor {} of {dtype} has the invalid shape {}",
                Name(tensor),
                Shape(shape)
            ),
            Self::Descending { tensor, begin, end } => {
                write!(f, "tensor {} ends at {end}, before its start at {begin}", Name(tensor))
            }
            Self::Size { tensor, found, expected } => write!(
                f,
                "tensor {} has {found} bytes, but its shape and dtype need {expected}",
                Name(tensor)
            ),
            Self::Offsets { tensor, begin, expected } => write!(
                f,
                "tensor {} starts at byte {begin} of the data, {} the end of the previous tensor ({expected})",
                Name(tensor),
                if begin < expected { "before" } else { "leaving a gap after" }
            ),
            Self::Truncated { tensor, end, data } => write!(
                f,
                "tensor {} ends at byte {end} of the data, but the file has only {data}: \
                 it is truncated, download it again",
                Name(tensor)
            ),
            Self::TrailingBytes { used, data } => write!(
                f,
                "the tensors take {used} bytes, but the file has {data} after its header: \
                 the rest is unknown data"
            ),
        }
    }
}

impl std::error::Error for HeaderError {}

/// Parses the tensors of a safetensors file of `total` bytes, in order of their offsets. `file` has
/// its first bytes, at least up to the first tensor.
pub(super) fn parse(file: &[u8], total: usize) -> Result<Vec<Entry>, HeaderError> {
    let len = total as u64;
    let Some((prefix, rest)) = file.split_first_chunk::<PREFIX>() else {
        return Err(HeaderError::TooShort { len });
    };
    let header = u64::from_le_bytes(*prefix);
    if header > MAX_HEADER {
        // A pointer file begins with "version https://git-lfs...", and its first 8 bytes are a huge
        // length.
        return Err(if file.starts_with(b"version https://git-lfs") {
            HeaderError::GitLfsPointer
        } else {
            HeaderError::TooLong { header, limit: MAX_HEADER }
        });
    }
    let json = usize::try_from(header).ok().and_then(|n| rest.get(..n));
    let Some(json) = json else { return Err(HeaderError::PastEnd { header, len }) };
    let data_start = PREFIX + json.len();
    let mut entries = parse_json(json, total.saturating_sub(data_start))?;
    for entry in &mut entries {
        // Both ends are within `data`, so neither addition can overflow.
        entry.range = entry.range.start + data_start..entry.range.end + data_start;
    }
    Ok(entries)
}

/// Parses the header `json` before `data` bytes of tensors. Ranges are counted from its end.
pub(crate) fn parse_json(json: &[u8], data: usize) -> Result<Vec<Entry>, HeaderError> {
    let json = std::str::from_utf8(json)
        .map_err(|error| HeaderError::NotUtf8 { valid: error.valid_up_to() })?;
    let mut entries = read_json(json)?;
    check_names(&mut entries)?;
    check_offsets(&mut entries, data)?;
    Ok(entries)
}

/// Sorts by name and rejects duplicates.
fn check_names(entries: &mut [Entry]) -> Result<(), HeaderError> {
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for pair in entries.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            return Err(HeaderError::DuplicateName(a.name.to_string()));
        }
    }
    Ok(())
}

/// Sorts by offset and rejects tensors that don't fill the data without gap or overlap.
fn check_offsets(entries: &mut [Entry], data: usize) -> Result<(), HeaderError> {
    entries.sort_unstable_by_key(|entry| (entry.range.start, entry.range.end));
    let mut used = 0;
    for Entry { name, range, .. } in entries {
        let tensor = || name.to_string();
        if range.start != used {
            let (begin, expected) = (range.start as u64, used as u64);
            return Err(HeaderError::Offsets { tensor: tensor(), begin, expected });
        }
        if range.end > data {
            let (end, data) = (range.end as u64, data as u64);
            return Err(HeaderError::Truncated { tensor: tensor(), end, data });
        }
        used = range.end;
    }
    if used != data {
        return Err(HeaderError::TrailingBytes { used: used as u64, data: data as u64 });
    }
    Ok(())
}

fn read_json(json: &str) -> Result<Vec<Entry>, HeaderError> {
    let mut problem = None;
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let read = deserializer
        .deserialize_map(HeaderVisitor { problem: &mut problem })
        .and_then(|entries| deserializer.end().map(|()| entries));
    read.map_err(|error| problem.unwrap_or_else(|| HeaderError::Json(json_message(&error))))
}

/// One tensor's entry.
#[derive(Deserialize)]
struct RawEntry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: RawShape,
    data_offsets: (u64, u64),
}

struct HeaderVisitor<'p> {
    /// The reason for stopping, if it was not the JSON itself.
    problem: &'p mut Option<HeaderError>,
}

impl<'de> Visitor<'de> for HeaderVisitor<'_> {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an entry for each tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        let mut has_metadata = false;
        while let Some(key) = map.next_key_seed(Text)? {
            if key == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::duplicate_field("__metadata__"));
                }
                map.next_value_seed(StringMap)?;
                continue;
            }
            let raw: RawEntry<'de> = map.next_value()?;
            match raw.check(&key) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    *self.problem = Some(error);
                    return Err(A::Error::custom("see `problem`"));
                }
            }
        }
        Ok(entries)
    }
}

impl RawEntry<'_> {
    /// Checks what can be checked of a tensor by itself.
    fn check(self, name: &str) -> Result<Entry, HeaderError> {
        let tensor = || name.to_string();
        let Ok(dtype) =
            Dtype::deserialize(StrDeserializer::<serde::de::value::Error>::new(&self.dtype))
        else {
            return Err(HeaderError::Dtype { tensor: tensor(), dtype: self.dtype.into_owned() });
        };
        let Some(dims) = self.shape.dims.get(..self.shape.rank) else {
            return Err(HeaderError::Rank { tensor: tensor(), limit: MAX_RANK });
        };
        let bad_shape = || HeaderError::Shape {
            tensor: tensor(),
            shape: dims.to_vec(),
            dtype: dtype.to_string(),
        };
        let bits = dims
            .iter()
            .try_fold(1u64, |n, &dim| n.checked_mul(dim))
            .and_then(|elements| elements.checked_mul(dtype.bitsize() as u64))
            .filter(|bits| bits % 8 == 0)
            .ok_or_else(bad_shape)?;
        let shape = dims
            .iter()
            .map(|&dim| usize::try_from(dim))
            .collect::<Result<Arc<[usize]>, _>>()
            .map_err(|_| bad_shape())?;
        let (begin, end) = self.data_offsets;
        let Some(found) = end.checked_sub(begin) else {
            return Err(HeaderError::Descending { tensor: tensor(), begin, end });
        };
        if found != bits / 8 {
            return Err(HeaderError::Size { tensor: tensor(), found, expected: bits / 8 });
        }
        // This fails only on 32-bit machines, which can't map such a file.
        let address = |at: u64| usize::try_from(at).map_err(|_| bad_shape());
        Ok(Entry {
            name: name.into(),
            shape,
            range: address(begin)?..address(end)?,
            part: 0,
            dtype,
        })
    }
}

/// A shape of any rank, of which the first [`MAX_RANK`] dimensions are kept.
struct RawShape {
    dims: [u64; MAX_RANK],
    rank: usize,
}

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = RawShape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a shape: an array of whole numbers, none below 0")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawShape, A::Error> {
                let mut shape = RawShape { dims: [0; MAX_RANK], rank: 0 };
                while let Some(dim) = seq.next_element::<u64>()? {
                    if let Some(slot) = shape.dims.get_mut(shape.rank) {
                        *slot = dim;
                    }
                    shape.rank += 1;
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

/// Reads a string, borrowing it from the input if it has no escapes.
pub(super) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_string()))
    }
}

/// Skips `__metadata__`, which is not used, but rejects values that are not strings.
struct StringMap;

impl<'de> DeserializeSeed<'de> for StringMap {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for StringMap {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Text)?.is_some() {
            map.next_value_seed(Text)?;
        }
        Ok(())
    }
}
