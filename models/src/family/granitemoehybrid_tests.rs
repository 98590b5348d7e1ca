use crate::Mixer;
use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "granitemoehybrid", "vocab_size": 40, "hidden_size": 24,
        "intermediate_size": 5, "shared_intermediate_size": 7, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 3,
        "num_experts_per_tok": 2, "layer_types": ["mamba", "attention", "linear_attention"],
        "position_embedding_type": "nope", "mamba_n_heads": 6, "mamba_d_head": "auto",
        "mamba_n_groups": 2, "mamba_d_state": 10, "mamba_d_conv": 3, "mamba_expand": 2,
        "embedding_multiplier": 12.0, "attention_multiplier": 0.25, "residual_multiplier": 0.22,
        "logits_scaling": 8.0, "tie_word_embeddings": true, "max_position_embeddings": 99
    })
}

#[test]
fn layers_are_mamba2_or_attention() {
    let model = spec_of(&config());
    assert_eq!(model.max_positions, Some(99));
    let first = mamba2(&model, 0);
    assert_eq!((first.heads, first.head_dim, first.groups, first.state), (6, 8, 2, 10));
    assert_eq!(first.dt_limit, (0.0, f32::INFINITY));
    // 48 each of z and x, 2 * 10 each of B and C, 6 of dt.
    assert_eq!(shape(&model, "model.layers.0.mamba.in_proj.weight"), [142, 24]);
    assert_eq!(shape(&model, "model.layers.0.mamba.conv1d.weight"), [88, 1, 3]);
    assert_eq!(shape(&model, "model.layers.2.mamba.norm.weight"), [48]);
    let second = attention(&model, 2);
    assert!(second.rope.is_none());
    assert_eq!(second.scale, 0.25);
    assert_eq!((model.embedding.scale, model.head.scale), (12.0, 0.125));
    assert!(model.blocks.iter().all(|block| block.residual_scale == 0.22));
}

#[test]
fn experts_are_rows_of_two_tensors() {
    let model = spec_of(&config());
    let experts = moe(&model, 3);
    assert_eq!(
        (experts.experts.len(), experts.router.top_k, experts.router.renormalize),
        (3, 2, true)
    );
    let prefix = "model.layers.1.block_sparse_moe";
    assert_eq!(shape(&model, &format!("{prefix}.input_linear.weight")), [3, 10, 24]);
    assert_eq!(shape(&model, &format!("{prefix}.output_linear.weight")), [3, 24, 5]);
    assert_eq!(shape(&model, &format!("{prefix}.router.layer.weight")), [3, 24]);
    let last = &experts.experts[2];
    let rows = [last.gate.as_ref().unwrap(), &last.up, &last.down]
        .map(|l| (l.weight.row_offset, l.weight.rows));
    assert_eq!(rows, [(20, 5), (25, 5), (48, 24)]);
    let shared = experts.shared.as_ref().expect("a shared expert");
    let rows =
        [shared.gate.as_ref().unwrap(), &shared.up].map(|l| (l.weight.row_offset, l.weight.rows));
    assert_eq!(rows, [(0, 7), (7, 7)]);
    assert_eq!(shape(&model, "model.layers.1.shared_mlp.input_linear.weight"), [14, 24]);
    assert_eq!(shape(&model, "model.layers.1.shared_mlp.output_linear.weight"), [24, 7]);
}

#[test]
fn without_experts_the_shared_one_remains() {
    let model =
        spec_of(&with(&config(), json!({"num_local_experts": 0, "num_experts_per_tok": 0})));
    assert_eq!(dense(&model, 1).up.weight.tensor.shape, [14, 24]);
    assert!(!needs(&model, "model.layers.0.block_sparse_moe.router.layer.weight"));
}

#[test]
fn positions_are_encoded_if_asked() {
    let model = spec_of(&with(&config(), json!({"position_embedding_type": "rope"})));
    let rope = attention(&model, 2).rope.as_ref().expect("rope");
    assert_eq!(rope.inv_freq.len(), 3);
    let model = spec_of(&with(&config(), json!({"position_embedding_type": null})));
    assert!(attention(&model, 2).rope.is_none());
}

#[test]
fn the_kinds_of_layers_have_two_names() {
    let older = with(
        &without(&config(), "layer_types"),
        json!({"layers_block_type": ["linear_attention", "full_attention", "mamba"]}),
    );
    assert_eq!(spec_of(&older), spec_of(&config()));
    let model = spec_of(&without(&config(), "layer_types"));
    let mamba =
        model.blocks.iter().step_by(2).all(|b| matches!(b.branches[0].mixer, Mixer::Mamba2(_)));
    assert!(mamba);
    let unknown = json!({"layer_types": ["mamba", "conv", "mamba"]});
    assert!(error_of(&with(&config(), unknown)).contains("layer_types[1]` is \"conv\""));
}

#[test]
fn fields_of_absent_kinds_of_layers_do_not_matter() {
    let attention_only = with(
        &config(),
        json!({"layer_types": ["attention", "attention", "attention"], "mamba_n_heads": 7,
               "hidden_act": "gelu"}),
    );
    spec_of(&attention_only);
    let mamba_only = with(
        &config(),
        json!({"layer_types": ["mamba", "mamba", "mamba"], "num_attention_heads": 5}),
    );
    spec_of(&mamba_only);
}

#[test]
fn sizes_must_fit_together() {
    for (patch, part) in [
        (json!({"mamba_n_heads": 7}), "mamba_n_heads = 7"),
        (json!({"mamba_d_head": 9}), "heads * head_dim of Mamba-2 = 54"),
        (json!({"mamba_n_groups": 4}), "the number of groups = 4"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"time_step_limit": [0.0]}), "time_step_limit"),
        (json!({"normalization_function": "layernorm"}), "normalization_function"),
    ] {
        let error = error_of(&with(&config(), patch));
        assert!(error.contains(part), "{error}");
    }
}
