//! Safetensors files and folders for tests, made with std alone so that they can be as invalid as
//! needed.

#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use kinglet::weights::{Source, Weights, WeightsError};

/// A temporary folder for a test, removed with its contents when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kinglet-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn open(&self) -> Result<Weights, WeightsError> {
        Weights::open(&self.0)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file with this header and this data, valid or not.
pub(crate) fn raw(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    file
}

/// A tensor's entry in a header.
pub(crate) fn entry(name: &str, dtype: &str, shape: &[u64], begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
}

/// A valid file of these tensors, `(name, dtype, shape, bytes)`. `padding` spaces end the header,
/// so that the data can start at any address.
pub(crate) fn file(tensors: &[(&str, &str, &[u64], Vec<u8>)], padding: usize) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len() as u64;
        data.extend(bytes);
        entries.push(entry(name, dtype, shape, begin, data.len() as u64));
    }
    raw(format!("{{{}}}{}", entries.join(","), " ".repeat(padding)), &data)
}

/// Little-endian bytes of `f32` values.
pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Weights of one file in memory.
pub(crate) fn in_memory(file: Vec<u8>) -> Result<Weights, WeightsError> {
    Weights::from_sources(vec![Source::bytes("model.safetensors", file)])
}

/// An index that maps each tensor to a shard.
pub(crate) fn index(map: &[(&str, &str)]) -> String {
    let map: Vec<_> = map.iter().map(|(t, s)| format!(r#""{t}":"{s}""#)).collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, map.join(","))
}

/// A valid file with each kind of tensor.
pub(crate) fn small() -> Vec<u8> {
    let a = ("a.weight", "F32", &[2u64, 3][..], f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let b = ("b", "BF16", &[4u64][..], vec![0x80, 0x3f, 0, 0x40, 0x40, 0x40, 0x80, 0x40]);
    let c = ("c.d.e", "I64", &[1u64, 1][..], vec![7; 8]);
    let z = ("zero", "F16", &[0u64, 5][..], vec![]);
    file(&[a, b, c, z], 3)
}
