use crate::testing::*;
use crate::{Mixer, Score, mlx_fields};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "lfm2_moe", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 30,
        "moe_intermediate_size": 7, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 1, "layer_types": ["conv", "full_attention", "conv"],
        "num_dense_layers": 1, "num_experts": 5, "num_experts_per_tok": 2,
        "routed_scaling_factor": 1.5
    })
}

#[test]
fn the_first_layers_are_dense() {
    let model = spec_of(&config());
    assert_eq!(dense(&model, 1).inner(), 30);
    assert_eq!(shape(&model, "model.layers.0.feed_forward.w1.weight"), [30, 24]);
    let moe = moe(&model, 3);
    assert_eq!((moe.experts.len(), moe.experts[0].inner()), (5, 7));
    assert_eq!(shape(&model, "model.layers.1.feed_forward.experts.4.w2.weight"), [24, 7]);
    assert_eq!(shape(&model, "model.layers.2.feed_forward.gate.weight"), [5, 24]);
    assert_eq!(shape(&model, "model.layers.2.feed_forward.expert_bias"), [5]);
    let is_moe = |config: &Value| -> Vec<bool> {
        let model = spec_of(config);
        let mixers = model.blocks.iter().skip(1).step_by(2).map(|block| &block.branches[0].mixer);
        mixers.map(|mixer| matches!(mixer, Mixer::Moe(_))).collect()
    };
    assert_eq!(is_moe(&with(&config(), json!({"num_dense_layers": 0}))), [true; 3]);
    assert_eq!(is_moe(&with(&config(), json!({"num_dense_layers": 9}))), [false; 3]);
    assert_eq!(is_moe(&without(&config(), "num_dense_layers")), [false, false, true]);
}

#[test]
fn experts_are_chosen_by_biased_sigmoids() {
    let model = spec_of(&config());
    let router = &moe(&model, 3).router;
    assert_eq!((router.score, router.top_k, router.renormalize), (Score::Sigmoid, 2, true));
    assert_eq!((router.epsilon, router.scale), (1e-6, 1.5));
    assert!(router.selection_bias.is_some());
    let plain = json!({"use_expert_bias": false, "norm_topk_prob": false});
    let model = spec_of(&with(&config(), plain));
    let router = &moe(&model, 3).router;
    assert!(router.selection_bias.is_none() && !router.renormalize);
    let error = error_of(&with(&config(), json!({"num_experts_per_tok": 6})));
    assert!(error.contains("num_experts_per_tok"), "{error}");
}

#[test]
fn the_kinds_of_layers_have_no_default() {
    let none = without(&config(), "layer_types");
    for config in [&none, &with(&none, json!({"layer_types": null}))] {
        assert!(error_of(config).contains("layer_types"), "{}", error_of(config));
    }
    let older = with(&none, json!({"full_attn_idxs": [1]}));
    assert_eq!(spec_of(&older), spec_of(&config()));
}

#[test]
fn what_mlx_lm_demands_is_added() {
    let fields = mlx_fields(&crate::Config::parse(&config().to_string()).unwrap());
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["use_expert_bias", "norm_topk_prob", "conv_bias", "conv_L_cache"]);
}
