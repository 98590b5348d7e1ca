use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "olmo_hybrid", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "linear_key_head_dim": 5, "linear_value_head_dim": 7, "linear_num_key_heads": 2,
        "linear_num_value_heads": 6, "rope_parameters": {"rope_type": "default", "rope_theta": null}
    })
}

fn norms(model: &crate::ModelSpec, block: usize) -> [Option<&str>; 2] {
    let block = &model.blocks[block];
    [&block.norm, &block.post_norm].map(|norm| norm.as_ref().map(|norm| &*norm.weight.name))
}

#[test]
fn norms_come_before_delta_nets_and_after_attention() {
    let model = spec_of(&config());
    let name = |layer, norm: &str| format!("model.layers.{layer}.{norm}_layernorm.weight");
    assert_eq!(norms(&model, 0), [Some(&*name(0, "input")), None]);
    assert_eq!(norms(&model, 1), [Some(&*name(0, "post_attention")), None]);
    assert_eq!(norms(&model, 2), [None, Some(&*name(1, "post_attention"))]);
    assert_eq!(norms(&model, 3), [None, Some(&*name(1, "post_feedforward"))]);
    let norm = attention(&model, 2).qk_norm.as_ref().expect("norms");
    assert!(!norm.per_head);
    assert_eq!((&*norm.q.weight.shape, &*norm.k.weight.shape), (&[24][..], &[12][..]));
}

#[test]
fn queries_keys_and_values_have_their_own_convolutions() {
    let model = spec_of(&config());
    let delta = gated_delta(&model, 0);
    assert_eq!(delta.convs.iter().map(|conv| conv.channels).collect::<Vec<_>>(), [10, 10, 42]);
    assert_eq!((delta.beta_scale, delta.norm.eps), (2.0, 1e-5));
    let model = spec_of(&with(&config(), json!({"linear_allow_neg_eigval": false})));
    assert_eq!(gated_delta(&model, 0).beta_scale, 1.0);
}

#[test]
fn sizes_follow_from_the_heads_of_attention() {
    let mut config = config();
    for key in ["key_head_dim", "value_head_dim", "num_key_heads", "num_value_heads"] {
        config = without(&config, &format!("linear_{key}"));
    }
    let config = with(&config, json!({"num_hidden_layers": 5}));
    let model = spec_of(&config);
    let delta = gated_delta(&model, 0);
    assert_eq!((delta.key_heads, delta.value_heads), (4, 4));
    // 3/4 of 24 over 4 is 4.5.
    assert_eq!((delta.key_dim, delta.value_dim), (4, 8));
    attention(&model, 6);
    gated_delta(&model, 8);
    let error = error_of(&with(&config, json!({"hidden_size": 4})));
    assert!(error.contains("linear_key_head_dim"), "{error}");
}

#[test]
fn queries_are_rotated_unless_theta_is_null() {
    let rope = |patch: Value| {
        let model = spec_of(&with(&without(&config(), "rope_parameters"), patch));
        attention(&model, 2).rope.as_ref().map(|rope| rope.inv_freq[1])
    };
    let default = Some(10000f32.powf(-1.0 / 3.0));
    for (patch, expected) in [
        (json!({}), default),
        (json!({"rope_parameters": null}), default),
        (json!({"rope_theta": null}), None),
        (json!({"rope_parameters": {"rope_theta": null}}), None),
        (json!({"rope_parameters": {"rope_theta": null}, "rope_theta": 10000.0}), None),
        (json!({"rope_parameters": {"rope_type": "default"}, "rope_theta": null}), None),
        (json!({"rope_parameters": {"rope_theta": 10000.0}, "rope_theta": null}), default),
    ] {
        let found = rope(patch.clone());
        let same = match (found, expected) {
            (Some(found), Some(expected)) => (found - expected).abs() < 1e-6,
            (found, expected) => found == expected,
        };
        assert!(same, "{patch}: {found:?}");
    }
}
