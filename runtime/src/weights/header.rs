//! The header of a safetensors file: a length, then JSON that says where each tensor lies.
//!
//! ```text
//! u64 little-endian: n | n bytes of JSON | data
//! {"NAME": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {..}}
//! ```
//!
//! The element types come from the `safetensors` crate. The walk over the JSON does not, for
//! reasons found in version 0.8 of that crate: it first collects the whole header as a tree of
//! generic values (a hostile header of 100 MB takes gigabytes), keeps the last of two tensors of one
//! name without a word, overflows an addition where offsets come close to 2^64 (a panic where overflow
//! checks are on), and its errors name neither tensor nor numbers. What it accepts and
//! rejects is otherwise kept, and tests hold the two against each other.
//!
//! Memory: nothing is allocated before the length has been held against the file, and a tensor's entry
//! takes less than four times its own text.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::error::{Name, Shape, json_message};

/// Longest header that is read, as in the reference implementation.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// Most dimensions of a tensor; checkpoints have up to 5.
pub(super) const MAX_RANK: usize = 8;
/// Bytes in front of the JSON.
pub(super) const PREFIX: usize = 8;

/// A tensor as a header describes it, checked against its file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Outermost dimension first.
    pub(crate) shape: Arc<[usize]>,
    /// Where its bytes lie, counted from the start of the file.
    pub(crate) range: Range<usize>,
    /// The file it lies in; 0 until several files are joined.
    pub(super) part: u32,
    /// Type of its elements.
    pub(crate) dtype: Dtype,
}

/// What is wrong with the header of a safetensors file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file has no room for the length of a header.
    TooShort {
        /// Length of the file.
        len: u64,
    },
    /// The file is a stand-in that Git LFS left in place of the content.
    GitLfsPointer,
    /// The header says to be longer than any is.
    TooLong {
        /// Length of the header.
        header: u64,
        /// The limit.
        limit: u64,
    },
    /// The header says to be longer than the file.
    PastEnd {
        /// Length of the header.
        header: u64,
        /// Length of the file.
        len: u64,
    },
    /// The header is not text.
    NotUtf8 {
        /// Bytes of it that are.
        valid: usize,
    },
    /// The header is not the JSON that it should be.
    Json(String),
    /// Two entries have one name.
    DuplicateName(String),
    /// A type of elements that the format does not have.
    Dtype {
        /// The tensor.
        tensor: String,
        /// What the header calls it.
        dtype: String,
    },
    /// A shape with too many dimensions.
    Rank {
        /// The tensor.
        tensor: String,
        /// The limit.
        limit: usize,
    },
    /// A shape whose size in bytes cannot be computed, or is no whole number of bytes.
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its type.
        dtype: String,
    },
    /// Offsets that end before they begin.
    Descending {
        /// The tensor.
        tensor: String,
        /// First byte, counted from the end of the header.
        begin: u64,
        /// Byte after the last.
        end: u64,
    },
    /// Offsets that hold another number of bytes than the shape needs.
    Size {
        /// The tensor.
        tensor: String,
        /// Bytes between the offsets.
        found: u64,
        /// Bytes that shape and type need.
        expected: u64,
    },
    /// A tensor that begins before the end of the one in front of it, or leaves bytes between.
    Offsets {
        /// The tensor.
        tensor: String,
        /// Where it begins, counted from the end of the header.
        begin: u64,
        /// Where the one in front of it ends.
        expected: u64,
    },
    /// A tensor whose bytes are not in the file: it was cut short.
    Truncated {
        /// The tensor.
        tensor: String,
        /// Where it ends, counted from the end of the header.
        end: u64,
        /// Bytes after the header.
        data: u64,
    },
    /// Bytes after the last tensor.
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
                "the file has {len} bytes, too few for a safetensors header: download it again"
            ),
            Self::GitLfsPointer => f.write_str(
                "the file is only a Git LFS pointer: run `git lfs pull` to fetch the weights",
            ),
            Self::TooLong { header, limit } => write!(
                f,
                "the first 8 bytes give a header of {header} bytes (at most {limit} are read): \
                 this is no safetensors file, or it is damaged"
            ),
            Self::PastEnd { header, len } => write!(
                f,
                "the header should have {header} bytes, the whole file has {len}: \
                 it was cut short, download it again"
            ),
            Self::NotUtf8 { valid } => {
                write!(f, "the header is not text: byte {valid} of it is not UTF-8")
            }
            Self::Json(message) => write!(f, "the header is not as safetensors has it: {message}"),
            Self::DuplicateName(tensor) => {
                write!(f, "tensor {} stands twice in the header", Name(tensor))
            }
            Self::Dtype { tensor, dtype } => write!(
                f,
                "tensor {} has the unknown dtype {}; safetensors has F32, F16, BF16 and others",
                Name(tensor),
                Name(dtype)
            ),
            Self::Rank { tensor, limit } => {
                write!(f, "tensor {} has more than {limit} dimensions", Name(tensor))
            }
            Self::Shape { tensor, shape, dtype } => write!(
                f,
                "tensor {} of {dtype} has the impossible shape {}",
                Name(tensor),
                Shape(shape)
            ),
            Self::Descending { tensor, begin, end } => {
                write!(f, "tensor {} ends at {end}, before its begin at {begin}", Name(tensor))
            }
            Self::Size { tensor, found, expected } => write!(
                f,
                "tensor {} has {found} bytes, its shape and dtype need {expected}",
                Name(tensor)
            ),
            Self::Offsets { tensor, begin, expected } => write!(
                f,
                "tensor {} begins at {begin} of the data, {} the end of the one before it ({expected})",
                Name(tensor),
                if begin < expected { "inside, before" } else { "leaving a gap after" }
            ),
            Self::Truncated { tensor, end, data } => write!(
                f,
                "tensor {} ends at {end} of the data, but the file holds {data} bytes of it: \
                 it was cut short, download it again",
                Name(tensor)
            ),
            Self::TrailingBytes { used, data } => write!(
                f,
                "the tensors take {used} bytes, the file holds {data} after its header: \
                 what else is in there is unknown"
            ),
        }
    }
}

impl std::error::Error for HeaderError {}

/// The tensors of a safetensors file of `total` bytes, in order of their offsets. `file` has its first bytes: at least those in front of
/// the tensors.
pub(super) fn parse(file: &[u8], total: usize) -> Result<Vec<Entry>, HeaderError> {
    let len = total as u64;
    let Some((prefix, rest)) = file.split_first_chunk::<PREFIX>() else {
        return Err(HeaderError::TooShort { len });
    };
    let header = u64::from_le_bytes(*prefix);
    if header > MAX_HEADER {
        // A pointer file begins with "version https://git-lfs...", whose first 8 bytes are huge.
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

/// The tensors that the header `json` describes, in front of `data` bytes; ranges are counted from its end.
pub(crate) fn parse_json(json: &[u8], data: usize) -> Result<Vec<Entry>, HeaderError> {
    let json = std::str::from_utf8(json)
        .map_err(|error| HeaderError::NotUtf8 { valid: error.valid_up_to() })?;
    let mut entries = read_json(json)?;
    check_names(&mut entries)?;
    check_offsets(&mut entries, data)?;
    Ok(entries)
}

/// Sorts by name and refuses names that stand twice.
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

/// Sorts by offset and refuses all but tensors that fill the data without gap or overlap.
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

/// The value of one tensor's key.
#[derive(Deserialize)]
struct RawEntry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: RawShape,
    data_offsets: (u64, u64),
}

struct HeaderVisitor<'p> {
    /// Why reading stopped, where that was not the JSON itself.
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
    /// What can be checked of a tensor by itself.
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
        // Only where addresses have 32 bits can these not be represented; such a file is not mapped.
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

/// A shape of any length, of which at most [`MAX_RANK`] dimensions are kept.
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

/// Reads a string, borrowing it from the input where it holds no escapes.
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

/// Walks over `__metadata__`, which nothing here needs, and refuses all but strings in it.
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
