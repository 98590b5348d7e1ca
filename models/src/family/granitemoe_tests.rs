use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "granitemoe", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 5,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_local_experts": 3, "num_experts_per_tok": 2, "embedding_multiplier": 12.0,
        "attention_multiplier": 0.25, "residual_multiplier": 0.22, "logits_scaling": 8.0,
        "attention_bias": true, "tie_word_embeddings": true
    })
}

#[test]
fn granite_with_experts() {
    let model = spec_of(&config());
    let first = attention(&model, 0);
    assert_eq!(first.rope.as_ref().expect("rope").inv_freq.len(), 3);
    assert_eq!(first.scale, 0.25);
    assert!(needs(&model, "model.layers.1.self_attn.o_proj.bias"));
    assert_eq!((model.embedding.scale, model.head.scale), (12.0, 0.125));
    assert!(model.blocks.iter().all(|block| block.residual_scale == 0.22));
    let experts = moe(&model, 3);
    assert_eq!((experts.router.top_k, experts.router.renormalize), (2, true));
    assert!(experts.shared.is_none());
    let prefix = "model.layers.1.block_sparse_moe";
    assert_eq!(shape(&model, &format!("{prefix}.input_linear.weight")), [3, 10, 24]);
    assert_eq!(shape(&model, &format!("{prefix}.output_linear.weight")), [3, 24, 5]);
    assert_eq!(shape(&model, &format!("{prefix}.router.layer.weight")), [3, 24]);
}

#[test]
fn the_width_of_a_shared_expert_is_another_familys() {
    let other = json!({"shared_intermediate_size": 7});
    assert_eq!(spec_of(&with(&config(), other)), spec_of(&config()));
}

#[test]
fn a_shared_expert_where_it_has_a_width() {
    let shared = |width: Value| {
        let own = json!({"model_type": "granitemoeshared", "shared_intermediate_size": width});
        spec_of(&with(&config(), own))
    };
    let model = shared(json!(7));
    let expert = moe(&model, 1).shared.as_ref().expect("a shared expert");
    assert_eq!(expert.inner(), 7);
    assert!(moe(&model, 1).shared_gate.is_none());
    assert_eq!(shape(&model, "model.layers.0.shared_mlp.input_linear.weight"), [14, 24]);
    assert_eq!(shape(&model, "model.layers.0.shared_mlp.output_linear.weight"), [24, 7]);
    assert!(moe(&shared(json!(0)), 1).shared.is_none());
    assert!(moe(&shared(json!(null)), 1).shared.is_none());
}

#[test]
fn what_is_not_computed_is_refused() {
    for (patch, part) in [
        (json!({"sliding_window": 8}), "sliding_window"),
        (json!({"num_local_experts": 0}), "num_local_experts"),
        (json!({"num_experts_per_tok": 4}), "num_experts_per_tok"),
    ] {
        let error = error_of(&with(&config(), patch));
        assert!(error.contains(part), "{error}");
    }
}
