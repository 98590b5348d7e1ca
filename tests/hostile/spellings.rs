//! Families whose checkpoints are stored in ways of their own: the same logits, bit for bit.

use std::path::Path;

use kinglet::{Activations, Backend, Model, ModelOptions};
use kinglet_tests::temp::TempDir;
use kinglet_tests::{Case, case_named, relative_l2};
use serde_json::{Value, json};

use crate::weights::{Entry, read, write};

fn logits(folder: &Path, case: &Case) -> Vec<u32> {
    let options = ModelOptions::new().threads(1).activations(Activations::F32);
    let options = options.backend(kinglet::Backend::Cpu).strict(true);
    let mut session = Model::open(folder, &options).unwrap().session().unwrap();
    session.feed_all(&case.tokens[..24]).unwrap().iter().map(|x| x.to_bits()).collect()
}

/// Asserts that the case has the same logits after `edit`, which must change its tensors.
fn check(name: &str, edit: impl Fn(&mut Vec<Entry>)) {
    let case = case_named(name);
    let folder = TempDir::copy_of(&case.folder);
    let entries = read(&folder);
    let mut changed = entries.clone();
    edit(&mut changed);
    changed.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(changed != entries, "{name}: nothing changed");
    write(&folder, &changed);
    assert_eq!(logits(folder.path(), &case), logits(&case.folder, &case), "{name}");
}

#[test]
fn norms_of_olmo_hybrid_have_two_names() {
    for name in ["olmo_hybrid/plain", "olmo_hybrid/rope", "olmo_hybrid/bf16"] {
        check(name, |entries| {
            for (name, ..) in entries {
                *name = name
                    .replace("attention_layer_norm", "input_layernorm")
                    .replace("feedforward_layer_norm", "post_attention_layernorm");
            }
        });
    }
}

/// The channels of queries, keys and values of a fixture's layers.
const CUTS: [usize; 3] = [16, 16, 24];

#[test]
fn convolutions_of_olmo_hybrid_are_cut_anywhere() {
    for cuts in [CUTS, [1, 54, 1], [30, 20, 6]] {
        check("olmo_hybrid/plain", |entries| {
            let part = |layer: usize, part: &str| {
                format!("model.layers.{layer}.linear_attn.{part}_conv1d.weight")
            };
            for layer in [0, 1] {
                let mut bytes = Vec::new();
                for name in ["q", "k", "v"].map(|name| part(layer, name)) {
                    bytes.extend(&entries.iter().find(|entry| entry.0 == name).unwrap().3);
                }
                for (name, channels) in ["q", "k", "v"].into_iter().zip(cuts) {
                    let name = part(layer, name);
                    let entry = entries.iter_mut().find(|entry| entry.0 == name).unwrap();
                    entry.2[0] = channels;
                    let row = entry.2[2] * 4;
                    entry.3 = bytes.drain(..channels * row).collect();
                }
                assert!(bytes.is_empty());
            }
        });
    }
}

/// A block that several layers share is stored once, or with each of them.
#[test]
fn copies_of_shared_blocks_are_nothing_to_speak_of() {
    for (case, shared, copy) in [
        ("zamba2/adapters", "layers.0.shared_transformer.", "layers.3.shared_transformer."),
        ("zamba/plain", "layers.1.shared_transf.", "layers.3.shared_transf."),
    ] {
        check(case, |entries| {
            let copies = entries.iter().filter(|entry| entry.0.contains(shared)).cloned();
            let copies: Vec<Entry> = copies
                .map(|(name, dtype, shape, bytes)| {
                    (name.replace(shared, copy), dtype, shape, bytes)
                })
                .collect();
            entries.extend(copies);
        });
    }
}

/// MiniMax published its model with code and names of fields of its own. Its decays are the reference's but for a part in 100,000.
#[test]
fn minimax_has_an_older_spelling() {
    let case = case_named("minimax/plain");
    let text = std::fs::read_to_string(case.folder.join("config.json")).unwrap();
    let config: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    for (model_type, class) in
        [("minimax_text_01", "MiniMaxText01ForCausalLM"), ("minimax_m1", "MiniMaxM1ForCausalLM")]
    {
        let mut older = config.clone();
        for part in ["linear", "full"] {
            for factor in ["alpha", "beta"] {
                let value = older.remove(&format!("{part}_attn_{factor}_factor")).unwrap();
                older.insert(format!("layernorm_{part}_attention_{factor}"), value);
            }
        }
        for factor in ["alpha", "beta"] {
            let value = older.remove(&format!("mlp_{factor}_factor")).unwrap();
            older.insert(format!("layernorm_mlp_{factor}"), value);
        }
        let kinds = older.remove("layer_types").unwrap();
        let kinds = kinds.as_array().unwrap().iter();
        let kinds: Vec<u8> = kinds.map(|kind| u8::from(kind == "full_attention")).collect();
        let theta = older.remove("rope_parameters").unwrap()["rope_theta"].clone();
        let new = json!({
            "model_type": model_type, "architectures": [class], "attn_type_list": kinds,
            "rope_theta": theta, "rotary_dim": older["head_dim"], "postnorm": true,
            "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid",
        });
        older.extend(new.as_object().unwrap().clone());
        let folder = TempDir::copy_of(&case.folder);
        folder.write("config.json", Value::Object(older).to_string());
        // The decays are no tensors there.
        let entries = read(&folder);
        let kept = |name: &str| !name.ends_with("_decay") && !name.ends_with("slope_rate");
        let weights: Vec<Entry> = entries.iter().filter(|entry| kept(&entry.0)).cloned().collect();
        assert!(weights.len() < entries.len());
        write(&folder, &weights);
        let options = ModelOptions::new().threads(1).activations(Activations::F32);
        let options = options.backend(Backend::Cpu).strict(true);
        let model = Model::open(folder.path(), &options).unwrap();
        let mut session = model.session().unwrap();
        let error = relative_l2(session.feed_all(&case.tokens).unwrap(), &case.logits);
        assert!(error < 1e-5, "{model_type}: {error:e}");
    }
}
