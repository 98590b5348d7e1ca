use crate::testing::*;
use crate::{Mixer, ModelSpec};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "lfm3", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 30,
        "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8,
        "layer_types": ["conv", "full_attention", "sliding_attention"], "sliding_window": 5
    })
}

fn post_norms(model: &ModelSpec) -> Vec<&str> {
    let norms = model.blocks.iter().filter_map(|block| block.post_norm.as_ref());
    norms.map(|norm| norm.weight.name.as_str()).collect()
}

#[test]
fn norms_on_both_sides_and_a_gate_for_each_head() {
    let model = spec_of(&config());
    assert_eq!(short_conv(&model, 0).conv.kernel, 7);
    let norms = post_norms(&model);
    assert_eq!(norms.len(), 6);
    assert_eq!(norms[2], "model.layers.1.post_operator_norm.weight");
    assert_eq!(norms[5], "model.layers.2.post_ffn_norm.weight");
    let full = attention(&model, 2);
    assert_eq!((full.window, full.gate_width()), (None, 3));
    assert_eq!(attention(&model, 4).window, Some(5));
    assert_eq!(shape(&model, "model.layers.1.self_attn.gate_proj.weight"), [3, 24]);
    assert_eq!(shape(&model, "model.layers.1.self_attn.o_proj.weight"), [24, 24]);
    assert_eq!(shape(&model, "model.layers.2.self_attn.k_norm.weight"), [8]);
    assert_eq!(shape(&model, "model.layers.2.feed_forward.w3.weight"), [30, 24]);
    assert_eq!(model.head.norm.weight.name, "model.embedding_norm.weight");
}

#[test]
fn norms_gates_and_biases_by_choice() {
    let other = json!({"use_sandwich_norm": false, "use_attention_gate": false,
        "attention_bias": true, "conv_bias": true});
    let model = spec_of(&with(&config(), other));
    assert!(post_norms(&model).is_empty());
    assert_eq!(attention(&model, 2).gate_width(), 0);
    assert!(needs(&model, "model.layers.1.self_attn.o_proj.bias"));
    assert!(needs(&model, "model.layers.0.conv.conv.bias"));
}

#[test]
fn each_kind_of_attention_has_rotary_parameters_of_its_own() {
    let model = spec_of(&config());
    let frequencies = |model: &ModelSpec, block: usize| {
        attention(model, block).rope.as_ref().expect("rope").inv_freq.clone()
    };
    // By default half of the pairs turn with full attention.
    let full = frequencies(&model, 2);
    assert_eq!((full[0], &full[2..]), (1.0, &[0.0, 0.0][..]));
    assert!((full[1] - 1e6f32.powf(-0.25)).abs() < 1e-8);
    let sliding = frequencies(&model, 4);
    assert!((sliding[3] - 1e4f32.powf(-0.75)).abs() < 1e-9);
    let own = json!({"rope_parameters": {
        "full_attention": {"rope_type": "proportional", "rope_theta": 16.0,
            "partial_rotary_factor": 0.8, "factor": 2.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 81.0}}});
    let model = spec_of(&with(&config(), own));
    // 0.8 of 4 pairs are 3 whole ones.
    assert_eq!(frequencies(&model, 2), [0.5, 0.25, 0.125, 0.0]);
    assert!((frequencies(&model, 4)[2] - 1.0 / 9.0).abs() < 1e-7);
    // A base alone counts for no kind.
    assert_eq!(spec_of(&with(&config(), json!({"rope_theta": 5.0}))), spec_of(&config()));
    for (parameters, part) in [
        (json!({"rope_type": "default", "rope_theta": 1e4}), "rope_parameters.full_attention"),
        (json!({"full_attention": {"rope_type": "default"}}), "rope_parameters.sliding_attention"),
        (json!({"full_attention": {"rope_type": "axial"}, "sliding_attention": {}}), "rope_type"),
    ] {
        let error = error_of(&with(&config(), json!({ "rope_parameters": parameters })));
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_kinds_of_layers_have_a_default() {
    let model = spec_of(&with(&without(&config(), "layer_types"), json!({"num_hidden_layers": 6})));
    let kinds = model.blocks.iter().step_by(2).map(|block| match &block.branches[0].mixer {
        Mixer::ShortConv(_) => 'c',
        Mixer::Attention(attention) if attention.window.is_some() => 's',
        Mixer::Attention(_) => 'f',
        _ => '?',
    });
    assert_eq!(kinds.collect::<String>(), "ccfcsc");
    for (patch, part) in [
        (json!({"sliding_window": null}), "sliding_window"),
        (json!({"layer_types": ["conv", "mamba", "conv"]}), "layer_types[1]"),
        (json!({"head_dim": 7}), "head_dim"),
    ] {
        let error = error_of(&with(&config(), patch));
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_second_name_of_epsilon_overrules_the_first() {
    let model = spec_of(&with(&config(), json!({"norm_eps": 1e-3, "rms_norm_eps": 1e-4})));
    assert_eq!(model.head.norm.eps, 1e-4);
    let model = spec_of(&with(&config(), json!({"norm_eps": 1e-3, "rms_norm_eps": null})));
    assert_eq!(model.head.norm.eps, 1e-3);
}
