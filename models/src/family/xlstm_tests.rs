use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "xlstm", "vocab_size": 40, "hidden_size": 48, "embedding_dim": 48,
        "num_hidden_layers": 2, "num_blocks": 2, "num_heads": 4, "qk_dim_factor": 0.5,
        "v_dim_factor": 1.0, "ffn_proj_factor": 2.667, "ffn_round_up_to_multiple_of": 64,
        "norm_eps": 1e-5, "eps": 1e-4
    })
}

#[test]
fn a_layer_is_an_mlstm_and_a_feed_forward_network() {
    let model = spec_of(&config());
    assert_eq!((model.blocks.len(), model.head.soft_cap), (4, Some(30.0)));
    let first = mlstm(&model, 0);
    assert_eq!((first.heads, first.qk_head_dim, first.v_head_dim), (4, 6, 12));
    let norm_eps = first.head_norm.as_ref().map(|norm| norm.eps);
    assert_eq!((first.gate_soft_cap, first.eps, norm_eps), (Some(15.0), 1e-4, Some(1e-5)));
    let prefix = "backbone.blocks.1.mlstm_layer";
    assert_eq!(shape(&model, &format!("{prefix}.k.weight")), [24, 48]);
    assert_eq!(shape(&model, &format!("{prefix}.ogate_preact.weight")), [48, 48]);
    assert_eq!(shape(&model, &format!("{prefix}.igate_preact.bias")), [4]);
    assert_eq!(shape(&model, &format!("{prefix}.multihead_norm.weight")), [48]);
    // 48 * 2.667 = 128.016: the fraction does not count, so 128 is not rounded up.
    assert_eq!(shape(&model, "backbone.blocks.1.ffn.proj_up.weight"), [128, 48]);
    assert_eq!(norm_name(&model, 2), "backbone.blocks.1.norm_mlstm.weight");
    assert_eq!(shape(&model, "backbone.out_norm.weight"), [48]);
    assert_eq!(shape(&model, "lm_head.weight"), [40, 48]);
}

#[test]
fn biases_are_on_all_but_the_final_norm() {
    let model = spec_of(&config());
    assert!(!needs(&model, "backbone.blocks.0.norm_mlstm.bias"));
    assert!(!needs(&model, "backbone.blocks.0.mlstm_layer.q.bias"));
    let model = spec_of(&with(&config(), json!({"use_bias": true})));
    for (name, width) in [
        ("norm_mlstm", 48),
        ("norm_ffn", 48),
        ("mlstm_layer.multihead_norm", 48),
        ("mlstm_layer.q", 24),
        ("mlstm_layer.out_proj", 48),
        ("ffn.proj_down", 48),
    ] {
        assert_eq!(shape(&model, &format!("backbone.blocks.0.{name}.bias")), [width]);
    }
    assert!(!needs(&model, "backbone.out_norm.bias"));
    assert!(!needs(&model, "lm_head.bias"));
}

#[test]
fn two_fields_have_second_names() {
    let older = without(&without(&config(), "hidden_size"), "num_hidden_layers");
    assert_eq!(spec_of(&older), spec_of(&config()));
    let newer = without(&without(&config(), "embedding_dim"), "num_blocks");
    assert_eq!(spec_of(&newer), spec_of(&config()));
    let error = error_of(&with(&config(), json!({"embedding_dim": 64})));
    assert!(error.contains("hidden_size = 48, but embedding_dim = 64"), "{error}");
    assert!(error_of(&with(&config(), json!({"num_blocks": 3}))).contains("num_blocks = 3"));
}

#[test]
fn caps_may_be_null() {
    let model =
        spec_of(&with(&config(), json!({"gate_soft_cap": null, "output_logit_soft_cap": 20})));
    assert_eq!((mlstm(&model, 0).gate_soft_cap, model.head.soft_cap), (None, Some(20.0)));
}

#[test]
fn the_head_is_never_tied() {
    let model = spec_of(&with(&config(), json!({"tie_word_embeddings": true})));
    assert_eq!(model, spec_of(&config()));
}

#[test]
fn projections_may_be_rows_of_one_tensor() {
    let fused = json!({"weight_mode": "fused", "use_bias": true});
    let model = spec_of(&with(&config(), fused));
    let layer = mlstm(&model, 0);
    let (qk, v) = (layer.heads * layer.qk_head_dim, layer.heads * layer.v_head_dim);
    let place = |linear: &crate::Linear| (linear.weight.row_offset, linear.weight.rows);
    assert_eq!([&layer.q, &layer.k].map(place), [(0, qk), (qk, qk)]);
    assert_eq!([&layer.v, &layer.ogate].map(place), [(2 * qk, v), (2 * qk + v, v)]);
    assert_eq!(
        [&layer.igate, &layer.fgate].map(place),
        [(0, layer.heads), (layer.heads, layer.heads)]
    );
    let prefix = "backbone.blocks.0.mlstm_layer";
    assert_eq!(shape(&model, &format!("{prefix}.qkv_opreact.bias")), [2 * (qk + v)]);
    assert_eq!(shape(&model, &format!("{prefix}.ifgate_preact.bias")), [2 * layer.heads]);
    assert!(!needs(&model, &format!("{prefix}.q.weight")));
    let ffn = dense(&model, 1);
    let inner = ffn.inner();
    assert_eq!([ffn.gate.as_ref().unwrap(), &ffn.up].map(place), [(0, inner), (inner, inner)]);
    let name = "backbone.blocks.0.ffn.proj_up_gate_z.bias";
    assert_eq!(shape(&model, name), [2 * inner]);
    assert!(needs(&model, "backbone.blocks.0.ffn.proj_down.weight"));
}

#[test]
fn what_is_not_computed_is_refused() {
    for (patch, part) in [
        (json!({"weight_mode": "double"}), "weight_mode"),
        (json!({"add_qk_norm": true}), "add_qk_norm"),
        (json!({"norm_type": "layernorm"}), "norm_type"),
        (json!({"qk_dim_factor": 0.2}), "hidden_size * qk_dim_factor"),
        (json!({"ffn_proj_factor": 1e30}), "ffn_proj_factor"),
        (json!({"gate_soft_cap": 0.0}), "gate_soft_cap"),
    ] {
        let error = error_of(&with(&config(), patch));
        assert!(error.contains(part), "{error}");
    }
}
