//! `kinglet quantize`: its output equals MLX's, keeps what it must, can be read again, and appears
//! atomically.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kinglet::weights::{Encoding, MatrixView};
use kinglet::{Activations, Checkpoint, Model, ModelOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Done, kinglet};

mod layout;
mod place;
mod recipes;

/// An output path that does not exist yet.
struct Out(TempDir);

impl Out {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("out")
    }

    /// Names in the same folder.
    fn siblings(&self) -> Vec<String> {
        names(self.0.path())
    }

    fn config(&self) -> Value {
        let text = fs::read_to_string(self.path().join("config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn quantize(model: &str, out: &Path, args: &[&str]) -> Done {
    let out = out.to_str().unwrap();
    kinglet(&[&["quantize", "--model", model, "--out", out], args].concat())
}

/// Quantizes and returns the report.
#[track_caller]
fn report(model: &str, out: &Out, args: &[&str]) -> Value {
    let text = quantize(model, &out.path(), &[&["--json"], args].concat()).ok();
    serde_json::from_str(&text).unwrap()
}

/// All tensors of a safetensors file: dtype, shape, bytes.
fn tensors(file: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(file).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: &str| {
        let view = file.tensor(name).unwrap();
        (view.dtype().to_string(), view.shape().to_vec(), view.data().to_vec())
    };
    file.names().into_iter().map(|name| (name.to_string(), read(name))).collect()
}

fn logits(folder: &Path, tokens: &[u32]) -> Vec<f32> {
    let model =
        Model::open(folder, &ModelOptions::new().threads(1).activations(Activations::F32)).unwrap();
    model.session().unwrap().feed_all(tokens).unwrap().to_vec()
}

/// A copy of the checkpoint with every matrix decoded to F32.
fn dequantized(folder: &Path) -> TempDir {
    let checkpoint = Checkpoint::open(folder, Default::default()).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for tensor in checkpoint.spec.tensors() {
        let begin = data.len();
        let cols = *tensor.shape.last().unwrap();
        match checkpoint.weights.stored(tensor).unwrap().encoding {
            Encoding::Dense(_) => {
                let values = checkpoint.weights.vector(tensor).unwrap();
                data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Encoding::Quantized(_) => {
                let rows = tensor.elements() / cols;
                let whole =
                    kinglet::models::Matrix { tensor: tensor.clone(), row_offset: 0, rows, cols };
                let matrix = checkpoint.weights.matrix(&whole).unwrap();
                assert!(matches!(matrix.view().unwrap(), MatrixView::Quantized(_)));
                let mut row = vec![0.0; cols];
                for index in 0..rows {
                    matrix.decode_row(index, &mut row).unwrap();
                    data.extend(row.iter().flat_map(|value| value.to_le_bytes()));
                }
            }
        }
        let entry =
            json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, data.len()] });
        header.insert(tensor.name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.append(&mut data);
    let dense = tempfile::tempdir().unwrap();
    fs::write(dense.path().join("model.safetensors"), file).unwrap();
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for key in ["quantization", "quantization_config"] {
        config.as_object_mut().unwrap().remove(key).unwrap();
    }
    fs::write(dense.path().join("config.json"), config.to_string()).unwrap();
    dense
}

const TOKENS: [u32; 12] = [5, 17, 3, 58, 42, 1, 0, 60, 7, 7, 63, 21];
