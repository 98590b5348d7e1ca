//! Broken and malicious configs must give an error or a small spec, never a panic.

use crate::testing::{error_of, try_spec, with};
use crate::{Config, ModelError, ModelSpec, spec, supported};
use serde_json::{Value, json};

/// A config of each family, with most of the fields that are read.
pub(crate) fn samples() -> Vec<Value> {
    let base = json!({
        "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 20, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "hidden_act": "silu", "tie_word_embeddings": true,
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
            "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1,
            "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": false}
    });
    let experts = json!({"num_local_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 8, "norm_topk_prob": true, "decoder_sparse_step": 2,
        "mlp_only_layers": [1], "shared_intermediate_size": 8});
    let mamba = json!({"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2,
        "mamba_d_state": 5, "mamba_d_conv": 4, "mamba_expand": 2, "attn_layer_indices": [1],
        "time_step_limit": [0.0, {"__float__": "Infinity"}], "position_embedding_type": "rope",
        "logits_scaling": 8.0, "residual_multiplier": 0.2, "clip_qkv": 2.0});
    let short_conv = json!({"layer_types": ["conv", "full_attention", "conv"], "norm_eps": 1e-5,
        "conv_L_cache": 4, "conv_bias": true, "block_ff_dim": 30, "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.5, "block_auto_adjust_ff_dim": true, "tie_embedding": true});
    let lightning = json!({
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "block_size": 16, "linear_attn_alpha_factor": 2.0, "mlp_beta_factor": 0.5, "postnorm": true,
        "layernorm_full_attention_alpha": 3.0
    });
    let recurrent = json!({
        "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "num_heads": 6, "head_dim": 8,
        "n_groups": 3, "state_size": 5, "conv_kernel": 4, "expand": 2, "time_step_rank": "auto",
        "layer_norm_epsilon": 1e-5, "qk_dim_factor": 0.5, "v_dim_factor": 1.0, "num_blocks": 3,
        "ffn_proj_factor": 2.667, "ffn_round_up_to_multiple_of": 8, "gate_soft_cap": 15.0,
        "time_step_limit": [0.0, {"__float__": "Infinity"}]
    });
    let blocks = json!({
        "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 5, "norm": "layer",
        "norm_eps": 1e-5, "norm_position": "post", "positions": "learned",
        "max_position_embeddings": 64, "embedding_scale": 2.0, "residual_scale": 0.5,
        "logit_soft_cap": 30.0, "tie_word_embeddings": false, "pattern": ["m", "a", "e", "l"],
        "kinds": {
            "m": [{"type": "mamba2", "state_size": 5, "num_heads": 4, "head_dim": 8, "n_groups": 2,
                    "time_step_limit": [0.0, {"__float__": "Infinity"}], "gate": "silu"},
                {"type": "mamba", "state_size": 4, "dt_rank": 3, "expand": 1, "bias": true}],
            "a": [{"type": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
                    "rope_theta": 1e4, "window": 5, "qk_norm": true, "bias": true},
                {"type": "mlp", "intermediate_size": 20, "activation": "relu2", "gated": false,
                    "norm": "rms", "norm_eps": 1e-3, "residual_scale": 2.0}],
            "e": [{"type": "moe", "num_experts": 6, "top_k": 2, "intermediate_size": 8,
                "temperature": 0.5, "groups": 3, "top_groups": 2, "latent_size": 16,
                "shared_intermediate_size": 12, "expert_norm": true}],
            "l": [{"type": "linear_attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
                    "rope_theta": 1e4, "qk_norm": true, "bias": true},
                {"type": "mlstm", "num_heads": 2, "qk_head_dim": 8, "proj_factor": 0.5,
                    "forget_gate": "exp", "conv_kernel": 3, "head_norm": true},
                {"type": "slstm", "num_heads": 2, "forget_gate": "exp"}]}
    });
    let samples = supported().map(|name| {
        let fields = match name {
            "mamba" | "falcon_mamba" | "mamba2" | "xlstm" => recurrent.clone(),
            "bamba" => with(&base, mamba.clone()),
            "jamba" => with(
                &with(&with(&base, mamba.clone()), experts.clone()),
                json!({"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 3}),
            ),
            "falcon_h1" => with(
                &with(&base, mamba.clone()),
                json!({"mamba_d_ssm": 64, "mamba_rms_norm": true, "mamba_norm_before_gate": false,
                    "mlp_multipliers": [0.5, 2.0], "ssm_multipliers": [0.5, 1.0, 2.0, 3.0, 4.0],
                    "key_multiplier": 0.5, "attention_in_multiplier": 2.0}),
            ),
            "nemotron_h" => with(
                &with(&with(&base, recurrent.clone()), experts.clone()),
                json!({"hybrid_override_pattern": "M*-E", "mamba_num_heads": 6, "mamba_head_dim": 8,
                    "ssm_state_size": 5, "mlp_hidden_act": "relu2", "n_group": 2, "topk_group": 1,
                    "moe_latent_size": 16,
                    "moe_shared_expert_intermediate_size": 12, "routed_scaling_factor": 2.5}),
            ),
            "granitemoehybrid" => with(
                &with(&with(&base, mamba.clone()), experts.clone()),
                json!({"layer_types": ["mamba", "attention", "mamba"]}),
            ),
            "qwen3_next" | "qwen3_5_text" | "qwen3_5_moe_text" => with(
                &with(&base, experts.clone()),
                json!({"layer_types": ["linear_attention", "full_attention", "linear_attention"],
                    "full_attention_interval": 2, "attn_output_gate": true,
                    "partial_rotary_factor": 0.5, "shared_expert_intermediate_size": 12,
                    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 6,
                    "linear_value_head_dim": 5, "linear_num_key_heads": 2,
                    "linear_num_value_heads": 4}),
            ),
            "olmo_hybrid" => with(
                &with(&base, json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})),
                json!({"layer_types": ["linear_attention", "full_attention", "linear_attention"],
                    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 6,
                    "linear_value_head_dim": 5, "linear_num_key_heads": 2,
                    "linear_num_value_heads": 4, "linear_allow_neg_eigval": true}),
            ),
            "kimi_linear" => with(
                &with(&base, experts.clone()),
                json!({"num_key_value_heads": 4, "kv_lora_rank": 12, "q_lora_rank": 6,
                    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
                    "linear_attn_config": {"full_attn_layers": [2], "kda_layers": [1, 3],
                        "num_heads": 3, "head_dim": 6, "short_conv_kernel_size": 4},
                    "first_k_dense_replace": 1, "moe_layer_freq": 1, "mla_use_nope": true,
                    "num_expert_group": 2, "topk_group": 1, "num_shared_experts": 1,
                    "moe_renormalize": true, "routed_scaling_factor": 2.5}),
            ),
            "zamba" => with(
                &with(&base, mamba.clone()),
                json!({"layers_block_type": ["hybrid", "mamba", "hybrid"], "n_mamba_heads": 2,
                    "mamba_dt_rank": 3, "attention_head_dim": 16, "attention_hidden_size": 64,
                    "hidden_mamba_act": "silu", "attn_layer_period": 2, "attn_layer_offset": 1}),
            ),
            "zamba2" => with(
                &with(&base, mamba.clone()),
                json!({"layers_block_type": ["hybrid", "mamba", "hybrid"], "n_mamba_heads": 8,
                    "mamba_ngroups": 2, "num_key_value_heads": 4, "adapter_rank": 3, "num_mem_blocks": 2,
                    "use_shared_attention_adapter": true, "use_mem_rope": true,
                    "add_bias_linear": true, "time_step_min": 0.01, "use_long_context": false}),
            ),
            "lfm2" => with(&base, short_conv.clone()),
            "lfm2_moe" => with(
                &with(&with(&base, short_conv.clone()), experts.clone()),
                json!({"num_dense_layers": 1, "use_expert_bias": true, "routed_scaling_factor": 2.0}),
            ),
            "lfm3" => with(
                &with(&base, short_conv.clone()),
                json!({"layer_types": ["conv", "full_attention", "sliding_attention"],
                    "sliding_window": 5, "use_sandwich_norm": true, "use_attention_gate": true,
                    "rope_parameters": {
                        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6,
                            "partial_rotary_factor": 0.5},
                        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
            ),
            "granitemoe" | "granitemoeshared" => with(
                &with(&base, experts.clone()),
                json!({"embedding_multiplier": 2.0, "attention_multiplier": 0.3,
                    "residual_multiplier": 0.2, "logits_scaling": 8.0, "attention_bias": true}),
            ),
            // No field is taken that isn't known.
            "kinglet_hybrid" => blocks.clone(),
            "minimax" => with(&with(&base, experts.clone()), lightning.clone()),
            _ => with(&base, experts.clone()),
        };
        with(&fields, json!({"model_type": name}))
    });
    samples.collect()
}

/// An upper bound on the size of a spec in bytes; also checks that nothing in it overflows.
fn weigh(model: &ModelSpec) -> usize {
    for tensor in model.tensors() {
        assert!(tensor.shape.iter().all(|&n| n > 0 && n <= 1 << 25), "{tensor:?}");
    }
    // The debug text contains every name, shape and frequency.
    format!("{model:?}").len()
}

/// xorshift64*: the same test inputs in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

#[test]
fn samples_have_specs() {
    for sample in samples() {
        let model = try_spec(&sample).unwrap_or_else(|error| panic!("{error}\n{sample}"));
        assert_eq!(model.model_type, sample["model_type"]);
        weigh(&model);
    }
}

#[test]
fn truncation_anywhere_is_an_error() {
    for sample in samples() {
        let text = serde_json::to_string_pretty(&sample).expect("JSON");
        for end in 0..text.len() {
            let cut = Config::parse(text.get(..end).expect("ASCII"));
            assert!(matches!(cut, Err(ModelError::Syntax { .. })), "{end}: {cut:?}");
        }
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let text = format!("{{\"a\":{}1{}}}", open.repeat(100_000), close.repeat(100_000));
        assert!(matches!(Config::parse(&text), Err(ModelError::Syntax { .. })));
    }
}

#[test]
fn absurd_values_are_errors_or_small_specs() {
    let values = [
        json!(0),
        json!(-1),
        json!(1),
        json!(7),
        json!(1 << 20),
        json!(1 << 24),
        json!(u32::MAX),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e18),
        json!(1e300),
        json!(-0.0),
        json!(1e-300),
        json!(0.5),
        json!({"__float__": "NaN"}),
        json!({"__float__": "-Infinity"}),
        json!("24"),
        json!(""),
        json!(true),
        json!([]),
        json!([1, 2, 3]),
        json!([0.0, -1.0]),
        json!({}),
        json!(null),
    ];
    for sample in samples() {
        let keys: Vec<String> = sample.as_object().expect("an object").keys().cloned().collect();
        for key in keys {
            for value in &values {
                if let Ok(model) = try_spec(&with(&sample, json!({ key.clone(): value }))) {
                    let bytes = weigh(&model);
                    assert!(bytes < 1 << 19, "{bytes} bytes for {key} = {value}");
                }
            }
        }
    }
}

#[test]
fn zeros_and_strings_for_sizes_are_errors() {
    let sizes = ["vocab_size", "hidden_size", "num_hidden_layers"];
    for sample in samples() {
        for key in sizes {
            for value in
                [json!(0), json!(-5), json!("5"), json!(1.5), json!([5]), json!(1u64 << 40)]
            {
                let error = error_of(&with(&sample, json!({ key: value })));
                assert!(error.contains(key), "{error}");
            }
        }
    }
}

#[test]
fn the_most_layers_and_experts_stay_small() {
    let sample = json!({
        "model_type": "qwen3_moe", "hidden_size": 64, "num_attention_heads": 1,
        "num_key_value_heads": 1, "num_hidden_layers": 4096, "num_experts": 16
    });
    let model = try_spec(&sample).expect("a spec");
    assert_eq!(model.blocks.len(), 8192);
    let error = error_of(&with(&sample, json!({"num_experts": 17})));
    assert!(error.contains("4096 * 17 is more than the 65536"), "{error}");
    let error = error_of(&with(&sample, json!({"num_hidden_layers": 4097})));
    assert!(error.contains("num_hidden_layers"), "{error}");
}

#[test]
fn random_mutations_never_panic() {
    let fragments = [
        "null",
        "0",
        "-1",
        "1e9",
        "1e400",
        "18446744073709551616",
        "NaN",
        "Infinity",
        "-Infinity",
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"auto\"",
        "true",
        "[]",
        "{}",
        "é",
        "\u{0}",
        "9",
        "{\"__float__\":\"NaN\"}",
        ".",
        "e",
        "-",
    ];
    let texts: Vec<String> = samples().iter().map(Value::to_string).collect();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut specs, mut errors) = (0, 0);
    for _ in 0..20_000 {
        let mut text = texts[random.below(texts.len())].clone().into_bytes();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len());
            let end = (at + random.below(6)).min(text.len());
            let fragment = fragments[random.below(fragments.len())];
            text.splice(at..end, fragment.bytes());
        }
        let text = String::from_utf8_lossy(&text);
        match Config::parse(&text).and_then(|config| spec(&config)) {
            Ok(model) => {
                weigh(&model);
                specs += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                errors += 1;
            }
        }
    }
    // The mutations must produce both, else the test proves nothing.
    assert!(specs > 500 && errors > 5000, "{specs} specs, {errors} errors");
}

#[test]
fn an_unknown_model_type_gets_the_list() {
    for config in [
        json!({"model_type": "gpt2"}),
        json!({"model_type": "gpt2", "architectures": ["LlamaForCausalLM"]}),
        json!({"architectures": ["GPT2LMHeadModel"]}),
        json!({"architectures": []}),
        json!({}),
    ] {
        let error = error_of(&config);
        assert!(supported().all(|name| error.contains(name)), "{error}");
    }
    assert!(error_of(&json!({"model_type": "gpt2"})).contains("\"gpt2\""));
    assert!(error_of(&json!({"model_type": 5})).contains("model_type"));
}
