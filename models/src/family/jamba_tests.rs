use crate::Mixer;
use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "jamba", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_experts": 3, "num_experts_per_tok": 2, "expert_layer_period": 2,
        "expert_layer_offset": 1, "attn_layer_period": 4, "attn_layer_offset": 2,
        "mamba_d_state": 5, "mamba_d_conv": 3, "mamba_expand": 2, "mamba_dt_rank": "auto"
    })
}

#[test]
fn layers_alternate() {
    let model = spec_of(&config());
    let kinds: Vec<_> =
        model.blocks.iter().map(|block| block.branches[0].mixer.layer().kind()).collect();
    let (dense, moe) = ("dense ffn", "moe");
    assert_eq!(kinds, ["mamba", dense, "mamba", moe, "attention", dense, "mamba", moe]);
    assert!(attention(&model, 4).rope.is_none());
    let router = &crate::testing::moe(&model, 3).router;
    assert_eq!((router.top_k, router.renormalize), (2, false));
    assert_eq!(shape(&model, "model.layers.1.feed_forward.experts.2.down_proj.weight"), [24, 20]);
    let first = mamba(&model, 0);
    assert_eq!((first.inner, first.dt_rank), (48, 2));
    assert_eq!(shape(&model, "model.layers.0.mamba.dt_layernorm.weight"), [2]);
    assert_eq!(shape(&model, "model.layers.0.mamba.c_layernorm.weight"), [5]);
}

#[test]
fn one_expert_is_a_network_for_all() {
    let one = json!({"num_experts": 1, "num_experts_per_tok": 1});
    let model = spec_of(&with(&config(), one));
    let is_dense = |block: usize| matches!(model.blocks[block].branches[0].mixer, Mixer::Dense(_));
    assert!(is_dense(1) && is_dense(3));
    assert_eq!(shape(&model, "model.layers.1.feed_forward.up_proj.weight"), [20, 24]);
}

#[test]
fn offsets_are_below_their_periods() {
    let error = error_of(&with(&config(), json!({"attn_layer_offset": 4})));
    assert!(error.contains("less than attn_layer_period = 4"), "{error}");
}
