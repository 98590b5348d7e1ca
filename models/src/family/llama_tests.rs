use crate::Activation;
use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "tie_word_embeddings": false
    })
}

#[test]
fn layers_are_attention_and_a_feed_forward_network() {
    let model = spec_of(&config());
    assert_eq!((model.hidden, model.vocab, model.max_positions), (24, 40, Some(64)));
    assert_eq!(model.blocks.iter().map(|block| block.layer).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert_eq!(norm_name(&model, 3), "model.layers.1.post_attention_layernorm.weight");
    assert_eq!(model.head.norm.eps, 1e-5);

    let attention = attention(&model, 2);
    assert_eq!((attention.heads, attention.kv_heads, attention.head_dim), (6, 2, 4));
    assert_eq!((attention.scale, attention.window, attention.clip), (0.5, None, None));
    assert!(attention.qk_norm.is_none());
    assert_eq!(attention.rope.as_ref().map(|rope| rope.inv_freq.len()), Some(2));
    assert_eq!(dense(&model, 3).activation, Activation::Silu);

    assert_eq!(shape(&model, "model.layers.1.self_attn.k_proj.weight"), [8, 24]);
    assert_eq!(shape(&model, "model.layers.1.self_attn.o_proj.weight"), [24, 24]);
    assert_eq!(shape(&model, "model.layers.1.mlp.down_proj.weight"), [24, 20]);
    assert_eq!(shape(&model, "lm_head.weight"), [40, 24]);
    assert_eq!(model.tensors().len(), 1 + 2 * 9 + 2);
}

#[test]
fn a_tied_head_is_the_embedding() {
    let model = spec_of(&with(&config(), json!({"tie_word_embeddings": true})));
    assert_eq!(model.head.linear.weight, model.embedding.table);
    assert!(!needs(&model, "lm_head.weight"));
    assert!(model.ignored.contains(&"lm_head.weight".to_owned()));
    assert!(!spec_of(&config()).ignored.contains(&"lm_head.weight".to_owned()));
}

#[test]
fn biases_are_switched_by_two_fields() {
    let model = spec_of(&with(&config(), json!({"attention_bias": true})));
    assert_eq!(shape(&model, "model.layers.0.self_attn.o_proj.bias"), [24]);
    assert!(!needs(&model, "model.layers.0.mlp.gate_proj.bias"));
    let model = spec_of(&with(&config(), json!({"mlp_bias": true})));
    assert!(!needs(&model, "model.layers.0.self_attn.q_proj.bias"));
    assert_eq!(shape(&model, "model.layers.0.mlp.gate_proj.bias"), [20]);
}

#[test]
fn heads_may_be_of_any_width() {
    let model = spec_of(&with(&config(), json!({"head_dim": 10})));
    assert_eq!(shape(&model, "model.layers.0.self_attn.q_proj.weight"), [60, 24]);
    assert_eq!(shape(&model, "model.layers.0.self_attn.o_proj.weight"), [24, 60]);
    assert_eq!(attention(&model, 0).scale, (10f64).sqrt().recip() as f32);
}

#[test]
fn absent_fields_have_the_defaults_of_the_family() {
    let model = spec_of(&json!({"model_type": "llama"}));
    assert_eq!((model.hidden, model.vocab, model.blocks.len()), (4096, 32000, 64));
    assert_eq!(attention(&model, 0).kv_heads, 32);
    assert_eq!(shape(&model, "model.layers.31.mlp.up_proj.weight"), [11008, 4096]);
    assert_eq!(model.max_positions, None);
    assert_eq!(spec_of(&json!({"architectures": ["LlamaForCausalLM"]})), model);
}

#[test]
fn activations_have_several_names() {
    let activation = |name| {
        let model = spec_of(&with(&config(), json!({"hidden_act": name})));
        dense(&model, 1).activation
    };
    assert_eq!(activation("swish"), Activation::Silu);
    assert_eq!(activation("gelu"), Activation::Gelu);
    assert_eq!(activation("gelu_new"), Activation::GeluTanh);
    assert_eq!(activation("relu"), Activation::Relu);
    let error = error_of(&with(&config(), json!({"hidden_act": "mish"})));
    assert!(error.contains("`hidden_act` is \"mish\"") && error.contains("silu"), "{error}");
}

#[test]
fn what_is_not_computed_is_refused() {
    for (patch, name) in [
        (json!({"quantization_config": {"quant_method": "gptq"}}), "quantization_config"),
        (json!({"sliding_window": 16}), "sliding_window"),
        (json!({"is_causal": false}), "is_causal"),
        (json!({"rope_scaling": {"type": "longrope", "factor": 2.0}}), "rope_scaling.type"),
        (json!({"num_key_value_heads": 4}), "num_attention_heads = 6"),
        (json!({"num_attention_heads": 5, "num_key_value_heads": 5}), "hidden_size = 24"),
        (json!({"hidden_size": "24"}), "hidden_size"),
    ] {
        let error = error_of(&with(&config(), patch));
        assert!(error.contains(name), "{error}");
    }
    let unused = json!({"sliding_window": 16, "use_sliding_window": false});
    assert_eq!(spec_of(&with(&config(), unused)), spec_of(&config()));
}
