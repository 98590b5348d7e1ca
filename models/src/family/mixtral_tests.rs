use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "mixtral", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_local_experts": 3, "num_experts_per_tok": 2
    })
}

#[test]
fn experts_are_tensors_of_their_own() {
    let model = spec_of(&config());
    let moe = moe(&model, 3);
    assert_eq!((moe.experts.len(), moe.router.top_k, moe.router.renormalize), (3, 2, true));
    assert!(moe.shared.is_none());
    let prefix = "model.layers.1.block_sparse_moe";
    let names = [moe.experts[2].gate.as_ref().unwrap(), &moe.experts[2].up, &moe.experts[2].down]
        .map(|linear| linear.weight.tensor.name.clone());
    assert_eq!(names, ["w1", "w3", "w2"].map(|w| format!("{prefix}.experts.2.{w}.weight")));
    assert_eq!(shape(&model, &format!("{prefix}.gate.weight")), [3, 24]);
    assert_eq!(shape(&model, &format!("{prefix}.experts.0.w1.weight")), [20, 24]);
    assert_eq!(shape(&model, &format!("{prefix}.experts.0.w2.weight")), [24, 20]);
}

#[test]
fn there_is_no_window_and_a_wide_rotary_base_by_default() {
    let model = spec_of(&config());
    assert_eq!(attention(&model, 0).window, None);
    let same = with(&config(), json!({"rope_theta": 1e6, "rms_norm_eps": 1e-5}));
    assert_eq!(spec_of(&same), model);
    let model = spec_of(&with(&config(), json!({"sliding_window": 9})));
    assert_eq!(attention(&model, 2).window, Some(9));
}

#[test]
fn no_more_experts_can_be_used_than_there_are() {
    let error = error_of(&with(&config(), json!({"num_experts_per_tok": 4})));
    assert!(error.contains("`num_experts_per_tok` is 4"), "{error}");
    for patch in [json!({"num_experts_per_tok": 0}), json!({"num_local_experts": 0})] {
        error_of(&with(&config(), patch));
    }
    let error = error_of(&with(&config(), json!({"num_experts": 4})));
    assert!(error.contains("num_local_experts = 3, but num_experts = 4"), "{error}");
}
