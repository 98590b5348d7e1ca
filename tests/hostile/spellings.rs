//! Families whose checkpoints are stored in ways of their own: the same logits, bit for bit.

use std::path::Path;

use kinglet::{Activations, Model, ModelOptions};
use kinglet_tests::temp::TempDir;
use kinglet_tests::{Case, case_named};

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
    check("zamba2/adapters", |entries| {
        let (shared, copy) = ("layers.0.shared_transformer.", "layers.3.shared_transformer.");
        let copies = entries.iter().filter(|entry| entry.0.contains(shared)).cloned();
        let copies: Vec<Entry> = copies
            .map(|(name, dtype, shape, bytes)| (name.replace(shared, copy), dtype, shape, bytes))
            .collect();
        entries.extend(copies);
    });
}
