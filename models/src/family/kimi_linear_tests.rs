use super::*;
use crate::testing::{error_of, gated_delta, latent_attention, moe, spec_of, with};
use crate::{Config, LatentQueries, mlx_fields};

/// A small model with the names of Kimi's own code.
fn config() -> Value {
    json!({
        "model_type": "kimi_linear", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 4,
        "num_attention_heads": 3, "num_key_value_heads": 3, "kv_lora_rank": 10, "q_lora_rank": null,
        "qk_nope_head_dim": 5, "qk_rope_head_dim": 4, "v_head_dim": 7, "intermediate_size": 20,
        "moe_intermediate_size": 6, "num_experts": 4, "num_experts_per_token": 2,
        "num_shared_experts": 2, "num_expert_group": 2, "topk_group": 1, "moe_renormalize": false,
        "routed_scaling_factor": 1.5, "first_k_dense_replace": 1, "model_max_length": 99,
        "mla_use_nope": true,
        "linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "num_heads": 2,
            "head_dim": 6, "short_conv_kernel_size": 3}
    })
}

/// The same with the names of `transformers`.
fn newer() -> Value {
    let mut config = config();
    let fields = config.as_object_mut().unwrap();
    for (older, newer) in [
        ("num_experts_per_token", "num_experts_per_tok"),
        ("num_shared_experts", "n_shared_experts"),
        ("num_expert_group", "n_group"),
        ("moe_renormalize", "norm_topk_prob"),
        ("model_max_length", "max_position_embeddings"),
        ("num_experts", "num_local_experts"),
    ] {
        let value = fields.remove(older).unwrap();
        fields.insert(newer.into(), value);
    }
    fields.remove("linear_attn_config");
    fields.remove("first_k_dense_replace");
    let linear = "linear_attention";
    with(
        &config,
        json!({"linear_num_heads": 2, "linear_head_dim": 6, "linear_conv_kernel_dim": 3,
            "layer_types": [linear, linear, linear, "full_attention"],
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}),
    )
}

#[test]
fn both_spellings_are_one_model() {
    let spec = spec_of(&config());
    assert_eq!(spec, spec_of(&newer()));
    assert_eq!(spec.max_positions, Some(99));
    let delta = gated_delta(&spec, 0);
    assert_eq!((delta.key_heads, delta.value_heads, delta.key_dim, delta.decays()), (2, 2, 6, 12));
    assert_eq!((delta.convs.len(), delta.convs[0].kernel), (3, 3));
    let attention = latent_attention(&spec, 6);
    assert_eq!((attention.heads, attention.rank, attention.scale), (3, 10, 1.0 / 3.0));
    assert_eq!(attention.rope, None);
    let starts = |parts: &[Linear]| -> Vec<usize> {
        parts.iter().map(|part| part.weight.row_offset).collect()
    };
    assert_eq!(
        (starts(&attention.key_up), starts(&attention.value_up)),
        (vec![0, 12, 24], vec![5, 17, 29])
    );
    let experts = moe(&spec, 3);
    assert_eq!(experts.shared.as_ref().unwrap().inner(), 12);
    assert_eq!(experts.router.groups.unwrap().count, 2);
    assert!(!experts.router.renormalize);
}

#[test]
fn queries_of_low_rank_and_no_common_key() {
    let spec = spec_of(&with(
        &config(),
        json!({"q_lora_rank": 8, "qk_rope_head_dim": 0, "attention_bias": true}),
    ));
    let attention = latent_attention(&spec, 6);
    let LatentQueries::LowRank { down, norm, up } = &attention.q else { panic!("{attention:?}") };
    assert_eq!((down.weight.rows, up.weight.rows, norm.eps), (8, 15, 1e-6));
    assert!(down.bias.is_some() && up.bias.is_none() && attention.kv_down.bias.is_some());
}

#[test]
fn layers_without_lists() {
    let mut config = config();
    config.as_object_mut().unwrap().remove("linear_attn_config");
    let spec = spec_of(&with(&config, json!({"num_hidden_layers": 6})));
    let kinds: String = spec
        .blocks
        .iter()
        .map(|block| match &block.branches[0].mixer {
            Mixer::LatentAttention(_) => 'l',
            Mixer::GatedDelta(_) => 'd',
            Mixer::Moe(_) => 'e',
            Mixer::Dense(_) => 'f',
            _ => '?',
        })
        .collect();
    assert_eq!(kinds, "dfdededelede");
}

#[test]
fn what_is_not_computed_is_refused() {
    let lists = |full: Value, kda: Value| json!({"linear_attn_config": {"full_attn_layers": full, "kda_layers": kda}});
    for (change, part) in [
        (json!({"mla_use_nope": false}), "mla_use_nope"),
        (json!({"moe_layer_freq": 2}), "moe_layer_freq"),
        (json!({"moe_router_activation_func": "softmax"}), "moe_router_activation_func"),
        (json!({"use_grouped_topk": false}), "use_grouped_topk"),
        (json!({"num_key_value_heads": 1}), "num_key_value_heads"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"n_group": 1}), "num_expert_group"),
        (json!({"num_experts_per_tok": 1}), "num_experts_per_token"),
        (lists(json!([4]), json!([1, 2])), "layer 3 must be in it"),
        (lists(json!([4]), json!([1, 2, 3, 4])), "layer 4 must be listed once"),
        (lists(json!([4]), json!(null)), "linear_attn_config.kda_layers"),
        (lists(json!([5]), json!([1, 2, 3])), "linear_attn_config.full_attn_layers"),
        (json!({"layer_types": vec!["linear_attention"; 4]}), "linear_attn_config has other kinds"),
        (json!({"layer_types": vec!["mlp"; 4]}), "layer_types[0]"),
        (json!({"mlp_layer_types": vec!["moe"; 4]}), "mlp_layer_types[0]"),
    ] {
        let error = error_of(&with(&config(), change));
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn mlx_lm_gets_the_lists_of_layers_and_a_base() {
    let text = newer().to_string();
    let fields = mlx_fields(&Config::parse(&text).unwrap());
    let own = config()["linear_attn_config"].clone();
    let theta = ("rope_theta", json!(10000.0));
    assert_eq!(fields, [(LINEAR, own), (FIRST_DENSE, json!(1)), theta]);
    let published = with(&config(), json!({"rope_theta": 1e6})).to_string();
    assert_eq!(mlx_fields(&Config::parse(&published).unwrap()), []);
}
