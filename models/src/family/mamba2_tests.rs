use crate::Mamba2Gate;
use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "mamba2", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2,
        "num_heads": 6, "head_dim": 8, "n_groups": 3, "state_size": 10, "expand": 2,
        "conv_kernel": 4, "layer_norm_epsilon": 1e-4,
        "time_step_limit": [0.0, {"__float__": "Infinity"}]
    })
}

#[test]
fn a_layer_is_one_block() {
    let model = spec_of(&config());
    assert_eq!((model.blocks.len(), model.max_positions), (2, None));
    let first = mamba2(&model, 0);
    assert_eq!((first.heads, first.head_dim, first.groups, first.state), (6, 8, 3, 10));
    // 48 each of z and x, 3 * 10 each of B and C, 6 of dt.
    assert_eq!(shape(&model, "backbone.layers.1.mixer.in_proj.weight"), [162, 24]);
    assert_eq!(shape(&model, "backbone.layers.1.mixer.conv1d.weight"), [108, 1, 4]);
    assert_eq!(shape(&model, "backbone.layers.1.mixer.conv1d.bias"), [108]);
    for name in ["A_log", "D", "dt_bias"] {
        assert_eq!(shape(&model, &format!("backbone.layers.1.mixer.{name}")), [6]);
    }
    assert_eq!(shape(&model, "lm_head.weight"), [40, 24]);
}

#[test]
fn each_group_is_normed_behind_the_gate() {
    let model = spec_of(&config());
    let Mamba2Gate::NormAfter { norm, groups } = &mamba2(&model, 0).gate else { panic!("no norm") };
    assert_eq!((*groups, norm.eps, norm.weight.shape.as_slice()), (3, 1e-4, [48].as_slice()));
    let older = json!({"norm_before_gate": true, "rms_norm": true});
    assert_eq!(spec_of(&with(&config(), older)), model);
}

#[test]
fn bounds_on_the_step_size() {
    let limit = |value| mamba2(&spec_of(&with(&config(), value)), 0).dt_limit;
    assert_eq!(limit(json!({})), (0.0, f32::INFINITY));
    assert_eq!(limit(json!({"time_step_limit": null})), (0.0, f32::INFINITY));
    assert_eq!(limit(json!({"time_step_limit": [0.05, 0.3]})), (0.05, 0.3));
    for bad in [
        json!([0.3, 0.1]),
        json!([0.0]),
        json!([0.0, "inf"]),
        json!([0.0, {"__float__": "NaN"}]),
        json!([{"__float__": "Infinity"}, {"__float__": "Infinity"}]),
        json!(1.0),
    ] {
        let error = error_of(&with(&config(), json!({"time_step_limit": bad})));
        assert!(error.contains("time_step_limit"), "{error}");
    }
}

#[test]
fn sizes_must_fit_together() {
    for (patch, part) in [
        (json!({"num_heads": 5}), "heads * head_dim of Mamba-2 = 40"),
        (json!({"n_groups": 4}), "the number of groups = 4"),
        (json!({"head_dim": 16777216, "num_heads": 16384}), "16384 * 16777216"),
        (json!({"expand": 1e9}), "expand"),
    ] {
        let error = error_of(&with(&config(), patch));
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn biases() {
    let model = spec_of(&with(&config(), json!({"use_bias": true, "use_conv_bias": false})));
    assert_eq!(shape(&model, "backbone.layers.0.mixer.in_proj.bias"), [162]);
    assert_eq!(shape(&model, "backbone.layers.0.mixer.out_proj.bias"), [24]);
    assert!(!needs(&model, "backbone.layers.0.mixer.conv1d.bias"));
}
