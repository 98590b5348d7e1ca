//! `config.json` with sizes that are absurd, not divisible, or inconsistent with the weights.

use kinglet::Error;
use kinglet::models::ModelError;
use kinglet::weights::{Problem, WeightsError};
use kinglet_tests::temp::TempDir;
use serde_json::{Value, json};

use crate::{case, copy, counting, one_of_each_family, open, refused};

/// Fields that hold a count or size, in any family.
const SIZES: &[&str] = &[
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_intermediate_size",
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
    "max_position_embeddings",
    "mamba_d_conv",
    "mamba_d_head",
    "mamba_d_state",
    "mamba_expand",
    "mamba_n_groups",
    "mamba_ngroups",
    "n_mamba_heads",
    "num_mem_blocks",
    "adapter_rank",
    "mamba_dt_rank",
    "attention_hidden_size",
    "attention_head_dim",
    "mamba_n_heads",
    "conv_kernel",
    "expand",
    "state_size",
    "num_heads",
    "n_groups",
    "time_step_rank",
    "embedding_dim",
    "num_blocks",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "v_head_dim",
    "linear_num_heads",
    "linear_head_dim",
    "num_experts_per_token",
];

/// Fields that a family derives and does not read.
fn unread(family: &str, field: &str) -> bool {
    match family {
        // The width is given next to its factor, and takes precedence.
        "mamba" | "falcon_mamba" => field == "expand",
        "mamba2" => field == "time_step_rank",
        "falcon_h1" => field == "mamba_expand",
        // Latent attention has widths of its own; the one saved is that of its common key.
        "kimi_linear" => field == "head_dim",
        // They follow from the hidden size and the number of heads.
        "zamba2" => ["attention_hidden_size", "attention_head_dim"].contains(&field),
        // Every layer has experts.
        "qwen3_5_moe_text" => field == "intermediate_size",
        // Nor are the sizes of experts read where no layer has any.
        "nemotron_h" => ["expand", "moe_intermediate_size", "num_experts_per_tok"].contains(&field),
        _ => false,
    }
}

fn set(folder: &TempDir, config: &Value, changes: &[(&str, Value)]) {
    let mut changed = config.clone();
    for (field, value) in changes {
        changed[field] = value.clone();
    }
    folder.write("config.json", changed.to_string());
}

#[test]
fn absurd_sizes_are_refused_by_name() {
    let absurd = [
        json!(1u64 << 40),
        json!(u64::MAX),
        json!(1e30),
        json!(-1),
        json!(-4096),
        json!(0.5),
        json!("64"),
        json!([64]),
        json!({}),
    ];
    let (mut seen, mut failures) = (std::collections::BTreeSet::new(), Vec::new());
    for case in one_of_each_family() {
        let folder = TempDir::copy_of(&case.folder);
        let config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
        let family = config["model_type"].as_str().unwrap();
        for field in SIZES {
            if config.get(field).is_none() || unread(family, field) {
                continue;
            }
            seen.insert(*field);
            let billion = json!(1_000_000_000u64);
            // A context of a billion is not a contradiction: nothing is allocated for it.
            let billion = Some(billion).filter(|_| *field != "max_position_embeddings");
            // In granite, no experts means a dense model, and no width no shared expert.
            let may_be_none = field.starts_with("num_") && field.ends_with("experts")
                || family == "granitemoeshared" && *field == "shared_intermediate_size";
            let zero = Some(json!(0)).filter(|_| !may_be_none);
            for value in absurd.iter().cloned().chain(billion).chain(zero) {
                set(&folder, &config, &[(field, value.clone())]);
                let error = open(folder.path()).err();
                // `expand` is a factor: the error is about its product with another size.
                let part = if field.ends_with("expand") { "expand" } else { field };
                let named = |e: &Error| e.to_string().contains(part);
                // transformers takes a fraction for a factor whose product is whole: another model.
                let is_other =
                    |e: &Error| field.ends_with("expand") && matches!(e, Error::Weights(_));
                if value == json!(0.5) && error.as_ref().is_some_and(is_other) {
                    continue;
                }
                if !matches!(&error, Some(e @ Error::Config { .. }) if named(e)) {
                    let error = error.map_or("it opened".into(), |e| e.to_string());
                    failures.push(format!("{family} {field} = {value}: {error}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    let missed: Vec<_> = SIZES.iter().filter(|field| !seen.contains(*field)).collect();
    assert!(missed.is_empty(), "in no fixture's config: {missed:?}");
}

#[test]
fn heads_that_do_not_divide() {
    for (name, changes, parts) in [
        (
            "llama/plain",
            vec![("num_attention_heads", json!(5)), ("head_dim", json!(null))],
            &["num_attention_heads", "5"][..],
        ),
        (
            "llama/plain",
            vec![("num_key_value_heads", json!(3))],
            &["num_key_value_heads", "3", "4"],
        ),
        ("mamba2/plain", vec![("n_groups", json!(4))], &["groups", "4", "6"]),
        ("mamba2/plain", vec![("num_heads", json!(5))], &["heads", "80", "96"]),
        ("bamba/plain", vec![("mamba_n_heads", json!(7))], &["heads", "112", "96"]),
        ("granitemoehybrid/plain", vec![("mamba_n_groups", json!(5))], &["groups", "5"]),
        ("xlstm/plain", vec![("num_heads", json!(5))], &["num_heads", "5"]),
        ("mixtral/plain", vec![("num_experts_per_tok", json!(99))], &["num_experts_per_tok", "99"]),
        (
            "granitemoehybrid/plain",
            vec![("layer_types", json!(["linear_attention"]))],
            &["layer_types", "1", "3"],
        ),
        (
            "granitemoehybrid/plain",
            vec![("layer_types", json!(["linear_attention", "what", "full_attention"]))],
            &["layer_types[1]", "what"],
        ),
        ("xlstm/plain", vec![("num_blocks", json!(3))], &["num_blocks", "3", "2"]),
    ] {
        let folder = copy(name);
        let config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
        set(&folder, &config, &changes);
        let error = refused(folder.path(), parts);
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
    }
}

#[test]
fn sizes_that_are_not_the_weights_are_named_with_both_shapes() {
    // Field, new value, a tensor whose shape changes with it, the expected shape, the found shape.
    for (name, field, value, tensor, expected, found) in [
        (
            "llama/plain",
            "intermediate_size",
            100,
            "model.layers.0.mlp.gate_proj.weight",
            "[100, 64]",
            "[96, 64]",
        ),
        ("llama/plain", "vocab_size", 113, "model.embed_tokens.weight", "[113, 64]", "[112, 64]"),
        (
            "llama/plain",
            "num_key_value_heads",
            4,
            "model.layers.0.self_attn.k_proj.weight",
            "[64, 64]",
            "[32, 64]",
        ),
        (
            "granitemoehybrid/plain",
            "num_local_experts",
            5,
            "model.layers.0.block_sparse_moe.input_linear.weight",
            "[5, 24, 48]",
            "[4, 24, 48]",
        ),
        (
            "mamba2/plain",
            "state_size",
            17,
            "backbone.layers.0.mixer.conv1d.weight",
            "[130, 1, 4]",
            "[128, 1, 4]",
        ),
        (
            "mamba/plain",
            "conv_kernel",
            3,
            "backbone.layers.0.mixer.conv1d.weight",
            "[96, 1, 3]",
            "[96, 1, 4]",
        ),
        (
            "xlstm/plain",
            "num_heads",
            4,
            "backbone.blocks.0.mlstm_layer.igate_preact.weight",
            "[4, 64]",
            "[2, 64]",
        ),
    ] {
        let folder = copy(name);
        let config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
        set(&folder, &config, &[(field, json!(value))]);
        let error = refused(folder.path(), &[tensor, expected, found, "expected"]);
        let Error::Weights(WeightsError::Mismatch(mismatch)) = &error else { panic!("{error:?}") };
        let shapes =
            |p: &Problem| matches!(p, Problem::WrongShape { tensor: t, .. } if t == tensor);
        assert!(mismatch.problems.iter().any(shapes), "{error}");
    }
}

#[test]
fn more_or_fewer_layers_than_the_weights_have() {
    let folder = copy("llama/plain");
    let config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
    set(&folder, &config, &[("num_hidden_layers", json!(3))]);
    refused(folder.path(), &["model.layers.2.self_attn.q_proj.weight", "[64, 64]", "missing"]);
    set(&folder, &config, &[("num_hidden_layers", json!(1))]);
    // A warning, as for the layers that predict further tokens; an error in strict mode.
    crate::open(folder.path()).unwrap();
    let strict = kinglet::ModelOptions::new().threads(1).strict(true);
    let error = crate::open_with(folder.path(), &strict).err().unwrap().to_string();
    for part in ["model.layers.1.self_attn.q_proj.weight", "not part of the model"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_largest_sizes_that_pass_for_a_config_take_bounded_memory() {
    // Each count at its limit: what is built from it must stay small. The constant is the size for
    // 65536 experts, or the rotary frequencies of 4096 layers; no file needs to be large for that.
    const MOST: usize = 192 << 20;
    let layers = 4096;
    for (name, changes) in [
        ("llama/plain", vec![("num_hidden_layers", json!(layers)), ("head_dim", json!(4096))]),
        (
            "mixtral/plain",
            vec![("num_hidden_layers", json!(16)), ("num_local_experts", json!(4096))],
        ),
        (
            "mixtral/plain",
            vec![("num_hidden_layers", json!(layers)), ("num_local_experts", json!(16))],
        ),
        (
            "qwen3_moe/norm_topk",
            vec![("num_hidden_layers", json!(layers)), ("num_local_experts", json!(16))],
        ),
        (
            "granitemoehybrid/plain",
            vec![
                ("num_hidden_layers", json!(layers)),
                ("num_local_experts", json!(16)),
                ("layer_types", json!(null)),
            ],
        ),
        ("xlstm/plain", vec![("num_hidden_layers", json!(layers)), ("num_blocks", json!(layers))]),
        ("mamba2/plain", vec![("num_hidden_layers", json!(layers))]),
    ] {
        let folder = TempDir::copy_of(&case(name).folder);
        let config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
        set(&folder, &config, &changes);
        let (result, peak) = counting::peak(|| {
            kinglet::Model::open(folder.path(), &kinglet::ModelOptions::new().threads(1))
        });
        let error = result.err().expect("the weights cannot fit");
        println!("{name} {changes:?}: {} MB", peak >> 20);
        assert!(matches!(error, Error::Weights(WeightsError::Mismatch(_))), "{error:?}");
        assert!(error.to_string().len() < 8000, "{error}");
        assert!(peak <= MOST, "{name} {changes:?}: {peak} bytes");
    }
    // One more is refused before anything is built.
    for (name, field) in
        [("llama/plain", "num_hidden_layers"), ("mixtral/plain", "num_local_experts")]
    {
        let folder = copy(name);
        let config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
        set(&folder, &config, &[(field, json!(layers + 1))]);
        refused(folder.path(), &[field, "4097"]);
    }
}

#[test]
fn quantization_that_is_not_supported_is_refused_and_not_misread() {
    let folder = copy("llama/plain");
    let config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
    for field in ["quantization", "quantization_config"] {
        set(&folder, &config, &[(field, json!({"quant_method": "bitsandbytes"}))]);
        let error = refused(folder.path(), &[field]);
        assert!(matches!(error, Error::Config { source: ModelError::Unsupported { .. }, .. }));
    }
    set(&folder, &config, &[]);
    open(folder.path()).unwrap();
}
