use serde_json::{Value, json};

use super::*;
use crate::testing::*;
use crate::{Mixer, Tie};

fn config() -> Value {
    json!({
        "model_type": "falcon_h1", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "mamba_d_ssm": 30, "mamba_n_heads": 6, "mamba_d_head": 5, "mamba_n_groups": 3,
        "mamba_d_state": 7, "mamba_d_conv": 3, "embedding_multiplier": 4.0,
        "lm_head_multiplier": 0.5, "key_multiplier": 0.25, "attention_in_multiplier": 2.0,
        "attention_out_multiplier": 4.0, "ssm_in_multiplier": 5.0, "ssm_out_multiplier": 6.0,
        "mlp_multipliers": [7.0, 8.0], "ssm_multipliers": [0.5, 1.0, 2.0, 3.0, 4.0]
    })
}

/// Channels of the convolution: 30 of x, 3 * 7 each of B and C.
const CHANNELS: usize = 72;

/// The spec fitted to a checkpoint with convolutions of these shapes.
fn fitted(config: &Value, first: [usize; 3], second: [usize; 3]) -> Result<ModelSpec, FoldError> {
    let mut spec = spec_of(config);
    spec.settle_tie(Tie::Same);
    spec.fit_factors(|name| match name {
        "model.layers.0.mamba.conv1d.weight" => Some(&first),
        "model.layers.1.mamba.conv1d.weight" => Some(&second),
        _ => None,
    })?;
    Ok(spec)
}

fn converted(config: &Value) -> Result<ModelSpec, FoldError> {
    fitted(config, [CHANNELS, 3, 1], [CHANNELS, 3, 1])
}

#[test]
fn factors_in_the_weights_are_taken_out() {
    let model = converted(&config()).unwrap();
    assert!(model.is_folded());
    assert_eq!((model.embedding.scale, model.head.scale), (1.0, 1.0));
    for block in model.blocks.iter().flat_map(|block| &block.branches) {
        assert_eq!((block.input_scale, block.scale), (1.0, 1.0));
        match &block.mixer {
            Mixer::Mamba2(mamba) => assert_eq!(mamba.in_scales, None),
            // mlx-lm has a factor for queries and keys in their weights, but none in those of values, nor that of keys.
            Mixer::Attention(attention) => {
                let scales = [attention.q[0].scale, attention.k.scale, attention.v.scale];
                assert_eq!(scales, [1.0, 0.25, 2.0]);
            }
            Mixer::Dense(dense) => assert_eq!(dense.gate.as_ref().unwrap().scale, 1.0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(shape(&model, "model.layers.1.mamba.conv1d.weight"), [CHANNELS, 3, 1]);
}

#[test]
fn a_tied_head_has_the_factor_of_the_embedding() {
    let tied = with(&config(), json!({"tie_word_embeddings": true}));
    let model = converted(&tied).unwrap();
    assert_eq!((model.embedding.scale, model.head.scale), (1.0, 0.125));
    let error = converted(&with(&tied, json!({"embedding_multiplier": 0.0}))).unwrap_err();
    assert_eq!(error, FoldError::Lost { tensor: "model.embed_tokens.weight".into() });
}

#[test]
fn other_checkpoints_keep_their_factors() {
    let plain = spec_of(&config());
    assert_eq!(fitted(&config(), [CHANNELS, 1, 3], [CHANNELS, 1, 3]), Ok(plain));
    // mlx-lm multiplies nothing where there is one tap.
    let one_tap = with(&config(), json!({"mamba_d_conv": 1}));
    let model = fitted(&one_tap, [CHANNELS, 1, 1], [CHANNELS, 1, 1]).unwrap();
    assert_eq!((model.is_folded(), model), (false, spec_of(&one_tap)));
    // Other families have no such factors.
    let mut granite = spec_of(&json!({
        "model_type": "mamba2", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 1,
        "num_heads": 6, "head_dim": 8, "state_size": 7, "n_groups": 1
    }));
    let before = granite.clone();
    granite.fold().unwrap();
    assert_eq!(granite, before);
}

#[test]
fn convolutions_of_both_kinds_are_refused() {
    let error = fitted(&config(), [CHANNELS, 1, 3], [CHANNELS, 3, 1]).unwrap_err();
    let name = |layer| format!("model.layers.{layer}.mamba.conv1d.weight");
    assert_eq!(error, FoldError::Mixed { converted: name(1), other: name(0) });
}

#[test]
fn biases_without_their_factor_are_refused() {
    let ones = json!({
        "attention_in_multiplier": 1.0, "attention_out_multiplier": 1.0, "ssm_out_multiplier": 1.0,
        "mlp_multipliers": [1.0, 1.0], "ssm_multipliers": [1.0, 1.0, 1.0, 1.0, 1.0],
        "attention_bias": true, "mlp_bias": true, "mamba_proj_bias": true, "projectors_bias": true
    });
    let plain = with(&config(), ones);
    // Factors on inputs, on keys, and on the embedding and the head apply to no bias here.
    assert!(converted(&plain).unwrap().is_folded());
    for (field, value, module) in [
        ("attention_in_multiplier", json!(2.0), "self_attn.v_proj"),
        ("attention_out_multiplier", json!(2.0), "self_attn.o_proj"),
        ("ssm_out_multiplier", json!(2.0), "mamba.out_proj"),
        ("ssm_multipliers", json!([1.0, 1.0, 1.0, 1.0, 2.0]), "mamba.in_proj"),
        ("mlp_multipliers", json!([2.0, 1.0]), "feed_forward.gate_proj"),
        ("mlp_multipliers", json!([1.0, 2.0]), "feed_forward.down_proj"),
    ] {
        let error = converted(&with(&plain, json!({field: value}))).unwrap_err();
        let tensor = |part| format!("model.layers.0.{module}.{part}");
        assert_eq!(error, FoldError::Bias { weight: tensor("weight"), bias: tensor("bias") });
    }
}

#[test]
fn folding_twice_is_folding_once() {
    let mut model = converted(&config()).unwrap();
    let before = model.clone();
    model.fold().unwrap();
    assert_eq!(model, before);
}
