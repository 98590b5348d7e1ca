//! Broken checkpoints in the quantized layouts of other projects: typed errors that name the layer.

use kinglet::Error;
use kinglet::weights::{ConversionError, Problem, WeightsError};
use kinglet_tests::random::Random;
use kinglet_tests::temp::TempDir;
use kinglet_tests::{case_named, relative_l2};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::weights::{Entry, read, write};
use crate::{open, refused};

/// GPTQ with and without act-order, AWQ, FP8 per block, tensor and row.
const SAMPLES: [&str; 6] =
    ["gptq4", "gptq4-act-order", "awq", "fp8-block", "fp8-tensor", "fp8-channel"];

fn edited(sample: &str, edit: impl FnOnce(&mut Vec<Entry>)) -> TempDir {
    let folder = TempDir::copy_of(&case_named(&format!("foreign/{sample}")).folder);
    let mut entries = read(&folder);
    edit(&mut entries);
    write(&folder, &entries);
    folder
}

/// The parts of one layer of a sample.
fn layer(sample: &str) -> Vec<Entry> {
    let name = match sample {
        "fp8-tensor" => "backbone.layers.0.mixer.in_proj.",
        _ => "model.layers.1.self_attn.q_proj.",
    };
    let name = if sample.starts_with("gptq") || sample == "awq" || sample == "fp8-block" {
        "model.layers.0.self_attn.q_proj."
    } else {
        name
    };
    let folder = TempDir::copy_of(&case_named(&format!("foreign/{sample}")).folder);
    let all = read(&folder).into_iter();
    let parts: Vec<Entry> = all.filter(|entry| entry.0.starts_with(name)).collect();
    assert!(parts.len() >= 2, "{sample}: {parts:?}");
    // Activation scales are ignored; without `g_idx` groups are consecutive; biases don't change.
    let matters = |e: &Entry| ![".input_scale", ".g_idx", ".bias"].iter().any(|p| e.0.ends_with(p));
    parts.into_iter().filter(matters).collect()
}

fn is_typed(error: &Error) -> bool {
    matches!(error, Error::Weights(WeightsError::Foreign { .. } | WeightsError::Mismatch(_)))
}

#[test]
fn every_part_of_a_layer_is_missed() {
    for sample in SAMPLES {
        for (name, ..) in layer(sample) {
            let folder = edited(sample, |entries| entries.retain(|entry| entry.0 != name));
            let layer = name.rsplit_once('.').unwrap().0;
            let error = refused(folder.path(), &[layer]);
            assert!(is_typed(&error), "{sample} {name}: {error:?}");
        }
    }
    let folder =
        edited("gptq4", |entries| entries.retain(|e| !e.0.ends_with("0.mlp.up_proj.qzeros")));
    let error = refused(folder.path(), &["mlp.up_proj.qzeros", "missing"]);
    let missing = |e: &Error| {
        matches!(
            e,
            Error::Weights(WeightsError::Foreign { error: ConversionError::Missing { .. }, .. })
        )
    };
    assert!(missing(&error), "{error:?}");
}

#[test]
fn parts_of_other_shapes_and_types_are_refused() {
    for sample in SAMPLES {
        for (name, own, shape, _) in layer(sample) {
            let reshaped = {
                let mut longer = shape.clone();
                longer.push(3);
                let mut fewer = shape.clone();
                if let Some(last) = fewer.last_mut() {
                    *last = *last / 2 + 3;
                }
                [longer, fewer, vec![], vec![0], vec![0, 0], vec![5, 7, 0]]
            };
            for found in reshaped.into_iter().filter(|found| *found != shape) {
                // A single scale is valid for fp8.
                if found.is_empty() && name.contains("weight_scale") {
                    continue;
                }
                let folder = edited(sample, |entries| {
                    let part = entries.iter_mut().find(|entry| entry.0 == name).unwrap();
                    part.2 = found.clone();
                    part.3 = vec![0; own.bitsize() / 8 * found.iter().product::<usize>()];
                });
                let error = refused(folder.path(), &[name.rsplit_once('.').unwrap().0]);
                assert!(is_typed(&error), "{sample} {name} {found:?}: {error:?}");
            }
            for dtype in [Dtype::BOOL, Dtype::I64, Dtype::F64, Dtype::I16, Dtype::F8_E5M2] {
                let folder = edited(sample, |entries| {
                    let part = entries.iter_mut().find(|entry| entry.0 == name).unwrap();
                    part.1 = dtype;
                    part.3 = vec![0; dtype.bitsize() / 8 * shape.iter().product::<usize>()];
                });
                let error = refused(folder.path(), &[name.rsplit_once('.').unwrap().0]);
                assert!(is_typed(&error), "{sample} {name} {dtype}: {error:?}");
            }
        }
    }
}

#[test]
fn contents_that_make_no_sense_are_refused() {
    let q_proj = "model.layers.0.self_attn.q_proj";
    for (sample, part, bytes, words) in [
        ("gptq4", "g_idx", &99i32.to_le_bytes()[..], "group 99"),
        ("gptq4", "g_idx", &(-1i32).to_le_bytes(), "group -1"),
        ("gptq4", "scales", &0x7c00u16.to_le_bytes(), "scale 0 is inf"),
        ("awq", "scales", &0x7e00u16.to_le_bytes(), "scale 0 is NaN"),
        ("fp8-block", "weight_scale_inv", &f32::NAN.to_le_bytes(), "scale 0 is NaN"),
        ("fp8-block", "weight", &[0x7f], ""),
    ] {
        let folder = edited(sample, |entries| {
            let name = format!("{q_proj}.{part}");
            let part = entries.iter_mut().find(|entry| entry.0 == name).unwrap();
            part.3[..bytes.len()].copy_from_slice(bytes);
        });
        let error = refused(folder.path(), &[q_proj, words]);
        let contents = matches!(
            &error,
            Error::Weights(WeightsError::Foreign { error: ConversionError::Contents(_), .. })
        );
        assert!(contents, "{sample} {part}: {error:?}");
    }
}

#[test]
fn a_layer_that_is_there_twice_is_refused() {
    let name = "model.layers.0.self_attn.q_proj.weight";
    let folder = edited("gptq4", |entries| {
        entries.push((name.into(), Dtype::F16, vec![64, 64], vec![0; 64 * 64 * 2]));
    });
    let error = refused(folder.path(), &[name, "which of the two"]);
    let occupied = matches!(
        &error,
        Error::Weights(WeightsError::Foreign { error: ConversionError::Occupied { .. }, .. })
    );
    assert!(occupied, "{error:?}");
}

/// Without its config, or with another's, a layout is not guessed.
#[test]
fn the_config_says_whose_layout_it_is() {
    for sample in SAMPLES {
        let case = case_named(&format!("foreign/{sample}"));
        let folder = TempDir::copy_of(&case.folder);
        let text = folder.read("config.json");
        let config: Value = serde_json::from_str(&kinglet::models::tag_bare_floats(&text)).unwrap();
        for stated in [
            json!(null),
            json!({"group_size": 32, "bits": 4}),
            json!({"quant_method": "gptq", "bits": 4, "group_size": 0}),
            json!({"quant_method": "awq", "bits": 4, "group_size": 5}),
            json!({"quant_method": "fp8", "weight_block_size": [7, 1 << 20]}),
        ] {
            let mut other = config.clone();
            other["quantization_config"] = stated.clone();
            folder.write("config.json", other.to_string());
            match open(folder.path()) {
                // For some layouts the shapes suffice.
                Ok(model) => {
                    let logits = model.session().unwrap().feed_all(&case.tokens).unwrap().to_vec();
                    let error = relative_l2(&logits, &case.logits);
                    assert!(error < 2e-2, "{sample} {stated}: {error:.1e}");
                }
                Err(error) => assert!(
                    is_typed(&error) || matches!(error, Error::Config { .. }),
                    "{sample} {stated}: {error:?}"
                ),
            }
        }
    }
    let folder = edited("gptq4", |_| {});
    let mut config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
    config.as_object_mut().unwrap().remove("quantization_config");
    folder.write("config.json", config.to_string());
    let error = refused(folder.path(), &["q_proj.weight", "missing"]);
    let Error::Weights(WeightsError::Mismatch(mismatch)) = error else { panic!("{error:?}") };
    assert!(mismatch.problems.iter().any(|p| matches!(p, Problem::Surplus { .. })));
}

/// Random shapes and types with matching sizes: a typed error, or a model.
#[test]
fn mutated_parts_never_panic() {
    let dtypes = [
        Dtype::I32,
        Dtype::U32,
        Dtype::F16,
        Dtype::F32,
        Dtype::BF16,
        Dtype::F8_E4M3,
        Dtype::F8_E8M0,
    ];
    let dims = [0, 1, 2, 3, 4, 8, 16, 31, 32, 33, 64, 96, 128, 256];
    let mut random = Random::new(11);
    let (mut opened, mut refused) = (0, 0);
    for sample in SAMPLES {
        let folder = TempDir::copy_of(&case_named(&format!("foreign/{sample}")).folder);
        let entries = read(&folder);
        for _ in 0..80 {
            let mut spoilt = entries.clone();
            let index = random.between(0, spoilt.len() - 1);
            let (_, dtype, shape, bytes) = &mut spoilt[index];
            if random.between(0, 1) == 0 {
                *dtype = random.choose(&dtypes);
            }
            if random.between(0, 2) > 0 && !shape.is_empty() {
                let at = random.between(0, shape.len() - 1);
                shape[at] = random.choose(&dims);
            }
            let fill = [0x00, 0x3c, 0xff][random.between(0, 2)];
            bytes.resize(dtype.bitsize() / 8 * shape.iter().product::<usize>(), fill);
            write(&folder, &spoilt);
            match open(folder.path()) {
                Ok(model) => {
                    let _ = model.session().unwrap().feed(&[1, 2, 3]);
                    opened += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(opened > 30 && refused > 100, "{opened} opened, {refused} refused");
}
