use crate::DeltaInputs;
use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "qwen3_5_text", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "linear_key_head_dim": 5, "linear_value_head_dim": 7, "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7,
            "mrope_section": [1, 0, 0], "mrope_interleaved": true}
    })
}

#[test]
fn projections_are_separate_and_networks_dense() {
    let model = spec_of(&config());
    let kinds: Vec<_> =
        model.blocks.iter().map(|block| block.branches[0].mixer.layer().kind()).collect();
    let (delta, dense) = ("gated delta", "dense ffn");
    assert_eq!(kinds, [delta, dense, delta, dense, delta, dense, "attention", dense]);
    let DeltaInputs::Separate(inputs) = &gated_delta(&model, 0).inputs else { panic!("separate") };
    assert_eq!((inputs.k.weight.row_offset, inputs.v.weight.row_offset), (10, 20));
    let shape = |name: &str| shape(&model, &format!("model.layers.0.linear_attn.{name}.weight"));
    assert_eq!(shape("in_proj_qkv"), [62, 24]);
    assert_eq!(shape("in_proj_z"), [42, 24]);
    assert_eq!(shape("in_proj_a"), [6, 24]);
    assert_eq!(shape("in_proj_b"), [6, 24]);
}

#[test]
fn the_text_part_of_a_larger_model_is_found() {
    let whole = json!({"model_type": "qwen3_5", "text_config": config(), "vision_config": {}});
    let parsed = crate::Config::parse(&whole.to_string()).unwrap();
    let part = parsed.language();
    assert_eq!(part.place(), Some("text_config"));
    assert_eq!(crate::spec(&part).unwrap(), spec_of(&config()));
}
