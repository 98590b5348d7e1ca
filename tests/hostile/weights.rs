//! Valid files with the wrong tensors: renamed, missing, surplus, of other types.

use half::{bf16, f16};
use kinglet::weights::{Problem, WeightsError};
use kinglet::{Error, ModelOptions};
use kinglet_tests::relative_l2;
use kinglet_tests::temp::TempDir;
use kinglet_tests::tensors::{Stored, Tensors};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::{case, open, open_with, refused};

/// A tensor to write: name, type, shape, bytes.
pub(crate) type Entry = (String, Dtype, Vec<usize>, Vec<u8>);

/// The tensors of a folder's `model.safetensors`, sorted by name, since the library's order
/// changes.
pub(crate) fn read(folder: &TempDir) -> Vec<Entry> {
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let entry = |(name, view): (String, TensorView<'_>)| {
        (name, view.dtype(), view.shape().to_vec(), view.data().to_vec())
    };
    let mut entries: Vec<Entry> = file.tensors().into_iter().map(entry).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

/// Writes them back.
pub(crate) fn write(folder: &TempDir, entries: &[Entry]) {
    let views = entries.iter().map(|(name, dtype, shape, bytes)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    folder.write("model.safetensors", safetensors::serialize(views, None).unwrap());
}

fn edited(name: &str, edit: impl FnOnce(&mut Vec<Entry>)) -> TempDir {
    let folder = TempDir::copy_of(&case(name).folder);
    let mut entries = read(&folder);
    edit(&mut entries);
    write(&folder, &entries);
    folder
}

fn problems(error: Error) -> Vec<Problem> {
    match error {
        Error::Weights(WeightsError::Mismatch(mismatch)) => mismatch.problems,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_tensor_left_out_is_missed_by_name() {
    for name in
        ["llama/plain", "granitemoehybrid/plain", "xlstm/plain", "falcon_mamba/plain", "olmoe/clip"]
    {
        let names: Vec<String> =
            read(&TempDir::copy_of(&case(name).folder)).into_iter().map(|entry| entry.0).collect();
        for tensor in names {
            let folder = edited(name, |entries| entries.retain(|entry| entry.0 != tensor));
            let problems = problems(refused(folder.path(), &[&tensor, "missing"]));
            assert!(matches!(&problems[..], [Problem::Missing { tensor: t, .. }] if *t == tensor));
        }
    }
}

#[test]
fn a_renamed_tensor_is_found_under_its_other_name() {
    let from = "model.layers.1.mlp.up_proj.weight";
    let folder = edited("llama/plain", |entries| {
        entries.iter_mut().find(|e| e.0 == from).unwrap().0 = format!("module.{from}");
    });
    refused(folder.path(), &[from, "found `module.model.layers.1.mlp.up_proj.weight`"]);
}

#[test]
fn surplus_tensors_are_an_error_or_a_warning() {
    let folder = edited("llama/plain", |entries| {
        let name = "model.layers.0.self_attn.q_proj.bias".to_string();
        entries.push((name, Dtype::F32, vec![64], vec![0; 256]));
    });
    let strict = ModelOptions::new().threads(1).strict(true);
    let error = open_with(folder.path(), &strict).err().unwrap();
    for part in ["q_proj.bias", "[64]", "not part of the model"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(matches!(&problems(error)[..], [Problem::Surplus { .. }]));
    let model = open(folder.path()).unwrap();
    let case = case("llama/plain");
    let got = model.session().unwrap().feed_all(&case.tokens).unwrap().to_vec();
    assert!(relative_l2(&got, &case.logits) < 1e-5);
}

#[test]
fn every_tensor_of_another_shape_is_named_with_both() {
    for name in ["llama/plain", "mamba2/plain", "granitemoehybrid/plain"] {
        let count = read(&TempDir::copy_of(&case(name).folder)).len();
        for index in 0..count {
            let (mut tensor, mut found) = (String::new(), String::new());
            let folder = edited(name, |entries| {
                let (name, _, shape, _) = &mut entries[index];
                // The same number of elements in another arrangement.
                shape.push(1);
                (tensor, found) = (name.clone(), format!("{shape:?}"));
            });
            let problems = problems(refused(folder.path(), &[&tensor, &found]));
            assert!(
                matches!(&problems[..], [Problem::WrongShape { tensor: t, .. }] if *t == tensor)
            );
        }
    }
}

#[test]
fn types_that_cannot_be_computed_with_are_named() {
    for (dtype, size) in [(Dtype::I64, 8), (Dtype::U8, 1), (Dtype::F64, 8), (Dtype::BOOL, 1)] {
        let tensor = "model.layers.0.mlp.down_proj.weight";
        let folder = edited("llama/plain", |entries| {
            let entry = entries.iter_mut().find(|entry| entry.0 == tensor).unwrap();
            let elements: usize = entry.2.iter().product();
            (entry.1, entry.3) = (dtype, vec![0; size * elements]);
        });
        let problems = problems(refused(folder.path(), &[tensor, "expected F32, F16 or BF16"]));
        assert!(matches!(&problems[..], [Problem::UnsupportedDtype { .. }]), "{problems:?}");
    }
}

/// A checkpoint that alternates f32, f16 and bf16 gives the same as all values in f32: each tensor
/// has its own type, whatever the config's `dtype` says.
#[test]
fn types_may_differ_from_tensor_to_tensor() {
    for name in
        ["llama/plain", "granitemoehybrid/plain", "xlstm/plain", "mamba/plain", "bamba/plain"]
    {
        let case = case(name);
        let (mixed, plain) = (TempDir::copy_of(&case.folder), TempDir::copy_of(&case.folder));
        let (mut by_turns, mut as_f32) = (Tensors::default(), Tensors::default());
        for (i, (name, dtype, shape, bytes)) in read(&mixed).into_iter().enumerate() {
            assert_eq!(dtype, Dtype::F32);
            let (floats, _) = bytes.as_chunks::<4>();
            let stored = Stored::ALL[i % 3];
            let values: Vec<f64> =
                floats.iter().map(|x| stored.round(f64::from(f32::from_le_bytes(*x)))).collect();
            by_turns.push(&name, &shape, stored, &values);
            as_f32.push(&name, &shape, Stored::F32, &values);
        }
        mixed.write("model.safetensors", by_turns.file());
        plain.write("model.safetensors", as_f32.file());
        let logits = |folder: &TempDir| {
            let model = open(folder.path()).unwrap();
            model.session().unwrap().feed_all(&case.tokens).unwrap().to_vec()
        };
        let error = relative_l2(&logits(&mixed), &logits(&plain));
        assert!(error < 1e-6, "{name}: {error:.1e}");
    }
}

/// Values beyond f16 are infinite in the file, which is detected when they are read.
#[test]
fn overflow_to_infinity_in_a_vector_is_found() {
    for (dtype, bits) in [
        (Dtype::F16, f16::INFINITY.to_le_bytes()),
        (Dtype::F16, f16::NAN.to_le_bytes()),
        (Dtype::BF16, bf16::NEG_INFINITY.to_le_bytes()),
        (Dtype::BF16, bf16::NAN.to_le_bytes()),
    ] {
        let tensor = "model.layers.1.input_layernorm.weight";
        let folder = edited("llama/plain", |entries| {
            let entry = entries.iter_mut().find(|entry| entry.0 == tensor).unwrap();
            entry.1 = dtype;
            entry.3 = [0; 2].repeat(64);
            entry.3[2 * 63..].copy_from_slice(&bits);
        });
        let error = refused(folder.path(), &[tensor, "index 63", "damaged"]);
        let at = matches!(&error, Error::Weights(WeightsError::NonFinite { index: 63, .. }));
        assert!(at, "{error:?}");
    }
}
