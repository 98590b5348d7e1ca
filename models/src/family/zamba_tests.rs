use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "zamba", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "hybrid", "mamba"],
        "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_dt_rank": 3, "mamba_d_state": 5
    })
}

#[test]
fn heads_of_mamba_have_their_own_steps() {
    let model = spec_of(&config());
    let mamba = mamba(&model, 0);
    assert_eq!((mamba.heads(), mamba.inner, mamba.alternating), (2, 48, true));
    assert_eq!(mamba.x_proj[1].weight.row_offset, 13);
    assert_eq!(mamba.dt_proj[1].weight.row_offset, 24);
    let shape = |name: &str| shape(&model, &format!("model.layers.0.mamba.{name}"));
    assert_eq!(shape("x_proj_weight"), [2, 13, 24]);
    assert_eq!(shape("dt_proj_weight"), [2, 24, 3]);
    assert_eq!(shape("dt_proj_bias"), [2, 24]);
    assert_eq!(shape("A_log"), [2, 24, 5]);
    assert_eq!(shape("D"), [2, 24]);
}

#[test]
fn all_hybrid_layers_share_one_block() {
    let model = spec_of(&config());
    let name = |block: usize| &*attention(&model, block).q[0].weight.tensor.name;
    assert_eq!(name(1), "model.layers.1.shared_transf.self_attn.q_proj.weight");
    assert_eq!(name(1), name(4));
    let first = attention(&model, 1);
    assert_eq!((first.head_dim, first.kv_heads, first.inputs()), (12, 2, 48));
    assert_eq!(
        dense(&model, 5).out.as_ref().expect("linear").weight.tensor.name,
        "model.layers.2.linear.weight"
    );
    assert!(dense(&model, 5).adapter.is_none());
}

#[test]
fn without_a_tied_head_nothing_is_shared() {
    let model = spec_of(&with(&config(), json!({"tie_word_embeddings": false})));
    let name = |block: usize| &*attention(&model, block).k.weight.tensor.name;
    assert_eq!(name(1), "model.layers.1.shared_transf.self_attn.k_proj.weight");
    assert_eq!(name(4), "model.layers.2.shared_transf.self_attn.k_proj.weight");
    assert!(!model.ignored.iter().any(|pattern| pattern.contains("shared_transf")));
}

#[test]
fn the_default_layers() {
    let config = without(&with(&config(), json!({"num_hidden_layers": 20})), "layers_block_type");
    let model = spec_of(&config);
    let hybrid: Vec<usize> = model
        .blocks
        .chunk_by(|a, b| a.layer == b.layer)
        .filter(|blocks| blocks.len() == 3)
        .map(|blocks| blocks[0].layer)
        .collect();
    // The third, then every sixth.
    assert_eq!(hybrid, [2, 7, 13, 19]);
    for (patch, part) in [
        (json!({"n_mamba_heads": 5}), "n_mamba_heads = 5"),
        (json!({"attention_hidden_size": 24}), "attention_hidden_size = 24"),
        (json!({"hidden_mamba_act": "gelu"}), "hidden_mamba_act"),
    ] {
        let error = error_of(&with(&config, patch));
        assert!(error.contains(part), "{error}");
    }
}
