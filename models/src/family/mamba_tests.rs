use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "mamba", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2,
        "state_size": 5, "expand": 2, "conv_kernel": 3, "time_step_rank": "auto"
    })
}

#[test]
fn a_layer_is_one_block() {
    let model = spec_of(&config());
    assert_eq!((model.blocks.len(), model.max_positions), (2, None));
    let first = mamba(&model, 0);
    assert_eq!((first.inner, first.state, first.dt_rank), (48, 5, 2));
    assert_eq!((first.conv.channels, first.conv.kernel), (48, 3));
    assert_eq!(first.bcdt_norm, None);
    let prefix = "backbone.layers.1.mixer";
    assert_eq!(shape(&model, &format!("{prefix}.in_proj.weight")), [96, 24]);
    assert_eq!(shape(&model, &format!("{prefix}.x_proj.weight")), [12, 48]);
    assert_eq!(shape(&model, &format!("{prefix}.dt_proj.weight")), [48, 2]);
    assert_eq!(shape(&model, &format!("{prefix}.dt_proj.bias")), [48]);
    assert_eq!(shape(&model, &format!("{prefix}.A_log")), [48, 5]);
    assert_eq!(shape(&model, "backbone.layers.1.norm.weight"), [24]);
    assert_eq!(shape(&model, "backbone.norm_f.weight"), [24]);
    assert_eq!(shape(&model, "backbone.embeddings.weight"), [40, 24]);
    assert!(!needs(&model, "lm_head.weight"), "tied by default");
}

#[test]
fn biases() {
    let model = spec_of(&config());
    assert!(needs(&model, "backbone.layers.0.mixer.conv1d.bias"));
    assert!(!needs(&model, "backbone.layers.0.mixer.in_proj.bias"));
    let model = spec_of(&with(&config(), json!({"use_bias": true, "use_conv_bias": false})));
    assert!(!needs(&model, "backbone.layers.0.mixer.conv1d.bias"));
    assert!(!needs(&model, "backbone.layers.0.mixer.x_proj.bias"));
    assert_eq!(shape(&model, "backbone.layers.0.mixer.in_proj.bias"), [96]);
    assert_eq!(shape(&model, "backbone.layers.0.mixer.out_proj.bias"), [24]);
}

#[test]
fn a_width_overrules_the_factor() {
    let patch = json!({"expand": 16, "intermediate_size": 40, "time_step_rank": 7});
    let model = spec_of(&with(&config(), patch));
    assert_eq!((mamba(&model, 0).inner, mamba(&model, 0).dt_rank), (40, 7));
}

#[test]
fn the_convolution_takes_silu() {
    assert!(error_of(&with(&config(), json!({"hidden_act": "relu"}))).contains("hidden_act"));
    assert!(error_of(&with(&config(), json!({"expand": 0}))).contains("expand"));
    assert!(error_of(&with(&config(), json!({"time_step_rank": "many"}))).contains("step_rank"));
}
