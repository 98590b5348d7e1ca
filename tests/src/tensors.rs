//! Tensors in memory as a safetensors file, for generated models and ops.

use half::{bf16, f16};
use kinglet::weights::{Source, Weights};

/// Storage type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// binary32.
    F32,
    /// binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Stored {
    /// Every type for matrices.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Its name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// The value stored for `x`.
    pub fn round(self, x: f64) -> f64 {
        match self {
            Self::F32 => f64::from(x as f32),
            Self::F16 => f16::from_f64(x).to_f64(),
            Self::Bf16 => bf16::from_f64(x).to_f64(),
        }
    }

    fn bytes(self, values: &[f64]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&x| f16::from_f64(x).to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect(),
        }
    }
}

/// Tensors of a file under construction.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    entries: Vec<String>,
    data: Vec<u8>,
}

impl Tensors {
    /// Adds a tensor.
    pub fn push(&mut self, name: &str, shape: &[usize], stored: Stored, values: &[f64]) {
        let begin = self.data.len();
        self.data.extend(stored.bytes(values));
        let (dtype, end) = (stored.name(), self.data.len());
        self.entries.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }

    /// Adds a tensor of any type, given as its bytes.
    pub fn push_bytes(&mut self, name: &str, shape: &[usize], dtype: &str, bytes: &[u8]) {
        let begin = self.data.len();
        self.data.extend(bytes);
        let end = self.data.len();
        self.entries.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }

    /// The file. Its data starts at an offset of 1 plus a multiple of 64, since nothing may rely on
    /// alignment.
    pub fn file(&self) -> Vec<u8> {
        let mut header = format!("{{{}}}", self.entries.join(","));
        while (8 + header.len()) % 64 != 1 {
            header.push(' ');
        }
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(&self.data);
        file
    }

    /// The file, opened.
    pub fn weights(&self) -> Weights {
        let source = Source::bytes("test.safetensors", self.file());
        Weights::from_sources(vec![source]).unwrap()
    }
}
