use super::*;
use crate::hostile::samples;
use crate::testing::{needs, shape, with};
use crate::{Config, ModelSpec, TensorKind, TensorSpec, spec_in};
use serde_json::{Value, json};

/// The samples, with experts in Qwen3's second layer.
fn configs() -> Vec<Value> {
    let samples = samples().into_iter().map(|sample| match sample.get("mlp_only_layers") {
        Some(_) => with(&sample, json!({"mlp_only_layers": []})),
        None => sample,
    });
    samples.collect()
}

fn both(config: &Value) -> [ModelSpec; 2] {
    let config = Config::parse(&config.to_string()).unwrap();
    Layout::ALL.map(|layout| spec_in(&config, layout).unwrap())
}

fn vectors(model: &ModelSpec) -> Vec<(&TensorSpec, TensorKind)> {
    let all = model.tensors_by_kind().into_iter();
    all.filter(|(_, kind)| *kind != TensorKind::Matrix).collect()
}

#[test]
fn both_layouts_have_the_same_matrices_and_vectors_in_the_same_order() {
    let mut configs = configs();
    let granite = configs.iter().find(|c| c["model_type"] == "granitemoehybrid").unwrap();
    configs.push(with(granite, json!({"num_local_experts": 0})));
    for config in configs {
        let [one, other] = both(&config);
        assert_eq!(one.matrices().len(), other.matrices().len(), "{config}");
        for (a, b) in one.matrices().into_iter().zip(other.matrices()) {
            assert_eq!((a.rows, a.cols), (b.rows, b.cols), "{a:?} {b:?}");
            for m in [a, b] {
                assert_eq!(m.tensor.shape.last(), Some(&m.cols), "{m:?}");
                assert!((m.row_offset + m.rows) * m.cols <= m.tensor.elements(), "{m:?}");
            }
        }
        assert_eq!(vectors(&one).len(), vectors(&other).len());
        for ((a, kind), (b, other)) in vectors(&one).into_iter().zip(vectors(&other)) {
            // mlx-lm has a module around each convolution of queries, keys and values, and the bias beside the gate of Kimi Linear.
            let moved = [
                ["_conv1d.weight", "_conv.conv.weight"],
                [".block_sparse_moe.gate.e_score_correction", ".mlp.e_score_correction"],
            ];
            let moved = moved.iter().any(|[own, other]| a.name.replace(own, other) == b.name);
            assert!(moved || a.name == b.name, "{} {}", a.name, b.name);
            assert_eq!((a.elements(), kind), (b.elements(), other));
        }
        // The same number of elements, each in exactly one place.
        let all = |model: &ModelSpec| model.tensors().iter().map(|t| t.elements()).sum();
        let (one, other): (usize, usize) = (all(&one), all(&other));
        assert_eq!(one, other, "{config}");
    }
}

#[test]
fn experts_are_stacked_and_halves_taken_apart() {
    for config in configs() {
        let family = config["model_type"].as_str().unwrap();
        let [one, other] = both(&config);
        let same = !matches!(
            family,
            "mixtral"
                | "olmo_hybrid"
                | "olmoe"
                | "qwen3_moe"
                | "granitemoe"
                | "granitemoehybrid"
                | "mamba"
                | "mamba2"
                | "falcon_mamba"
                | "lfm2"
                | "lfm2_moe"
                | "jamba"
                | "nemotron_h"
                | "kimi_linear"
        );
        assert_eq!(one == other, same, "{family}");
        let (stack, conv, inner) = match family {
            "mixtral" => ("model.layers.0.block_sparse_moe", None, 20),
            "olmoe" => ("model.layers.0.mlp", None, 20),
            "qwen3_moe" => ("model.layers.1.mlp", None, 8),
            "granitemoehybrid" => {
                ("model.layers.1.block_sparse_moe", Some("model.layers.0.mamba.conv1d"), 20)
            }
            "granitemoe" => ("model.layers.1.block_sparse_moe", None, 20),
            "lfm2_moe" => ("model.layers.1.feed_forward", Some("model.layers.0.conv.conv"), 8),
            "lfm2" => ("", Some("model.layers.0.conv.conv"), 0),
            "jamba" => ("model.layers.1.feed_forward", Some("model.layers.0.mamba.conv1d"), 20),
            "nemotron_h" => {
                let mixer = "backbone.layers.3.mixer";
                assert_eq!(shape(&other, &format!("{mixer}.switch_mlp.fc1.weight")), [4, 8, 16]);
                assert_eq!(shape(&other, &format!("{mixer}.switch_mlp.fc2.weight")), [4, 16, 8]);
                ("", Some("backbone.layers.0.mixer.conv1d"), 0)
            }
            "mamba" | "mamba2" | "falcon_mamba" => ("", Some("backbone.layers.2.mixer.conv1d"), 0),
            _ => continue,
        };
        if inner > 0 {
            let name = |part: &str| format!("{stack}.switch_mlp.{part}_proj.weight");
            assert_eq!(shape(&other, &name("gate")), [4, inner, 32]);
            assert_eq!(shape(&other, &name("up")), [4, inner, 32]);
            assert_eq!(shape(&other, &name("down")), [4, 32, inner]);
            assert!(!needs(&one, &name("gate")));
        }
        if let Some(conv) = conv {
            let conv = format!("{conv}.weight");
            assert_eq!(shape(&one, &conv)[1..], [1, 4]);
            assert_eq!(shape(&other, &conv)[1..], [4, 1]);
        }
    }
}

#[test]
fn a_dense_granite_hybrid_has_an_ordinary_network() {
    let sample = samples().into_iter().find(|c| c["model_type"] == "granitemoehybrid").unwrap();
    let [one, other] = both(&with(&sample, json!({"num_local_experts": 0})));
    assert_eq!(shape(&one, "model.layers.1.shared_mlp.input_linear.weight"), [16, 32]);
    assert_eq!(shape(&other, "model.layers.1.mlp.gate_proj.weight"), [8, 32]);
    assert_eq!(shape(&other, "model.layers.1.mlp.up_proj.weight"), [8, 32]);
    assert_eq!(shape(&other, "model.layers.1.mlp.down_proj.weight"), [32, 8]);
    assert!(!needs(&other, "model.layers.1.shared_mlp.input_linear.weight"));
}
