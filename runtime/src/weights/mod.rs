//! The weights of a checkpoint: `model.safetensors`, or the shards that an index names, mapped
//! read-only.
//!
//! [`Weights::open`] maps the files and parses their headers, and [`Weights::check`] checks them
//! against a [`ModelSpec`]. Then [`Weights::vector`] decodes small tensors, and [`Weights::matrix`]
//! refers to large ones in place. Nothing is copied or aligned: a tensor may begin at any address.
//!
//! Files are not trusted: every fact in one is checked. Opening any file gives weights or a
//! [`WeightsError`], and takes memory in proportion to its header alone.
//!
//! [`ModelSpec`]: kinglet_models::ModelSpec

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use kinglet_models::{Matrix, ModelSpec, TensorSpec};
use kinglet_quant::DType;
use safetensors::Dtype;

mod check;
pub(crate) mod checkpoint;
mod error;
mod fingerprint;
mod fit;
pub(crate) mod folder;
mod foreign;
mod header;
mod index;
mod locate;
#[allow(unsafe_code)]
mod map;
mod matrix;
mod quantized;
mod scan;
mod tensor;
pub(crate) mod unread;

pub(crate) use check::matches as glob;
pub use check::{CheckOptions, Checked, Mismatch, Problem};
pub use error::WeightsError;
pub(crate) use error::{Name, Names, weights_advice};
pub use foreign::{Conversion, ConversionError};
pub use header::HeaderError;
/// For safetensors files that are not weights.
pub(crate) use header::{Entry as Tensor, parse_json as parse_header};
pub use index::IndexError;
pub use map::{Access, ReadAt, Source};
pub use matrix::{Encoding, MatrixData, MatrixView};
pub use quantized::QuantizedError;
pub use scan::Progress;
pub use tensor::TensorData;

use header::Entry;
use index::WeightMap;
use locate::{Absent, Located};
use map::Part;

/// The tensors of a checkpoint.
pub struct Weights {
    parts: Vec<Arc<Part>>,
    /// Sorted by name, each name once.
    entries: Vec<Entry>,
    /// Factors of converted matrices' weights, by name, where they are not 1.
    factors: BTreeMap<String, f32>,
    /// Files that are missing.
    absent: Absent,
    /// Layers that were packed as integers and are converted: the common prefixes of their tensors'
    /// names.
    packed_layers: HashSet<String>,
}

/// A tensor as its header describes it, of any type.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its safetensors dtype: `BF16`, `U32`, ...
    pub dtype: String,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Its size in bytes.
    pub bytes: u64,
    /// Its file.
    pub file: &'a str,
}

/// How a tensor of a model is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// The type of its elements, or the format of its codes.
    pub encoding: Encoding,
    /// Its size in bytes, including scales, biases and factors.
    pub bytes: u64,
}

impl Weights {
    /// Maps the checkpoint in `folder`: `model.safetensors`, or else the shards of
    /// `model.safetensors.index.json`, or those that exist. The files' headers determine the
    /// tensors; the index only decides between two files with the same tensor.
    ///
    /// # Errors
    /// If there are no weights, a file can't be opened or is invalid, or nothing decides between
    /// two tensors of one name. A missing file is an error only of the check that finds its tensors
    /// missing.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        let Located { sources, index, absent } = locate::locate(folder)?;
        let mut weights = Self::join(sources, index.as_ref())?;
        // If every tensor in the index exists, files it names are not missed.
        let lacks =
            |index: &WeightMap| index.tensors.iter().any(|(name, _)| !weights.contains(name));
        if !absent.files.is_empty() && index.as_ref().is_none_or(lacks) {
            weights.absent = absent;
        }
        Ok(weights)
    }

    /// Maps open safetensors files, each with the name used in errors.
    ///
    /// # Errors
    /// Those of [`Weights::from_sources`].
    pub fn from_files(files: Vec<(String, File)>) -> Result<Self, WeightsError> {
        Self::from_sources(files.into_iter().map(|(name, file)| Source::file(name, file)).collect())
    }

    /// Joins the tensors of several safetensors files, regions of files, or buffers.
    ///
    /// # Errors
    /// If one can't be mapped or is invalid, or a tensor is in two of them.
    pub fn from_sources(sources: Vec<Source>) -> Result<Self, WeightsError> {
        Self::join(sources, None)
    }

    /// Joins the tensors of files. `index` decides between two of one name.
    fn join(sources: Vec<Source>, index: Option<&WeightMap>) -> Result<Self, WeightsError> {
        let mut parts = Vec::new();
        let mut entries: Vec<Entry> = Vec::new();
        for (id, source) in (0u32..).zip(sources) {
            let part = Part::new(source)?;
            let found = header::parse(part.bytes(), part.len())
                .map_err(|error| WeightsError::Header { file: part.name().to_string(), error })?;
            entries.extend(found.into_iter().map(|entry| Entry { part: id, ..entry }));
            parts.push(Arc::new(part));
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name).then(a.part.cmp(&b.part)));
        let absent = Absent::default();
        let (factors, packed_layers) = Default::default();
        let mut weights = Self { parts, entries, factors, packed_layers, absent };
        weights.settle_duplicates(index)?;
        Ok(weights)
    }

    /// Keeps one of the tensors of each name: from the file that the index names for it, or else
    /// from one that the index names at all.
    fn settle_duplicates(&mut self, index: Option<&WeightMap>) -> Result<(), WeightsError> {
        let twice = |pair: &[Entry]| matches!(pair, [a, b] if a.name == b.name);
        if !self.entries.windows(2).any(twice) {
            return Ok(());
        }
        // The part for each shard of the index.
        let shards = index.map_or(&[][..], |index| &index.shards);
        let part_of = |shard: &String| {
            let part = self.parts.iter().position(|part| part.name() == shard.as_str());
            part.and_then(|part| u32::try_from(part).ok())
        };
        let part_of: Vec<Option<u32>> = shards.iter().map(part_of).collect();
        let rank = |entry: &Entry| {
            let shard = index.and_then(|index| index.shard_of(&entry.name));
            let named = shard.and_then(|shard| *part_of.get(shard as usize)?);
            let known = part_of.contains(&Some(entry.part));
            if named == Some(entry.part) {
                0
            } else if known {
                1
            } else {
                2
            }
        };
        let mut kept: Vec<Entry> = Vec::new();
        let mut doubt: Option<(Entry, Entry)> = None;
        for entry in std::mem::take(&mut self.entries) {
            match kept.last_mut().filter(|last| last.name == entry.name) {
                None => {
                    if doubt.is_some() {
                        break;
                    }
                    kept.push(entry);
                }
                Some(last) => match rank(&entry).cmp(&rank(last)) {
                    std::cmp::Ordering::Less => {
                        doubt = None;
                        *last = entry;
                    }
                    std::cmp::Ordering::Equal => doubt = Some((last.clone(), entry)),
                    std::cmp::Ordering::Greater => {}
                },
            }
        }
        self.entries = kept;
        match doubt {
            Some((first, second)) => Err(WeightsError::DuplicateTensor {
                tensor: first.name.to_string(),
                first: self.file(&first).to_string(),
                second: self.file(&second).to_string(),
            }),
            None => Ok(()),
        }
    }

    /// Turns an error about missing tensors into one about an incomplete download, if files are
    /// missing too.
    pub(crate) fn incomplete(&self, error: WeightsError) -> WeightsError {
        let missing = match &error {
            WeightsError::Mismatch(mismatch) => mismatch.missing().map(str::to_string).collect(),
            WeightsError::Foreign { layer, .. } => vec![layer.clone()],
            WeightsError::MissingTensor { tensor } => vec![tensor.clone()],
            _ => Vec::new(),
        };
        match missing.first() {
            Some(first) if !self.absent.files.is_empty() => WeightsError::Incomplete {
                folder: self.absent.folder.clone(),
                files: self.absent.files.clone(),
                tensors: missing.len(),
                first: first.clone(),
            },
            _ => error,
        }
    }

    /// Fails if tensors of `spec` and files are missing. Ignores shapes and types.
    ///
    /// # Errors
    /// [`WeightsError::Incomplete`].
    pub(crate) fn check_whole(&self, spec: &ModelSpec) -> Result<(), WeightsError> {
        let needed = spec.tensors();
        let mut names = needed.iter().map(|tensor| &tensor.name);
        match names.find(|name| !self.absent.files.is_empty() && !self.contains(name)) {
            Some(name) => {
                Err(self.incomplete(WeightsError::MissingTensor { tensor: name.clone() }))
            }
            None => Ok(()),
        }
    }

    /// Loads files that are read in parts into memory, for a backend that computes with weights in
    /// place.
    ///
    /// # Errors
    /// If a file can't be read, or there is not enough memory.
    pub fn make_resident(&mut self) -> Result<(), WeightsError> {
        for part in &mut self.parts {
            if !part.is_resident() {
                *part = Arc::new(part.resident()?);
            }
        }
        Ok(())
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.entries.get(at)
    }

    fn file(&self, entry: &Entry) -> &str {
        self.parts.get(entry.part as usize).map_or("", |part| part.name())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.name)
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.entries.iter().map(|entry| TensorInfo {
            name: &entry.name,
            dtype: entry.dtype.to_string(),
            shape: &entry.shape,
            bytes: entry.range.len() as u64,
            file: self.file(entry),
        })
    }

    /// Total size of all tensors, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.range.len() as u64).sum()
    }

    /// Total size in bytes by dtype, as safetensors names it.
    pub fn bytes_by_dtype(&self) -> BTreeMap<String, u64> {
        let mut bytes: BTreeMap<Dtype, u64> = BTreeMap::new();
        for entry in &self.entries {
            *bytes.entry(entry.dtype).or_default() += entry.range.len() as u64;
        }
        bytes.into_iter().map(|(dtype, bytes)| (dtype.to_string(), bytes)).collect()
    }

    /// Whether there is a tensor `name` of any type.
    pub fn contains(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// If it is missing, or is not F32, F16 or BF16.
    pub fn get(&self, name: &str) -> Result<TensorData, WeightsError> {
        let missing = || WeightsError::MissingTensor { tensor: name.to_string() };
        let entry = self.entry(name).ok_or_else(missing)?;
        let part = self.parts.get(entry.part as usize).ok_or_else(missing)?.clone();
        let Some(dtype) = dense_dtype(entry.dtype) else {
            let (tensor, dtype) = (name.to_string(), entry.dtype.to_string());
            return Err(WeightsError::UnsupportedDtype { tensor, dtype });
        };
        let Entry { range, name, shape, .. } = entry.clone();
        Ok(TensorData::new(part, range, name, shape, dtype))
    }

    /// The tensor for `spec`.
    fn get_shaped(&self, spec: &TensorSpec) -> Result<TensorData, WeightsError> {
        let tensor = self.get(&spec.name)?;
        if *tensor.shape() != *spec.shape {
            return Err(WeightsError::WrongShape {
                tensor: spec.name.clone(),
                expected: spec.shape.clone(),
                found: tensor.shape().to_vec(),
            });
        }
        Ok(tensor)
    }

    /// How the tensor for `spec` is stored as a matrix, and its size with its companions.
    ///
    /// # Errors
    /// If it is missing, or has the wrong shape or an unsupported type.
    pub fn stored(&self, spec: &TensorSpec) -> Result<StoredTensor, WeightsError> {
        let size = |name: &str| self.entry(name).map_or(0, |entry| entry.range.len() as u64);
        match self.packed(spec)? {
            Some(packed) => {
                let beside = quantized::companions(&spec.name).into_iter().flatten();
                let bytes = size(&spec.name) + beside.map(|name| size(&name)).sum::<u64>();
                Ok(StoredTensor { encoding: packed.encoding(), bytes })
            }
            None => {
                let encoding = Encoding::Dense(self.get_vector(spec)?.dtype());
                Ok(StoredTensor { encoding, bytes: size(&spec.name) })
            }
        }
    }

    /// The dense tensor for `spec`. Its dimension of 1 may be elsewhere, as in MLX's layout of
    /// convolutions.
    fn get_vector(&self, spec: &TensorSpec) -> Result<TensorData, WeightsError> {
        let tensor = self.get(&spec.name)?;
        if same_elements(&spec.shape, tensor.shape()) {
            return Ok(tensor);
        }
        self.get_shaped(spec)
    }

    /// Decodes all elements of a small tensor to `f32`.
    ///
    /// # Errors
    /// If the tensor is missing, has the wrong shape or an unsupported type, or has an element that
    /// is NaN or infinite.
    pub fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, WeightsError> {
        self.get_vector(spec)?.to_f32()
    }

    /// A matrix in place: `NAME.weight`, dense, or packed words with `NAME.scales` (and
    /// `NAME.biases`). Its values are not checked.
    ///
    /// # Errors
    /// If its tensor is missing, has the wrong shape or an unsupported type, or lacks the rows.
    pub fn matrix(&self, matrix: &Matrix) -> Result<MatrixData, WeightsError> {
        let Matrix { tensor, row_offset, rows, cols } = matrix;
        if let Some(packed) = self.packed(tensor)? {
            return packed.matrix(*row_offset, *rows);
        }
        self.get_shaped(tensor)?.matrix(*row_offset, *rows, *cols)
    }

    /// Fails if a file was truncated after it was opened, since reading it would fault. Costs one
    /// system call per file, which long passes over the weights can afford.
    ///
    /// # Errors
    /// [`WeightsError::Shrunk`], or [`WeightsError::Io`] if the length can't be read.
    pub fn check_unchanged(&self) -> Result<(), WeightsError> {
        self.parts.iter().try_for_each(|part| part.check_unchanged())
    }

    /// Tells the system in which order the weights will be read.
    ///
    /// # Errors
    /// If the system refuses. Since this is only advice, callers can go on.
    pub fn advise(&self, access: Access) -> Result<(), WeightsError> {
        self.parts.iter().try_for_each(|part| part.advise(access))
    }
}

/// Whether two shapes hold the same elements in the same order: equal shapes, or the two layouts of
/// a depthwise convolution, `[channels, 1, kernel]` and `[channels, kernel, 1]`.
fn same_elements(expected: &[usize], found: &[usize]) -> bool {
    match (expected, found) {
        ([channels, a, b], [other, c, d]) if channels == other && (*a == 1 || *b == 1) => {
            (a, b) == (c, d) || (a, b) == (d, c)
        }
        _ => expected == found,
    }
}

/// The dense type for a stored type, if it is supported.
fn dense_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tensors, files) = (self.entries.len(), self.parts.len());
        write!(f, "Weights({tensors} tensors in {files} files, {} bytes)", self.total_bytes())
    }
}
