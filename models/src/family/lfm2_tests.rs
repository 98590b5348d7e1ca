use crate::testing::*;
use crate::{Mixer, mlx_fields};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "lfm2", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 60,
        "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
        "layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 8
    })
}

fn kinds(config: &Value) -> String {
    let model = spec_of(config);
    let kinds = model.blocks.iter().map(|block| match block.branches[0].mixer {
        Mixer::Attention(_) => 'a',
        Mixer::ShortConv(_) => 'c',
        Mixer::Dense(_) => 'd',
        _ => '?',
    });
    kinds.collect()
}

fn width(patch: Value) -> usize {
    dense(&spec_of(&with(&config(), patch)), 1).inner()
}

#[test]
fn tensors_and_shapes() {
    let model = spec_of(&config());
    let conv = short_conv(&model, 0);
    assert_eq!((conv.conv.kernel, conv.conv.channels), (3, 24));
    assert!(conv.in_proj.bias.is_none() && conv.conv.bias.is_none());
    assert_eq!(shape(&model, "model.layers.0.conv.in_proj.weight"), [72, 24]);
    assert_eq!(shape(&model, "model.layers.0.conv.conv.weight"), [24, 1, 3]);
    assert_eq!(shape(&model, "model.layers.0.conv.out_proj.weight"), [24, 24]);
    assert_eq!(shape(&model, "model.layers.1.self_attn.k_proj.weight"), [8, 24]);
    assert_eq!(shape(&model, "model.layers.1.self_attn.out_proj.weight"), [24, 24]);
    assert_eq!(shape(&model, "model.layers.1.self_attn.q_layernorm.weight"), [8]);
    assert_eq!(shape(&model, "model.layers.2.feed_forward.w1.weight"), [40, 24]);
    assert_eq!(shape(&model, "model.layers.2.feed_forward.w2.weight"), [24, 40]);
    assert_eq!(norm_name(&model, 0), "model.layers.0.operator_norm.weight");
    assert_eq!(norm_name(&model, 1), "model.layers.0.ffn_norm.weight");
    assert_eq!(model.head.norm.weight.name, "model.embedding_norm.weight");
    assert_eq!(model.head.linear.weight, model.embedding.table);
}

#[test]
fn layers_by_their_kinds_or_by_indices() {
    assert_eq!(kinds(&config()), "cdadcd");
    let older = without(&config(), "layer_types");
    assert_eq!(kinds(&older), "adadad", "without any list, all is attention");
    assert_eq!(kinds(&with(&older, json!({"full_attn_idxs": [0, 2, 9]}))), "adcdad");
    assert_eq!(kinds(&with(&older, json!({"full_attn_idxs": []}))), "cdcdcd");
    let both = with(&config(), json!({"full_attn_idxs": [0]}));
    assert_eq!(kinds(&both), "cdadcd", "the list of kinds overrules that of indices");
    let other = json!({"layer_types": ["conv", "mamba", "conv"]});
    assert!(error_of(&with(&config(), other)).contains("layer_types[1]"));
    let short = json!({"layer_types": ["conv"]});
    assert!(error_of(&with(&config(), short)).contains("layer_types"));
}

#[test]
fn the_width_of_feed_forward_networks() {
    assert_eq!(width(json!({})), 40);
    assert_eq!(width(json!({"block_auto_adjust_ff_dim": false})), 60);
    assert_eq!(width(json!({"block_ff_dim": 90})), 64, "60 rounded up");
    assert_eq!(width(json!({"block_ff_dim": 91, "block_auto_adjust_ff_dim": false})), 91);
    assert_eq!(width(json!({"block_ffn_dim_multiplier": 1.3})), 56);
    assert_eq!(width(json!({"block_ffn_dim_multiplier": 1.3, "block_multiple_of": 5})), 55);
    assert_eq!(width(json!({"block_ffn_dim_multiplier": null, "intermediate_size": 71})), 47);
    // LFM2-1.2B.
    let real = json!({"block_ff_dim": 12288, "block_multiple_of": 256});
    assert_eq!(width(real), 8192);
    for patch in [
        json!({"intermediate_size": 1, "block_ffn_dim_multiplier": 1e-3}),
        json!({"block_ffn_dim_multiplier": 1e30}),
        json!({"block_multiple_of": 1 << 20, "block_ff_dim": 1 << 20, "block_ffn_dim_multiplier": 9.0}),
    ] {
        assert!(error_of(&with(&config(), patch)).contains("intermediate_size"));
    }
}

#[test]
fn biases_and_kernels() {
    let model = spec_of(&with(&config(), json!({"conv_bias": true, "conv_L_cache": 7})));
    let conv = short_conv(&model, 4);
    assert!(conv.in_proj.bias.is_some() && conv.out_proj.bias.is_some());
    assert_eq!(shape(&model, "model.layers.0.conv.conv.bias"), [24]);
    assert_eq!(conv.conv.kernel, 7);
    assert!(error_of(&with(&config(), json!({"conv_L_cache": 0}))).contains("conv_L_cache"));
}

#[test]
fn the_tie_has_two_names() {
    let tied = |patch| {
        let model = spec_of(&with(&config(), patch));
        model.head.linear.weight == model.embedding.table
    };
    assert!(tied(json!({})));
    assert!(!tied(json!({"tie_word_embeddings": false})));
    assert!(!tied(json!({"tie_word_embeddings": true, "tie_embedding": false})));
    assert!(tied(json!({"tie_word_embeddings": false, "tie_embedding": true})));
}

#[test]
fn mlx_finds_what_it_demands() {
    let fields = |config: &Value| mlx_fields(&config.to_string().parse().expect("a config"));
    let found = fields(&without(&config(), "block_multiple_of"));
    assert!(found.contains(&("block_dim", json!(24))));
    assert!(found.contains(&("block_multiple_of", json!(256))));
    assert!(found.contains(&("conv_bias", json!(false))));
    let full = json!({"block_dim": 24, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": true,
        "conv_bias": false, "conv_L_cache": 3});
    assert_eq!(fields(&with(&config(), full)), []);
}
