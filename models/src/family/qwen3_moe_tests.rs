use crate::Mixer;
use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "qwen3_moe", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "moe_intermediate_size": 6, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "num_experts": 3, "num_experts_per_tok": 2
    })
}

/// The indices of layers with experts.
fn sparse(config: &Value) -> Vec<usize> {
    let model = spec_of(config);
    let blocks = model.blocks.iter().filter(|b| matches!(b.branches[0].mixer, Mixer::Moe(_)));
    blocks.map(|block| block.layer).collect()
}

#[test]
fn experts_and_head_norms() {
    let model = spec_of(&config());
    let first = moe(&model, 1);
    assert_eq!((first.experts.len(), first.top_k, first.renormalize), (3, 2, false));
    assert_eq!(shape(&model, "model.layers.0.mlp.gate.weight"), [3, 24]);
    assert_eq!(shape(&model, "model.layers.3.mlp.experts.2.gate_proj.weight"), [6, 24]);
    assert_eq!(shape(&model, "model.layers.3.mlp.experts.2.down_proj.weight"), [24, 6]);
    assert_eq!(shape(&model, "model.layers.3.self_attn.k_norm.weight"), [8]);
    let model = spec_of(&with(&config(), json!({"norm_topk_prob": true})));
    assert!(moe(&model, 1).renormalize);
}

#[test]
fn some_layers_are_dense() {
    assert_eq!(sparse(&config()), [0, 1, 2, 3]);
    let step = with(&config(), json!({"decoder_sparse_step": 2}));
    assert_eq!(sparse(&step), [1, 3]);
    assert_eq!(sparse(&with(&step, json!({"mlp_only_layers": [3, 99]}))), [1]);
    let none = with(&config(), json!({"num_experts": 0}));
    assert_eq!(sparse(&none), [0; 0]);
    let model = spec_of(&none);
    assert_eq!(shape(&model, "model.layers.0.mlp.gate_proj.weight"), [20, 24]);
    assert!(error_of(&with(&step, json!({"decoder_sparse_step": 0}))).contains("sparse_step"));
}

#[test]
fn the_number_of_experts_has_two_names() {
    let older = with(&without(&config(), "num_experts"), json!({"num_local_experts": 3}));
    assert_eq!(spec_of(&older), spec_of(&config()));
}

#[test]
fn heads_are_not_128_wide_by_default() {
    let model = spec_of(&without(&config(), "head_dim"));
    assert_eq!(attention(&model, 0).head_dim, 6);
}

#[test]
fn a_window_is_in_every_layer_if_switched_on() {
    let off = with(&config(), json!({"sliding_window": 7, "max_window_layers": 2}));
    let on = with(&off, json!({"use_sliding_window": true}));
    assert_eq!(attention(&spec_of(&off), 0).window, None);
    let model = spec_of(&on);
    assert_eq!([0, 6].map(|block| attention(&model, block).window), [Some(7); 2]);
}
