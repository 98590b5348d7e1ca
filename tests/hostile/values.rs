//! NaN and infinity among the weights.

use kinglet::Error;
use kinglet::weights::WeightsError;
use kinglet_tests::temp::TempDir;
use safetensors::Dtype;

#[cfg(debug_assertions)]
use crate::open;
use crate::weights::{read, write};
use crate::{one_of_each_family, refused};
#[cfg(debug_assertions)]
use kinglet::models::TensorKind;

/// Vectors are checked when they are decoded: norms, biases, convolutions, decays.
#[test]
fn in_a_small_tensor_the_model_does_not_open() {
    for case in one_of_each_family() {
        let folder = TempDir::copy_of(&case.folder);
        let entries = read(&folder);
        for index in 0..entries.len() {
            let (name, dtype, shape, _) = &entries[index];
            // Tensors that are read as a whole: one dimension, a convolution's taps, Mamba's
            // decays.
            if shape.len() == 2 && !name.ends_with("A_log") || shape.len() == 3 && shape[1] != 1 {
                continue;
            }
            // MiniMax's decays follow from the config; stored tables of them are not read.
            if name.ends_with("_decay") || name.ends_with("slope_rate") {
                continue;
            }
            assert_eq!(*dtype, Dtype::F32);
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut spoilt = entries.clone();
                let last = spoilt[index].3.len() - 4;
                spoilt[index].3[last..].copy_from_slice(&value.to_le_bytes());
                write(&folder, &spoilt);
                let error = refused(folder.path(), &[name, &format!("index {}", last / 4)]);
                let typed = matches!(&error, Error::Weights(WeightsError::NonFinite { .. }));
                assert!(typed, "{error:?}");
            }
        }
    }
}

/// A large matrix is not checked when a model opens; a debug build finds a NaN in the output. After
/// the failed step the session is unusable until a reset.
#[cfg(debug_assertions)]
#[test]
fn in_a_matrix_the_step_names_the_op() {
    for case in one_of_each_family() {
        let folder = TempDir::copy_of(&case.folder);
        let entries = read(&folder);
        let plain = open(folder.path()).unwrap();
        let matrices: Vec<_> = plain
            .spec()
            .tensors_by_kind()
            .into_iter()
            .filter(|(_, kind)| *kind == TensorKind::Matrix)
            .map(|(tensor, _)| tensor.name.clone())
            .collect();
        let mut seen = Vec::new();
        for index in 0..entries.len() {
            let name = &entries[index].0;
            if !matrices.contains(name) {
                continue;
            }
            let mut spoilt = entries.clone();
            // The whole tensor: a single expert or embedding row might not be used.
            for value in spoilt[index].3.as_chunks_mut::<4>().0 {
                *value = f32::NAN.to_le_bytes();
            }
            write(&folder, &spoilt);
            let model = open(folder.path()).unwrap();
            let mut session = model.session().unwrap();
            let error = session.feed(&case.tokens).map(<[f32]>::len).expect_err(name);
            let Error::NonFinite { index, op } = error else { panic!("{name}: {error:?}") };
            assert_eq!(model.plan().ops[index].name(), op);
            assert!(error.to_string().contains(op), "{error}");
            let expected = match name {
                name if name.contains("embed") => "embed",
                name if name.contains("lm_head") => "head",
                name if name.contains("block_sparse_moe.router") => "moe_route",
                _ => op,
            };
            assert_eq!(op, expected, "{name}");
            // The op that uses the tensor must report the NaN, and none before it.
            let uses = model.plan().ops[index].uses();
            let tensors = uses.matrices.iter().map(|m| &m.tensor.name);
            let experts = uses.experts.iter().map(|(_, m)| &m.tensor.name);
            let mut named = tensors.chain(experts);
            assert!(
                op == "embed" || named.any(|tensor| tensor == name),
                "{name} is no part of {op}"
            );
            seen.push(op);

            assert!(matches!(session.feed(&[1]), Err(Error::PoisonedSession)));
            assert!(matches!(session.fork().err(), Some(Error::PoisonedSession)));
            session.reset().unwrap();
            assert!(matches!(session.feed(&case.tokens), Err(Error::NonFinite { .. })));
        }
        assert!(seen.contains(&"embed") && seen.contains(&"linear"), "{}: {seen:?}", case.name);
    }
}

/// Weights so large that a product overflows: no NaN in the file, but found nevertheless.
#[cfg(debug_assertions)]
#[test]
fn overflow_within_a_step_names_the_op() {
    let case = crate::case("llama/plain");
    let folder = TempDir::copy_of(&case.folder);
    let mut entries = read(&folder);
    let name = "model.layers.0.mlp.down_proj.weight";
    let entry = entries.iter_mut().find(|entry| entry.0 == name).unwrap();
    for value in entry.3.as_chunks_mut::<4>().0 {
        *value = 3e38f32.to_le_bytes();
    }
    write(&folder, &entries);
    let model = open(folder.path()).unwrap();
    let error = model.session().unwrap().feed(&case.tokens).unwrap_err();
    assert!(matches!(error, Error::NonFinite { op: "linear", .. }), "{error:?}");
}
