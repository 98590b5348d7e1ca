use crate::testing::*;
use crate::{Activation, ExpertGroups, GroupRank, Mamba2Gate, Score, mlx_fields};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "nemotron_h", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10,
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "mamba_num_heads": 6, "mamba_head_dim": 8, "n_groups": 3, "ssm_state_size": 10,
        "conv_kernel": 3, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4,
        "topk_group": 2, "moe_intermediate_size": 14, "moe_shared_expert_intermediate_size": 18,
        "routed_scaling_factor": 2.5, "layer_norm_epsilon": 1e-4
    })
}

#[test]
fn a_layer_is_one_mixer() {
    let model = spec_of(&config());
    assert_eq!(model.blocks.len(), 4);
    let first = mamba2(&model, 0);
    assert_eq!((first.heads, first.head_dim, first.groups, first.state), (6, 8, 3, 10));
    assert_eq!(first.dt_limit, (0.001, f32::INFINITY));
    assert!(matches!(first.gate, Mamba2Gate::NormAfter { groups: 3, .. }));
    let attention = attention(&model, 2);
    assert_eq!((attention.heads, attention.head_dim, attention.rope.is_none()), (4, 10, true));
    let dense = dense(&model, 3);
    assert_eq!(
        (dense.gate.is_none(), dense.inner(), dense.activation),
        (true, 20, Activation::Relu2)
    );
    assert_eq!(shape(&model, "backbone.layers.3.mixer.up_proj.weight"), [20, 24]);
    assert_eq!(shape(&model, "lm_head.weight"), [40, 24]);
    // The reference ties nothing.
    assert_eq!(spec_of(&with(&config(), json!({"tie_word_embeddings": true}))), model);
}

#[test]
fn experts_are_chosen_in_groups_by_biased_sigmoids() {
    let model = spec_of(&config());
    let moe = moe(&model, 1);
    let router = &moe.router;
    assert_eq!((router.score, router.top_k, router.renormalize), (Score::Sigmoid, 3, true));
    let rank = GroupRank::SumOfTwoLargest;
    assert_eq!(router.groups, Some(ExpertGroups { count: 4, used: 2, rank }));
    assert_eq!(router.scale, 2.5);
    assert_eq!(shape(&model, "backbone.layers.1.mixer.gate.e_score_correction_bias"), [8]);
    assert_eq!(shape(&model, "backbone.layers.1.mixer.experts.7.up_proj.weight"), [14, 24]);
    assert_eq!(shape(&model, "backbone.layers.1.mixer.shared_experts.down_proj.weight"), [24, 18]);
    assert!(moe.experts.iter().chain(&moe.shared).all(|expert| expert.gate.is_none()));
    // All groups used are none.
    let all = spec_of(&with(&config(), json!({"topk_group": 4})));
    assert_eq!(crate::testing::moe(&all, 1).router.groups, None);
}

#[test]
fn experts_may_read_a_narrower_stream() {
    let model = spec_of(&with(&config(), json!({"moe_latent_size": 10})));
    let moe = moe(&model, 1);
    assert!(moe.latent.is_some());
    let mixer = "backbone.layers.1.mixer";
    assert_eq!(shape(&model, &format!("{mixer}.fc1_latent_proj.weight")), [10, 24]);
    assert_eq!(shape(&model, &format!("{mixer}.fc2_latent_proj.weight")), [24, 10]);
    assert_eq!(shape(&model, &format!("{mixer}.experts.7.up_proj.weight")), [14, 10]);
    assert_eq!(shape(&model, &format!("{mixer}.experts.7.down_proj.weight")), [10, 14]);
    assert_eq!(shape(&model, &format!("{mixer}.gate.weight")), [8, 24]);
    assert_eq!(shape(&model, &format!("{mixer}.shared_experts.up_proj.weight")), [18, 24]);
    let none = spec_of(&with(&config(), json!({"moe_latent_size": null})));
    assert_eq!(none, spec_of(&config()));
}

#[test]
fn biases_are_those_of_what_every_token_uses() {
    let model = spec_of(&with(&config(), json!({"moe_latent_size": 10, "mlp_bias": true})));
    let mixer = "backbone.layers.1.mixer";
    for (name, width) in [
        ("fc1_latent_proj", 10),
        ("fc2_latent_proj", 24),
        ("shared_experts.up_proj", 18),
        ("shared_experts.down_proj", 24),
    ] {
        assert_eq!(shape(&model, &format!("{mixer}.{name}.bias")), [width]);
    }
    assert!(!moe(&model, 1).experts.iter().any(crate::Dense::is_biased));
    assert!(needs(&model, "backbone.layers.3.mixer.up_proj.bias"));
}

#[test]
fn older_spellings() {
    let model = spec_of(&config());
    let older = without(&config(), "layers_block_type");
    assert_eq!(spec_of(&with(&older, json!({"hybrid_override_pattern": "ME*-"}))), model);
    let names = json!({"layers_block_type": ["mamba", "moe", "attention", "mlp"]});
    assert_eq!(spec_of(&with(&config(), names)), model);
    let kernel = json!({"mamba_d_conv": 3, "conv_kernel": 7});
    assert_eq!(spec_of(&with(&config(), kernel)), model);
    let fields = mlx_fields(&crate::Config::parse(&config().to_string()).unwrap());
    let expected = [("hybrid_override_pattern", json!("ME*-")), ("num_hidden_layers", json!(4))];
    assert_eq!(fields, expected);
}

#[test]
fn what_is_not_computed_is_refused() {
    let error = |patch| error_of(&with(&config(), patch));
    assert!(error(json!({"moe_latent_size": 0})).contains("moe_latent_size"));
    assert!(error(json!({"topk_group": 5})).contains("at most the number of groups, 4"));
    assert!(error(json!({"topk_group": 1})).contains("at most the 2 experts of 1 groups"));
    assert!(error(json!({"n_group": 3})).contains("n_group"));
    assert!(error(json!({"layers_block_type": ["mamba", "rwkv"]})).contains("[1]"));
    let older = without(&config(), "layers_block_type");
    let error = error_of(&with(&older, json!({"hybrid_override_pattern": "MX"})));
    assert!(error.contains("hybrid_override_pattern[1]"), "{error}");
    assert!(error_of(&with(&older, json!({"hybrid_override_pattern": ""}))).contains("0 layers"));
}
