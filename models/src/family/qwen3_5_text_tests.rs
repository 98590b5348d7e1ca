use crate::DeltaInputs;
use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "qwen3_5_text", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "linear_key_head_dim": 5, "linear_value_head_dim": 7, "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7,
            "mrope_section": [1, 0, 0], "mrope_interleaved": true}
    })
}

#[test]
fn projections_are_separate_and_networks_dense() {
    let model = spec_of(&config());
    let kinds: Vec<_> =
        model.blocks.iter().map(|block| block.branches[0].mixer.layer().kind()).collect();
    let (delta, dense) = ("gated delta", "dense ffn");
    assert_eq!(kinds, [delta, dense, delta, dense, delta, dense, "attention", dense]);
    let DeltaInputs::Separate(inputs) = &gated_delta(&model, 0).inputs else { panic!("separate") };
    assert_eq!((inputs.k.weight.row_offset, inputs.v.weight.row_offset), (10, 20));
    let shape = |name: &str| shape(&model, &format!("model.layers.0.linear_attn.{name}.weight"));
    assert_eq!(shape("in_proj_qkv"), [62, 24]);
    assert_eq!(shape("in_proj_z"), [42, 24]);
    assert_eq!(shape("in_proj_a"), [6, 24]);
    assert_eq!(shape("in_proj_b"), [6, 24]);
}

#[test]
fn the_text_part_of_a_larger_model_is_found() {
    let whole = json!({"model_type": "qwen3_5", "text_config": config(), "vision_config": {}});
    let parsed = crate::Config::parse(&whole.to_string()).unwrap();
    let part = parsed.language();
    assert_eq!(part.place(), Some("text_config"));
    assert_eq!(crate::spec(&part).unwrap(), spec_of(&config()));
}

#[test]
fn the_head_that_predicts_a_further_token_is_a_layer_of_attention_around_one() {
    let parse = |value: &Value| crate::Config::parse(&value.to_string()).unwrap();
    let head = |value: &Value| crate::prediction_head(&parse(value), &spec_of(value));
    let head_of = |value: &Value| head(value).unwrap().unwrap();
    // A model without layers of attention still has one in its head.
    let recurrent = with(&config(), json!({"full_attention_interval": 9}));
    for value in [config(), recurrent, with(&config(), json!({"mtp_num_hidden_layers": 1}))] {
        let head = head_of(&value);
        assert_eq!((head.join.weight.rows, head.join.weight.cols), (24, 48));
        let kinds: Vec<_> =
            head.model.blocks.iter().map(|b| b.branches[0].mixer.layer().kind()).collect();
        assert_eq!(kinds, ["attention", "dense ffn"]);
        let norms = [&head.embedding_norm, &head.hidden_norm, &head.model.head.norm];
        assert!(norms.iter().all(|norm| norm.offset == 1.0));
        let names: Vec<_> =
            head.tensors_by_kind().into_iter().map(|(tensor, _)| tensor.name.clone()).collect();
        for name in [
            "mtp.fc.weight",
            "mtp.pre_fc_norm_embedding.weight",
            "mtp.pre_fc_norm_hidden.weight",
            "mtp.norm.weight",
            "mtp.layers.0.self_attn.q_norm.weight",
            "mtp.layers.0.mlp.down_proj.weight",
            "model.embed_tokens.weight",
            "lm_head.weight",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
    }
    for (field, value) in [
        ("mtp_num_hidden_layers", json!(2)),
        ("mtp_num_hidden_layers", json!(0)),
        ("mtp_use_dedicated_embeddings", json!(true)),
    ] {
        let error = head(&with(&config(), json!({field: value}))).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn the_head_takes_the_names_of_the_checkpoint() {
    let parse = crate::Config::parse(&config().to_string()).unwrap();
    let mut spec = spec_of(&config());
    let mut head = crate::prediction_head(&parse, &spec).unwrap().unwrap();
    let mut stored: Vec<String> = spec.tensors().iter().map(|t| t.name.clone()).collect();
    for name in &mut stored {
        *name = name.replacen("model.", "model.language_model.", 1);
    }
    stored.push("mtp.fc.weight".into());
    stored.sort();
    let stored: Vec<&str> = stored.iter().map(String::as_str).collect();
    spec.fit_names(&stored);
    head.fit_names(&spec, &stored);
    assert_eq!(head.model.embedding.table.tensor.name, "model.language_model.embed_tokens.weight");
    assert_eq!(head.model.head.linear, spec.head.linear);
    assert_eq!(head.model.head.norm.weight.name, "mtp.norm.weight");
    assert_eq!(head.join.weight.tensor.name, "mtp.fc.weight");
}
