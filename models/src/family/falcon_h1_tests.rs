use crate::testing::*;
use crate::{Mamba2Gate, Mixer};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "falcon_h1", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "mamba_d_ssm": 30, "mamba_n_heads": 6, "mamba_d_head": 5, "mamba_n_groups": 3,
        "mamba_d_state": 7, "mamba_d_conv": 3, "rms_norm_eps": 1e-4,
        "embedding_multiplier": 3.0, "lm_head_multiplier": 0.5, "key_multiplier": 0.25,
        "attention_in_multiplier": 2.0, "attention_out_multiplier": 4.0, "ssm_in_multiplier": 5.0,
        "ssm_out_multiplier": 6.0, "mlp_multipliers": [7.0, 8.0],
        "ssm_multipliers": [0.5, 1.0, 2.0, 3.0, 4.0]
    })
}

#[test]
fn attention_and_mamba_are_branches_of_one_block() {
    let model = spec_of(&config());
    assert_eq!(model.blocks.len(), 4);
    let [mamba, attention] = &model.blocks[0].branches[..] else { panic!("not two branches") };
    assert_eq!((mamba.input_scale, mamba.scale), (5.0, 6.0));
    assert_eq!((attention.input_scale, attention.scale), (2.0, 4.0));
    let (Mixer::Mamba2(mamba), Mixer::Attention(attention)) = (&mamba.mixer, &attention.mixer)
    else {
        panic!("other layers")
    };
    assert_eq!(mamba.in_scales, Some([0.5, 1.0, 2.0, 3.0, 4.0]));
    assert_eq!(mamba.gate, Mamba2Gate::Silu);
    assert_eq!((attention.k.scale, attention.v.scale, attention.head_dim), (0.25, 1.0, 6));
    // 30 each of z and x, 3 * 7 each of B and C, 6 of dt.
    assert_eq!(shape(&model, "model.layers.1.mamba.in_proj.weight"), [108, 24]);
    assert!(!needs(&model, "model.layers.1.mamba.norm.weight"));
    let dense = dense(&model, 1);
    assert_eq!(dense.gate.as_ref().map(|gate| gate.scale), Some(7.0));
    assert_eq!(model.blocks[1].branches[0].scale, 8.0);
    assert_eq!((model.embedding.scale, model.head.scale), (3.0, 0.5));
    assert_eq!(shape(&model, "model.final_layernorm.weight"), [24]);
}

#[test]
fn the_norm_is_optional_and_before_or_after_the_gate() {
    let gate = |patch: Value| {
        let model = spec_of(&with(&config(), patch));
        assert_eq!(shape(&model, "model.layers.0.mamba.norm.weight"), [30]);
        mamba2(&model, 0).gate.clone()
    };
    let after = gate(json!({"mamba_rms_norm": true, "mamba_norm_before_gate": false}));
    assert!(matches!(after, Mamba2Gate::NormAfter { groups: 3, .. }), "{after:?}");
    for before in [
        json!({"mamba_rms_norm": true}),
        json!({"mamba_rms_norm": true, "mamba_norm_before_gate": true}),
    ] {
        let before = gate(before);
        assert!(matches!(before, Mamba2Gate::NormBefore { groups: 3, .. }), "{before:?}");
    }
    let neither = spec_of(&with(&config(), json!({"mamba_norm_before_gate": true})));
    assert_eq!(mamba2(&neither, 0).gate, Mamba2Gate::Silu);
}

#[test]
fn the_inner_width_is_given_or_expanded() {
    let expanded = json!({"mamba_d_ssm": null, "mamba_expand": 2, "mamba_d_head": "auto"});
    let model = spec_of(&with(&config(), expanded));
    assert_eq!(shape(&model, "model.layers.0.mamba.out_proj.weight"), [24, 48]);
    let odd = json!({"mamba_d_ssm": 31, "mamba_d_head": "auto"});
    assert!(error_of(&with(&config(), odd)).contains("mamba_n_heads"));
}

#[test]
fn lists_of_factors_have_a_length() {
    let short = error_of(&with(&config(), json!({"ssm_multipliers": [1.0, 2.0]})));
    assert!(short.contains("`ssm_multipliers` has 2 entries; expected 5"), "{short}");
    let odd = error_of(&with(&config(), json!({"mlp_multipliers": [1.0, "2"]})));
    assert!(odd.contains("mlp_multipliers"), "{odd}");
    let plain =
        spec_of(&with(&config(), json!({"ssm_multipliers": null, "mlp_multipliers": null})));
    let Mixer::Mamba2(mamba) = &plain.blocks[0].branches[0].mixer else { panic!("another layer") };
    assert_eq!(mamba.in_scales, None);
}
