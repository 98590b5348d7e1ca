//! Quantized checkpoints with broken or missing parts or wrong types, and configs that contradict
//! them.

use kinglet::models::ModelError;
use kinglet::weights::{CheckOptions, Problem, QuantizedError, WeightsError};
use kinglet::{Checkpoint, Error};
use kinglet_tests::random::Random;
use kinglet_tests::temp::TempDir;
use kinglet_tests::{Case, case_named, relative_l2};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::weights::{Entry, read, write};
use crate::{open, refused};

/// Affine with stacks, MXFP4, MXFP8 with affine, NVFP4 with and without factors, some dense layers,
/// convolutions.
const SAMPLES: [&str; 6] = [
    "mixtral-affine4",
    "qwen2-mxfp4",
    "qwen3_moe-mxfp8",
    "mixtral-global-scale",
    "llama-some-dense",
    "mamba-affine6",
];

fn quantized(name: &str) -> Case {
    case_named(&format!("quantized/{name}"))
}

fn edited(name: &str, edit: impl FnOnce(&mut Vec<Entry>)) -> TempDir {
    let folder = TempDir::copy_of(&quantized(name).folder);
    let mut entries = read(&folder);
    edit(&mut entries);
    write(&folder, &entries);
    folder
}

fn entry<'a>(entries: &'a mut [Entry], name: &str) -> &'a mut Entry {
    entries.iter_mut().find(|entry| entry.0 == name).unwrap_or_else(|| panic!("no {name}"))
}

fn problems(error: Error) -> Vec<Problem> {
    match error {
        Error::Weights(WeightsError::Mismatch(mismatch)) => mismatch.problems,
        other => panic!("{other:?}"),
    }
}

fn is_beside(name: &str) -> bool {
    [".scales", ".biases", ".global_scale"].iter().any(|part| name.ends_with(part))
}

#[test]
fn every_tensor_left_out_is_missed_by_name() {
    for sample in SAMPLES {
        let names: Vec<String> =
            read(&TempDir::copy_of(&quantized(sample).folder)).into_iter().map(|e| e.0).collect();
        for name in names {
            // Without its factor an NVFP4 matrix is a different one, not a broken one.
            if name.ends_with(".global_scale") {
                continue;
            }
            let folder = edited(sample, |entries| entries.retain(|entry| entry.0 != name));
            let problems = problems(refused(folder.path(), &[&name, "missing"]));
            let found = match &problems[0] {
                Problem::Missing { tensor, .. } => *tensor == name,
                Problem::Quantized { error: QuantizedError::Missing { name: missing }, .. } => {
                    *missing == name && problems.len() == 1
                }
                _ => false,
            };
            assert!(found, "{sample} {name}: {problems:?}");
        }
    }
}

#[test]
fn every_tensor_of_another_shape_is_named() {
    for sample in SAMPLES {
        let count = read(&TempDir::copy_of(&quantized(sample).folder)).len();
        for index in 0..count {
            // The same number of elements in another arrangement: one more dimension, or rows and
            // columns swapped.
            for exchange in [false, true] {
                let (mut name, mut same) = (String::new(), false);
                let folder = edited(sample, |entries| {
                    let (own, _, shape, _) = &mut entries[index];
                    name = own.clone();
                    let before = shape.clone();
                    match exchange {
                        false => shape.push(1),
                        true => shape.reverse(),
                    }
                    same = *shape == before;
                });
                // For factors only the number matters.
                if same || name.ends_with(".global_scale") {
                    continue;
                }
                let problems = problems(refused(folder.path(), &[&name]));
                assert_eq!(problems.len(), 1, "{sample} {name}: {problems:?}");
            }
        }
    }
}

#[test]
fn types_that_no_format_has_are_named() {
    for sample in SAMPLES {
        let entries = read(&TempDir::copy_of(&quantized(sample).folder));
        for (index, (name, own, ..)) in entries.iter().enumerate() {
            for dtype in
                [Dtype::I32, Dtype::U32, Dtype::I64, Dtype::U8, Dtype::F8_E4M3, Dtype::BOOL]
            {
                if dtype == *own {
                    continue;
                }
                let folder = edited(sample, |entries| {
                    let (_, dtype_of, shape, bytes) = &mut entries[index];
                    let size = dtype.bitsize() / 8;
                    *dtype_of = dtype;
                    *bytes = vec![0; size * shape.iter().product::<usize>()];
                });
                // Scales stored as bytes belong to another format, which has other rows or no
                // biases.
                let problems = problems(refused(folder.path(), &[]));
                let prefix = name.rsplit_once('.').unwrap().0;
                assert!(format!("{problems:?}").contains(prefix), "{sample} {name}: {problems:?}");
            }
        }
    }
}

#[test]
fn biases_have_the_type_of_their_scales() {
    let name = "model.layers.0.self_attn.k_proj.biases";
    let folder = edited("mixtral-affine4", |entries| entry(entries, name).1 = Dtype::F16);
    let problems = problems(refused(folder.path(), &[name, "F16", "scales"]));
    let typed = |p: &Problem| matches!(p, Problem::Quantized { error: QuantizedError::Dtype { name: n, .. }, .. } if n == name);
    assert!(problems.len() == 1 && typed(&problems[0]), "{problems:?}");
}

#[test]
fn only_matrices_can_be_quantized() {
    for (sample, name) in [
        ("mixtral-affine4", "model.norm.weight"),
        ("mamba-affine6", "backbone.layers.0.mixer.conv1d.weight"),
        ("mamba-affine6", "backbone.layers.0.mixer.A_log"),
    ] {
        let folder = edited(sample, |entries| {
            let own = entry(entries, name);
            own.1 = Dtype::U32;
            own.3 = vec![0; 4 * own.2.iter().product::<usize>()];
        });
        let problems = problems(refused(folder.path(), &[name, "only matrices"]));
        assert!(matches!(
            &problems[..],
            [Problem::Quantized { error: QuantizedError::NotAMatrix, .. }]
        ));
    }
}

#[test]
fn rows_that_no_format_has_are_refused() {
    // 4 bits of 64 columns are 8 words and 2 scales in groups of 32.
    let name = "model.layers.0.self_attn.q_proj";
    for (words, groups) in
        [(7, 2), (9, 2), (8, 3), (8, 4), (8, 0), (0, 2), (0, 0), (64, 2), (8, 64), (1 << 20, 2)]
    {
        let folder = edited("mixtral-affine4", |entries| {
            for (part, cols, size) in
                [("weight", words, 4), ("scales", groups, 2), ("biases", groups, 2)]
            {
                let own = entry(entries, &format!("{name}.{part}"));
                own.2 = vec![64, cols];
                own.3 = vec![0; 64 * cols * size];
            }
        });
        let problems = problems(refused(folder.path(), &[name, "64 weights"]));
        let error =
            |p: &Problem| matches!(p, Problem::Quantized { error: QuantizedError::Format(_), .. });
        assert!(problems.len() == 1 && error(&problems[0]), "{words} {groups}: {problems:?}");
    }
}

#[test]
fn many_problems_are_reported_together() {
    let folder = edited("mixtral-affine4", |entries| {
        entries.retain(|e| !e.0.ends_with("q_proj.scales") && e.0 != "model.norm.weight");
        entry(entries, "lm_head.biases").2.push(1);
        entries.push(("extra.scales".into(), Dtype::F32, vec![1], vec![0; 4]));
    });
    let parts = [
        "q_proj.scales",
        "model.norm.weight",
        "lm_head.biases",
        "extra.scales",
        "wrongly quantized",
    ];
    assert_eq!(problems(refused(folder.path(), &parts)).len(), 4);
}

#[test]
fn scales_without_codes_are_surplus() {
    // The weight is dense nevertheless, so the meaning is ambiguous.
    let folder = edited("llama-some-dense", |entries| {
        let name = "model.layers.0.self_attn.v_proj";
        entries.push((format!("{name}.scales"), Dtype::F16, vec![32, 1], vec![0; 64]));
    });
    refused(folder.path(), &["v_proj.scales", "not part of the model"]);
    // Biases, which MXFP4 does not have.
    let folder = edited("qwen2-mxfp4", |entries| {
        let name = "model.layers.0.self_attn.q_proj";
        entries.push((format!("{name}.biases"), Dtype::U8, vec![64, 2], vec![0; 128]));
    });
    refused(folder.path(), &["q_proj.biases", "not part of the model"]);
}

/// Random shapes and types with matching sizes: a typed error, or a model.
#[test]
fn mutated_parts_never_panic() {
    let dtypes = [
        Dtype::U32,
        Dtype::I32,
        Dtype::U8,
        Dtype::F16,
        Dtype::BF16,
        Dtype::F32,
        Dtype::F8_E4M3,
        Dtype::F8_E8M0,
    ];
    let dims = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];
    let mut random = Random::new(7);
    let (mut opened, mut refused) = (0, 0);
    for sample in SAMPLES {
        let folder = TempDir::copy_of(&quantized(sample).folder);
        let entries = read(&folder);
        for _ in 0..150 {
            let mut spoilt = entries.clone();
            for _ in 0..random.between(1, 2) {
                let index = random.between(0, spoilt.len() - 1);
                let (_, dtype, shape, bytes) = &mut spoilt[index];
                if random.between(0, 1) == 0 {
                    *dtype = random.choose(&dtypes);
                }
                if random.between(0, 1) == 0 && !shape.is_empty() {
                    let at = random.between(0, shape.len() - 1);
                    shape[at] = random.choose(&dims);
                }
                bytes.resize(dtype.bitsize() / 8 * shape.iter().product::<usize>(), 0x3c);
            }
            write(&folder, &spoilt);
            match open(folder.path()) {
                Ok(model) => {
                    let mut session = model.session().unwrap();
                    // It must compute with any numbers.
                    let _ = session.feed(&[1, 2, 3]);
                    opened += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    // Both outcomes must occur, else the test proves nothing.
    assert!(opened > 50 && refused > 200, "{opened} opened, {refused} refused");
}

#[test]
fn a_scan_finds_non_finite_values_in_every_part() {
    let nan16 = 0x7fc0u16.to_le_bytes();
    for (sample, name, bytes) in [
        ("mixtral-affine4", "model.layers.0.self_attn.q_proj.scales", &nan16[..]),
        (
            "mixtral-affine4",
            "model.layers.0.block_sparse_moe.switch_mlp.down_proj.biases",
            &nan16[..],
        ),
        (
            "mixtral-global-scale",
            "model.layers.0.block_sparse_moe.switch_mlp.up_proj.scales",
            &[0x7f],
        ),
        (
            "mixtral-global-scale",
            "model.layers.0.block_sparse_moe.switch_mlp.up_proj.global_scale",
            &f32::INFINITY.to_le_bytes(),
        ),
        ("qwen2-mxfp4", "model.layers.0.mlp.up_proj.scales", &[0xff]),
        ("qwen3_moe-mxfp8", "model.layers.0.mlp.switch_mlp.gate_proj.weight", &[0xff]),
        ("llama-some-dense", "model.layers.0.self_attn.v_proj.weight", &0x7e00u16.to_le_bytes()),
    ] {
        let folder = edited(sample, |entries| {
            let stored = &mut entry(entries, name).3;
            let at = stored.len() - bytes.len();
            stored[at..].copy_from_slice(bytes);
        });
        let checkpoint = Checkpoint::open(folder.path(), CheckOptions::default()).unwrap();
        let found = checkpoint.weights.scan_non_finite(&checkpoint.spec, &mut |_, _| true);
        let Err(WeightsError::NonFinite { tensor, index, value }) = found else {
            panic!("{name}: {found:?}");
        };
        assert!(tensor == name && index > 0 && !value.is_finite(), "{tensor} {index} {value}");
    }
    for sample in SAMPLES {
        let checkpoint =
            Checkpoint::open(quantized(sample).folder, CheckOptions::default()).unwrap();
        let (mut last, mut total) = (0, 0);
        let mut progress = |done, all| {
            (last, total) = (done, all);
            true
        };
        checkpoint.weights.scan_non_finite(&checkpoint.spec, &mut progress).unwrap();
        assert_eq!((last, total), (checkpoint.weights.total_bytes(), total), "{sample}");
    }
}

fn set(folder: &TempDir, field: &str, value: Value) {
    let mut config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
    let fields = config.as_object_mut().unwrap();
    fields.remove("quantization");
    fields.remove("quantization_config");
    fields.insert(field.into(), value);
    folder.write("config.json", config.to_string());
}

#[test]
fn absurd_quantization_is_refused_by_name() {
    let folder = TempDir::copy_of(&quantized("mixtral-affine4").folder);
    for field in ["quantization", "quantization_config"] {
        for value in [
            json!(4),
            json!("4bit"),
            json!([4]),
            json!({"bits": 1u64 << 60}),
            json!({"bits": -1}),
            json!({"bits": 4.5}),
            json!({"bits": 0}),
            json!({"bits": "4"}),
            json!({"group_size": 1u64 << 40}),
            json!({"group_size": 0}),
            json!({"group_size": {}}),
            json!({"mode": "x".repeat(100_000)}),
            json!({"mode": 4}),
            json!({"a.b": {"bits": {}}}),
            json!({"a.b": {"mode": "turbo"}}),
            json!({"quant_method": "x".repeat(100_000)}),
            json!({"quant_method": []}),
            json!({"quant_method": "fp8", "weight_block_size": [0, 0]}),
            json!({"quant_method": "fp8", "weight_block_size": [1u64 << 60, 1]}),
            json!({"quant_method": "gptq", "bits": 1u64 << 60}),
            json!({"quant_method": "compressed-tensors", "config_groups": 5}),
        ] {
            set(&folder, field, value.clone());
            let error = refused(folder.path(), &[field]);
            let Error::Config { source, .. } = error else { panic!("{value}: {error:?}") };
            assert!(source.to_string().len() < 600, "{source}");
            let typed = matches!(
                source,
                ModelError::WrongType { .. }
                    | ModelError::OutOfRange { .. }
                    | ModelError::Unsupported { .. }
            );
            assert!(typed, "{value}: {source:?}");
        }
    }
}

/// The shapes decide, whatever the config says.
#[test]
fn a_config_that_contradicts_the_shapes_changes_nothing() {
    let case = quantized("mixtral-affine4");
    let folder = TempDir::copy_of(&case.folder);
    for value in [
        json!(null),
        json!({}),
        json!({"group_size": 64, "bits": 8}),
        json!({"group_size": 64, "bits": 7}),
        json!({"mode": "mxfp4", "bits": 8}),
        json!({"mode": "nvfp4", "lm_head": {"group_size": 16, "bits": 4}}),
        json!({"mode": "nvfp4"}),
        json!({"group_size": 32, "bits": 4, "lm_head": false, "model.norm": {"bits": 2}}),
        json!({"group_size": 32, "bits": 4, "lm_head": {"mode": "mxfp8"}, "": {"bits": 3}}),
        json!({"quant_method": "mxfp4"}),
    ] {
        set(&folder, "quantization_config", value);
        let model = open(folder.path()).unwrap();
        let logits = model.session().unwrap().feed_all(&case.tokens).unwrap().to_vec();
        assert!(relative_l2(&logits, &case.logits) < 1e-5);
    }
}

/// A head next to a tied embedding, both quantized: one matrix if equal, two if not; or only the
/// head.
#[test]
fn quantized_heads_are_tied_as_dense_ones_are() {
    let case = quantized("qwen2-mxfp4");
    let run = |folder: &TempDir| {
        let model = open(folder.path()).unwrap();
        let logits = model.session().unwrap().feed_all(&case.tokens).unwrap().to_vec();
        (model.spec().head.linear.weight == model.spec().embedding.table, logits)
    };
    let copied = |keep: bool, change: u8| {
        edited("qwen2-mxfp4", |entries| {
            let own = entries.iter().filter(|e| e.0.starts_with("model.embed_tokens."));
            let mut heads: Vec<Entry> = own.cloned().collect();
            for head in &mut heads {
                head.0 = head.0.replace("model.embed_tokens", "lm_head");
                head.3[0] ^= change;
            }
            entries.retain(|e| keep || !e.0.starts_with("model.embed_tokens."));
            entries.extend(heads);
        })
    };
    let (tied, logits) = run(&copied(true, 0));
    assert!(tied && relative_l2(&logits, &case.logits) < 1e-5);
    let (tied, logits) = run(&copied(false, 0));
    assert!(tied && relative_l2(&logits, &case.logits) < 1e-5);
    let (tied, logits) = run(&copied(true, 1));
    assert!(!tied && relative_l2(&logits, &case.logits) > 1e-5);
    // The tensors of an unneeded copy are not needed either.
    let checkpoint = Checkpoint::open(copied(true, 0).path(), CheckOptions::default()).unwrap();
    assert_eq!(checkpoint.checked.ignored, ["lm_head.scales", "lm_head.weight"]);
    assert!(checkpoint.checked.ignored.iter().any(|name| is_beside(name)));
}
