use crate::testing::*;
use crate::{Input, ModelSpec, Residual, Target};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "zamba2", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 5, "layers_block_type": ["hybrid", "mamba", "hybrid", "hybrid", "linear_attention"],
        "num_attention_heads": 4, "num_mem_blocks": 2, "adapter_rank": 3, "n_mamba_heads": 6,
        "mamba_ngroups": 2, "mamba_d_state": 5, "use_shared_attention_adapter": true
    })
}

#[test]
fn shared_blocks_have_the_names_of_their_first_use() {
    let model = spec_of(&config());
    let names: Vec<&str> = model
        .blocks
        .iter()
        .map(|block| block.norm.as_ref().map_or("none", |norm| &norm.weight.name))
        .collect();
    let shared = |layer: usize, norm: &str| {
        format!("model.layers.{layer}.shared_transformer.{norm}_layernorm.weight")
    };
    let own = |layer: usize| format!("model.layers.{layer}.mamba_decoder.input_layernorm.weight");
    let expected = [
        shared(0, "input"),
        shared(0, "pre_ff"),
        own(0),
        "model.layers.1.input_layernorm.weight".into(),
        shared(2, "input"),
        shared(2, "pre_ff"),
        own(2),
        // The third use takes the first block again.
        shared(0, "input"),
        shared(0, "pre_ff"),
        own(3),
        "model.layers.4.input_layernorm.weight".into(),
    ];
    assert_eq!(names, expected);
    let name = |block: usize| &*attention(&model, block).k.weight.tensor.name;
    assert_eq!(name(0), name(7));
    // Adapters are numbered by use.
    let adapter = |block: usize| {
        let adapters = attention(&model, block).adapters.as_ref().expect("adapters");
        adapters.k.up.weight.tensor.name.clone()
    };
    assert_eq!(
        adapter(7),
        "model.layers.0.shared_transformer.self_attn.linear_k_adapter_list.2.1.weight"
    );
    // Each tensor is counted once.
    let tensors = model.tensors();
    let count = tensors.iter().filter(|tensor| tensor.name.ends_with("self_attn.q_proj.weight"));
    assert_eq!(count.count(), 2);
}

#[test]
fn the_shared_block_reads_the_embeddings_and_reaches_mamba_alone() {
    let model = spec_of(&config());
    let ways: Vec<_> = model.blocks[..4].iter().map(|b| (b.input, b.residual, b.target)).collect();
    assert_eq!(
        ways,
        [
            (Input::WithEmbeddings, Residual::Nothing, Target::Aside),
            (Input::Aside, Residual::Stream, Target::Aside),
            (Input::Aside, Residual::Stream, Target::Stream),
            (Input::Stream, Residual::Stream, Target::Stream),
        ]
    );
    let first = attention(&model, 0);
    assert_eq!((first.inputs(), first.head_dim, first.o.weight.rows), (48, 12, 24));
    assert_eq!(first.scale, (6f64.powf(-0.5)) as f32);
    assert_eq!(first.rope, None);
    let network = dense(&model, 1);
    assert_eq!(
        network.out.as_ref().expect("linear").weight.tensor.name,
        "model.layers.0.linear.weight"
    );
    assert_eq!(network.adapter.as_ref().expect("adapter").up.weight.rows, 40);
    let mamba = mamba2(&model, 2);
    assert_eq!((mamba.head_dim, mamba.groups, mamba.dt_limit.0), (8, 2, 0.001));
    assert!(mamba.conv.bias.is_some());
}

#[test]
fn a_long_context_without_rotation_is_a_larger_maximum() {
    let long = spec_of(&with(&config(), json!({"use_long_context": true})));
    assert_eq!(long, ModelSpec { max_positions: Some(16384), ..spec_of(&config()) });
}

#[test]
fn what_the_reference_does_not_compute_is_refused() {
    for (patch, parts) in [
        (json!({"num_key_value_heads": 2}), &["num_key_value_heads = 2", "adapters"][..]),
        (json!({"use_long_context": true, "use_mem_rope": true}), &["use_long_context"]),
        (
            json!({"layers_block_type": ["hybrid", "g", "hybrid", "hybrid", "mamba"]}),
            &["layer_types[1]", "\"g\""],
        ),
        (json!({"layers_block_type": null}), &["num_hidden_layers = 5", "54"]),
        (json!({"n_mamba_heads": 7}), &["48", "n_mamba_heads = 7"]),
        (json!({"num_attention_heads": 5}), &["num_attention_heads = 5"]),
    ] {
        let error = error_of(&with(&config(), patch));
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn without_a_tied_head_nothing_is_shared() {
    let model = spec_of(&with(&config(), json!({"tie_word_embeddings": false})));
    let name = |block: usize| &*attention(&model, block).k.weight.tensor.name;
    assert_eq!(name(7), "model.layers.3.shared_transformer.self_attn.k_proj.weight");
    assert!(!model.ignored.iter().any(|pattern| pattern.contains("layers.3")));
}

#[test]
fn the_default_layers() {
    let config = without(&with(&config(), json!({"num_hidden_layers": 54})), "layers_block_type");
    let model = spec_of(&config);
    let hybrid = model.blocks.iter().filter(|block| block.input == Input::WithEmbeddings);
    let layers: Vec<usize> = hybrid.map(|block| block.layer).collect();
    assert_eq!(layers, [6, 12, 18, 24, 30, 36, 42, 47, 51]);
}
