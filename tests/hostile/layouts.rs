//! Checkpoints with other names and stacks than the family's usual ones, as other programs and
//! versions store them: the same logits, bit for bit.

use std::collections::{BTreeMap, BTreeSet};

use kinglet::models::{Quantization, supported};
use kinglet::weights::{Problem, WeightsError};
use kinglet::{Activations, Checkpoint, Error, Model, ModelOptions};
use kinglet_tests::temp::TempDir;
use kinglet_tests::{Case, case_named, cases, foreign_cases, quantized_cases};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::weights::{Entry, read, write};
use crate::{open, refused};

/// A tensor of a module: type, shape, bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);
/// The tensors of a matrix, by the suffix of their names: `weight`, `scales`, `qweight`, ...
type Parts = BTreeMap<String, Tensor>;

/// The separated experts of a layer: gate, up and down of each.
struct Experts {
    /// Name of their module, up to its last dot.
    outer: String,
    name: String,
    all: Vec<[Parts; 3]>,
}

/// All cases with weights in a single file.
fn all_cases() -> Vec<Case> {
    let all = [cases(), quantized_cases(), foreign_cases()].into_iter().flatten();
    all.filter(|case| case.folder.join("model.safetensors").is_file()).collect()
}

fn options() -> ModelOptions {
    ModelOptions::new().threads(1).activations(Activations::F32).backend(kinglet::Backend::Cpu)
}

fn logits(model: &Model, case: &Case) -> Vec<u32> {
    let mut session = model.session().unwrap();
    session.feed_all(&case.tokens[..24]).unwrap().iter().map(|x| x.to_bits()).collect()
}

/// Opens the case after each of `edits`: each must be accepted in strict mode and give the same
/// logits. An edit that returns `None` does not apply. Counts the applied edits by family.
fn check(
    edits: &[(&str, &dyn Fn(Vec<Entry>) -> Option<Vec<Entry>>)],
) -> BTreeSet<(String, String)> {
    let (mut done, mut failures) = (BTreeSet::new(), Vec::new());
    for case in all_cases() {
        let folder = TempDir::copy_of(&case.folder);
        let entries = read(&folder);
        let mut expected: Option<(Vec<u32>, String)> = None;
        for (name, edit) in edits {
            let Some(changed) = edit(entries.clone()) else { continue };
            let (expected, family) = expected.get_or_insert_with(|| {
                let model = Model::open(&case.folder, &options()).unwrap();
                (logits(&model, &case), model.spec().model_type.clone())
            });
            write(&folder, &changed);
            let case_name = &case.name;
            match Model::open(folder.path(), &options().strict(true)) {
                Ok(model) if logits(&model, &case) == *expected => {
                    done.insert((name.to_string(), family.clone()));
                }
                Ok(_) => failures.push(format!("{case_name} {name}: other logits")),
                Err(error) => failures.push(format!("{case_name} {name}: {error}")),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    done
}

fn renamed(entries: Vec<Entry>, name: impl Fn(&str) -> String) -> Option<Vec<Entry>> {
    let changed = entries.into_iter().map(|(old, d, s, b)| (name(&old), d, s, b));
    Some(changed.collect())
}

#[test]
fn a_model_may_stand_under_any_prefix_or_none() {
    let base = |name: &str| name.split('.').next().unwrap().to_string();
    let inside = |name: &str| !name.starts_with("lm_head");
    let done = check(&[
        ("no prefix", &|all| {
            renamed(all, |n| {
                if inside(n) { n.replacen(&format!("{}.", base(n)), "", 1) } else { n.into() }
            })
        }),
        ("around all", &|all| renamed(all, |n| format!("language_model.{n}"))),
        ("module", &|all| renamed(all, |n| format!("module.{n}"))),
        ("two around", &|all| renamed(all, |n| format!("_orig_mod.model.{n}"))),
        ("within", &|all| {
            renamed(all, |n| match n.split_once('.') {
                Some((base, rest)) if inside(n) => format!("{base}.language_model.{rest}"),
                _ => n.into(),
            })
        }),
        ("instead", &|all| {
            renamed(all, |n| match n.split_once('.') {
                Some((_, rest)) if inside(n) => format!("text_model.{rest}"),
                _ => format!("text_model.{n}"),
            })
        }),
    ]);
    assert_eq!(done.len(), 6 * supported().count(), "{done:?}");
}

/// Part of a larger model with tensors named like those of the text part: all names together tell
/// which is which.
#[test]
fn other_parts_with_the_same_names_are_not_taken_for_the_model() {
    let folder = TempDir::copy_of(&case_named("llama/plain").folder);
    let case = case_named("llama/plain");
    let entries = read(&folder);
    let mut all: Vec<Entry> = Vec::new();
    for (name, dtype, shape, bytes) in &entries {
        let (outer, rest) = name.split_once('.').unwrap();
        let text = match outer {
            "model" => format!("model.text_model.{rest}"),
            _ => name.clone(),
        };
        all.push((text, *dtype, shape.clone(), bytes.clone()));
        // One layer less, and other numbers.
        if outer == "model" && !rest.starts_with("layers.1.") {
            all.push((format!("a_tower.{rest}"), *dtype, shape.clone(), vec![0; bytes.len()]));
        }
    }
    write(&folder, &all);
    let expected = logits(&Model::open(&case.folder, &options()).unwrap(), &case);
    assert_eq!(logits(&open(folder.path()).unwrap(), &case), expected);
}

#[test]
fn the_first_mamba_checkpoints_called_the_embedding_otherwise() {
    let done = check(&[("embedding", &|all| {
        all.iter().any(|e| e.0.contains("embeddings.")).then_some(())?;
        renamed(all, |n| n.replace("embeddings.", "embedding."))
    })]);
    let families: Vec<&str> = done.iter().map(|(_, family)| family.as_str()).collect();
    assert_eq!(families, ["falcon_mamba", "mamba", "mamba2", "nemotron_h", "xlstm"]);
}

/// Names of gate, up and down within a module of experts.
const SEPARATE: [[&str; 3]; 2] = [["gate_proj", "up_proj", "down_proj"], ["w1", "w3", "w2"]];

/// Part `index` of `count` of the rows, along the second-to-last dimension, or the only one.
fn rows((dtype, shape, bytes): &Tensor, index: usize, count: usize) -> Tensor {
    let axis = shape.len() - 2;
    let (outer, rows): (usize, usize) = (shape[..axis].iter().product(), shape[axis]);
    let own = bytes.len() / outer / count;
    let pieces = bytes.chunks(bytes.len() / outer);
    let bytes = pieces.flat_map(|piece| &piece[index * own..][..own]).copied().collect();
    let mut shape = shape.clone();
    shape[axis] = rows / count;
    (*dtype, shape, bytes)
}

/// The rows of several tensors, concatenated.
fn joined(tensors: &[&Tensor]) -> Tensor {
    let (dtype, mut shape, _) = tensors[0].clone();
    shape[0] = tensors.iter().map(|tensor| tensor.1[0]).sum();
    (dtype, shape, tensors.iter().flat_map(|tensor| tensor.2.clone()).collect())
}

fn stacked(tensors: &[&Tensor]) -> Tensor {
    let (dtype, shape, _) = tensors[0].clone();
    let shape = [&[tensors.len()][..], &shape].concat();
    (dtype, shape, tensors.iter().flat_map(|tensor| tensor.2.clone()).collect())
}

/// The matrices of a stack.
fn unstacked((dtype, shape, bytes): &Tensor) -> Vec<Tensor> {
    let pieces = bytes.chunks(bytes.len() / shape[0]);
    pieces.map(|piece| (*dtype, shape[1..].to_vec(), piece.to_vec())).collect()
}

fn each(parts: &Parts, change: impl Fn(&Tensor) -> Tensor) -> Parts {
    parts.iter().map(|(name, tensor)| (name.clone(), change(tensor))).collect()
}

/// Removes the matrix `NAME` with all its tensors.
fn take(entries: &mut Vec<Entry>, name: &str) -> Option<Parts> {
    let mut parts = Parts::new();
    entries.retain(|(full, dtype, shape, bytes)| {
        let Some(part) = full.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) else {
            return true;
        };
        parts.insert(part.into(), (*dtype, shape.clone(), bytes.clone()));
        false
    });
    (!parts.is_empty()).then_some(parts)
}

fn put(entries: &mut Vec<Entry>, name: &str, parts: &Parts) {
    for (part, (dtype, shape, bytes)) in parts {
        entries.push((format!("{name}.{part}"), *dtype, shape.clone(), bytes.clone()));
    }
}

/// Removes the experts of every layer, in whatever layout a fixture has them.
fn take_experts(entries: &mut Vec<Entry>) -> Option<Vec<Experts>> {
    let mut layers = BTreeSet::new();
    for (name, ..) in entries.iter() {
        for module in ["mlp", "block_sparse_moe"] {
            if let Some((outer, _)) = name.split_once(&format!(".{module}.")) {
                layers.insert((format!("{outer}."), module));
            }
        }
    }
    let mut found = Vec::new();
    for (outer, name) in layers {
        let path = format!("{outer}{name}");
        let mut all: Vec<[Parts; 3]> = Vec::new();
        for names in SEPARATE {
            while let Some(gate) =
                take(entries, &format!("{path}.experts.{}.{}", all.len(), names[0]))
            {
                let expert = format!("{path}.experts.{}", all.len());
                let mut other =
                    |index: usize| take(entries, &format!("{expert}.{}", names[index])).unwrap();
                all.push([gate, other(1), other(2)]);
            }
        }
        let stacks = |parts: [Parts; 3]| {
            let count = parts[0]["weight"].1[0];
            let expert = |e: usize| {
                // A factor per matrix of a stack becomes one per tensor.
                let own = |tensor: &Tensor| match &tensor.1[..] {
                    [_] => (tensor.0, vec![1], tensor.2[4 * e..][..4].to_vec()),
                    _ => unstacked(tensor)[e].clone(),
                };
                parts.each_ref().map(|parts| each(parts, own))
            };
            (0..count).map(expert).collect::<Vec<_>>()
        };
        if let Some(gate) = take(entries, &format!("{path}.switch_mlp.gate_proj")) {
            let up = take(entries, &format!("{path}.switch_mlp.up_proj")).unwrap();
            let down = take(entries, &format!("{path}.switch_mlp.down_proj")).unwrap();
            all = stacks([gate, up, down]);
        } else if let Some(both) = take(entries, &format!("{path}.input_linear")) {
            let halves = [0, 1].map(|half| each(&both, |tensor| rows(tensor, half, 2)));
            let [gate, up] = halves;
            all = stacks([gate, up, take(entries, &format!("{path}.output_linear")).unwrap()]);
        }
        if !all.is_empty() {
            found.push(Experts { outer, name: name.into(), all });
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Whether several matrices can become one tensor: dense, or MLX's codes without individual
/// factors.
fn joinable(layers: &[Experts]) -> bool {
    let parts = layers.iter().flat_map(|layer| layer.all.iter().flatten());
    parts.flat_map(|parts| parts.keys()).all(|p| matches!(&**p, "weight" | "scales" | "biases"))
}

/// Renames the router of each layer, and the module of the experts. A bias for the selection keeps its name.
fn route(entries: &mut [Entry], layers: &[Experts], module: &str, router: &str) {
    for Experts { outer, name, .. } in layers {
        for entry in entries.iter_mut() {
            for old in ["gate", "router.layer"] {
                let part = entry.0.strip_prefix(&format!("{outer}{name}.{old}."));
                if let Some(part) = part.filter(|part| !part.contains("correction")) {
                    entry.0 = format!("{outer}{module}.{router}.{part}");
                }
            }
        }
    }
}

/// Stores each expert's matrices separately.
fn separate(
    mut entries: Vec<Entry>,
    module: &str,
    names: [&str; 3],
    router: &str,
) -> Option<Vec<Entry>> {
    let layers = take_experts(&mut entries)?;
    route(&mut entries, &layers, module, router);
    for Experts { outer, all, .. } in &layers {
        for (e, expert) in all.iter().enumerate() {
            for (parts, name) in expert.iter().zip(names) {
                put(&mut entries, &format!("{outer}{module}.experts.{e}.{name}"), parts);
            }
        }
    }
    Some(entries)
}

/// Stores the experts in stacks named by `name`, gate and up fused if both names are equal.
/// `dense`: only weights, whose tensors have these names without `.weight`.
fn stacks(
    mut entries: Vec<Entry>,
    module: &str,
    names: [&str; 3],
    router: &str,
    dense: bool,
) -> Option<Vec<Entry>> {
    let layers = take_experts(&mut entries)?;
    let plain = |layer: &Experts| layer.all.iter().flatten().all(|parts| parts.len() == 1);
    if !joinable(&layers) || dense && !layers.iter().all(plain) {
        return None;
    }
    route(&mut entries, &layers, module, router);
    let [gate, up, down] = names;
    for Experts { outer, all, .. } in &layers {
        for part in all[0][0].keys() {
            let own = |e: usize, index: usize| &all[e][index][part];
            let stack =
                |index: usize| stacked(&(0..all.len()).map(|e| own(e, index)).collect::<Vec<_>>());
            let mut tensors = vec![(down, stack(2))];
            if gate == up {
                let both: Vec<Tensor> =
                    (0..all.len()).map(|e| joined(&[own(e, 0), own(e, 1)])).collect();
                tensors.push((gate, stacked(&both.iter().collect::<Vec<_>>())));
            } else {
                tensors.extend([(gate, stack(0)), (up, stack(1))]);
            }
            for (name, (dtype, shape, bytes)) in tensors {
                let end = if dense { String::new() } else { format!(".{part}") };
                entries.push((format!("{outer}{module}.{name}{end}"), dtype, shape, bytes));
            }
        }
    }
    Some(entries)
}

#[test]
fn experts_are_found_one_by_one_and_in_stacks() {
    let [projections, numbered] = SEPARATE;
    let fused = ["experts.gate_up_proj", "experts.gate_up_proj", "experts.down_proj"];
    let switch = ["switch_mlp.gate_proj", "switch_mlp.up_proj", "switch_mlp.down_proj"];
    let granite = ["input_linear", "input_linear", "output_linear"];
    let done = check(&[
        ("one by one", &|all| separate(all, "mlp", projections, "gate")),
        ("one by one, w1", &|all| separate(all, "block_sparse_moe", numbered, "gate")),
        ("granite one by one", &|all| {
            separate(all, "block_sparse_moe", projections, "router.layer")
        }),
        ("transformers 5", &|all| stacks(all, "mlp", fused, "gate", true)),
        ("transformers 5, granite", &|all| stacks(all, "block_sparse_moe", fused, "router", true)),
        ("fused modules", &|all| stacks(all, "mlp", fused, "gate", false)),
        ("mlx", &|all| stacks(all, "block_sparse_moe", switch, "gate", false)),
        ("mlx, mlp", &|all| stacks(all, "mlp", switch, "router.layer", false)),
        ("granite", &|all| stacks(all, "block_sparse_moe", granite, "router", false)),
        ("granite, mlp", &|all| stacks(all, "mlp", granite, "router.layer", false)),
    ]);
    assert_eq!(done.len(), 10 * 10, "{done:?}");
}

/// Fused layouts of a layer's feed-forward network and attention, if they have no biases.
#[test]
fn halves_and_projections_are_found_in_one_tensor() {
    fn fuse(mut all: Vec<Entry>, from: &[&str], to: &str) -> Option<Vec<Entry>> {
        let names: BTreeSet<String> = all
            .iter()
            .filter_map(|e| Some(e.0.split_once(&format!(".{}.", from[0]))?.0.into()))
            .collect();
        // Experts have separate tests, and the gates of attention are no halves.
        let other = |path: &str| {
            path.contains("experts")
                || path.contains("switch")
                || path.ends_with("block_sparse_moe")
                || path.ends_with("self_attn") && from[0] == "gate_proj"
        };
        let names = names.into_iter().filter(|path| !other(path));
        // Rows of queries alternate with those of their gates, or the projections are those of a gated delta rule.
        if from[0] == "q_proj" && all.iter().any(|entry| entry.0.ends_with(".A_log")) {
            return None;
        }
        let mut found = false;
        for path in names {
            // Latent attention has queries, and no keys of its own.
            let parts = from.iter().map(|name| take(&mut all, &format!("{path}.{name}")));
            let parts = parts.collect::<Option<Vec<Parts>>>()?;
            let first = &parts[0];
            let apart = parts.iter().any(|other| {
                other.keys().ne(first.keys())
                    || other.iter().any(|(name, tensor)| {
                        let own = &first[name];
                        tensor.0 != own.0 || tensor.1.len() != 2 || tensor.1[1] != own.1[1]
                    })
            });
            let known = first.keys().all(|key| matches!(&**key, "weight" | "scales" | "biases"));
            if apart || !known {
                return None;
            }
            let keys = first.keys().map(|key| {
                (key.clone(), joined(&parts.iter().map(|parts| &parts[key]).collect::<Vec<_>>()))
            });
            put(&mut all, &format!("{path}.{to}"), &keys.collect());
            found = true;
        }
        found.then_some(all)
    }
    let done = check(&[
        ("qkv", &|all| fuse(all, &["q_proj", "k_proj", "v_proj"], "qkv_proj")),
        ("gate_up", &|all| fuse(all, &["gate_proj", "up_proj"], "gate_up_proj")),
        ("granite's names", &|all| {
            let all = fuse(all, &["gate_proj", "up_proj"], "input_linear")?;
            let inside = |n: &str| n.contains("experts") || n.contains("switch_mlp");
            renamed(
                all,
                |n| if inside(n) { n.into() } else { n.replace("down_proj", "output_linear") },
            )
        }),
        ("granite's shared expert", &|mut all| {
            let names: BTreeSet<String> = all
                .iter()
                .filter_map(|e| Some(e.0.split_once(".shared_mlp.input_linear.")?.0.to_string()))
                .collect();
            names.first()?;
            for path in names {
                let both = take(&mut all, &format!("{path}.shared_mlp.input_linear"))?;
                if both.values().any(|tensor| tensor.1.len() != 2 || tensor.1[0] % 2 != 0) {
                    return None;
                }
                let down = take(&mut all, &format!("{path}.shared_mlp.output_linear"))?;
                for (half, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                    let half = each(&both, |tensor| rows(tensor, half, 2));
                    put(&mut all, &format!("{path}.shared_mlp.{name}"), &half);
                }
                put(&mut all, &format!("{path}.shared_mlp.down_proj"), &down);
            }
            Some(all)
        }),
    ]);
    let families = |edit: &str| done.iter().filter(|(name, _)| name == edit).count();
    assert!(families("qkv") >= 9, "{done:?}");
    assert!(families("gate_up") >= 6 && families("granite's names") >= 6, "{done:?}");
    assert_eq!(families("granite's shared expert"), 2);
}

/// FP8 experts stored separately, with a scale per matrix, row or block, and the same as stacks.
#[test]
fn stacks_of_fp8_are_what_their_experts_are() {
    let case = case_named("quantized/mixtral-unquantized");
    let folder = TempDir::copy_of(&case.folder);
    let mut config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
    let entries = read(&folder);
    for (kind, block) in [("tensor", None), ("row", None), ("block", Some([16, 32]))] {
        config["quantization_config"] = match block {
            Some(block) => json!({"quant_method": "fp8", "weight_block_size": block}),
            None => json!({"quant_method": "fp8"}),
        };
        folder.write("config.json", config.to_string());
        let mut plain = entries.clone();
        let mut layers = take_experts(&mut plain).unwrap();
        // Gate and up share a scale if one tensor holds both.
        for (l, layer) in layers.iter_mut().enumerate() {
            for (e, expert) in layer.all.iter_mut().enumerate() {
                for (m, parts) in expert.iter_mut().enumerate() {
                    let weight = parts.get_mut("weight").unwrap();
                    let [rows, cols] = weight.1[..] else { panic!() };
                    let codes = (0..rows * cols).map(|i| ((i * 37 + 11 * e + m) % 120) as u8);
                    *weight = (Dtype::F8_E4M3, vec![rows, cols], codes.collect());
                    let shape = match (kind, block) {
                        ("row", _) => vec![rows, 1],
                        (_, Some([r, c])) => vec![rows.div_ceil(r), cols.div_ceil(c)],
                        _ => vec![1, 1],
                    };
                    let own = if kind == "tensor" { m / 2 } else { m };
                    let scale = |i: usize| 0.001 * (1 + l + e + own + i % 5) as f32;
                    let scales = (0..shape.iter().product()).flat_map(|i| scale(i).to_le_bytes());
                    let scales = (Dtype::F32, shape.clone(), scales.collect());
                    parts.insert("weight_scale_inv".into(), scales);
                }
            }
        }
        let mut apart = plain.clone();
        for Experts { outer, name, all } in &layers {
            for (e, expert) in all.iter().enumerate() {
                for (parts, part) in expert.iter().zip(SEPARATE[0]) {
                    put(&mut apart, &format!("{outer}{name}.experts.{e}.{part}"), parts);
                }
            }
        }
        write(&folder, &apart);
        let checkpoint = Checkpoint::open(folder.path(), Default::default()).unwrap();
        assert!(matches!(checkpoint.quantization, Some(Quantization::Fp8 { .. })));
        assert!(checkpoint.conversion.matrices > 6);
        let expected = logits(&Model::open(folder.path(), &options()).unwrap(), &case);

        for (weight, scale) in [
            ("", "_scale_inv"),
            ("", "_scale"),
            (".weight", ".weight_scale"),
            (".weight", "_scale_inv"),
        ] {
            let mut stacks = plain.clone();
            for Experts { outer, name, all } in &layers {
                for (matrices, module) in [(&[0, 1][..], "gate_up_proj"), (&[2], "down_proj")] {
                    for (part, end) in [("weight", weight), ("weight_scale_inv", scale)] {
                        let one = |e: usize| {
                            let parts: Vec<_> =
                                matrices.iter().map(|&m| &all[e][m][part]).collect();
                            // A single scale for both halves stays one.
                            let shared = part != "weight" && kind == "tensor";
                            if shared { parts[0].clone() } else { joined(&parts) }
                        };
                        let own: Vec<Tensor> = (0..all.len()).map(one).collect();
                        let (dtype, shape, bytes) = stacked(&own.iter().collect::<Vec<_>>());
                        stacks.push((
                            format!("{outer}{name}.experts.{module}{end}"),
                            dtype,
                            shape,
                            bytes,
                        ));
                    }
                }
            }
            write(&folder, &stacks);
            let model = Model::open(folder.path(), &options().strict(true));
            let model = model.unwrap_or_else(|error| panic!("{kind} {weight} {scale}: {error}"));
            assert!(logits(&model, &case) == expected, "{kind} {weight} {scale}");
        }
    }
}

/// Tensors missing in every layout are reported with the names of the layout that the rest has.
#[test]
fn missing_tensors_are_named_as_the_checkpoint_would_have_them() {
    let case = case_named("qwen3_moe/norm_topk");
    let folder = TempDir::copy_of(&case.folder);
    let fused = ["experts.gate_up_proj", "experts.gate_up_proj", "experts.down_proj"];
    let all = stacks(read(&folder), "mlp", fused, "gate", true).unwrap();
    let all = renamed(all, |name| format!("language_model.{name}")).unwrap();
    for (name, ..) in &all {
        let mut rest = all.clone();
        rest.retain(|entry| entry.0 != *name);
        write(&folder, &rest);
        let error = refused(folder.path(), &[name, "missing"]);
        let Error::Weights(WeightsError::Mismatch(mismatch)) = &error else { panic!("{error:?}") };
        let missing = mismatch.problems.iter().filter(|p| matches!(p, Problem::Missing { .. }));
        assert_eq!(missing.count(), 1, "{error}");
    }
}

/// Thousands of names that could be a model's prefix.
#[test]
fn many_prefixes_take_no_time() {
    let case = case_named("llama/plain");
    let folder = TempDir::copy_of(&case.folder);
    let mut entries = read(&folder);
    for i in 0..5000 {
        entries.push((format!("p{i}.embed_tokens.weight"), Dtype::F32, vec![0], vec![]));
        entries.push((
            format!("p{i}.layers.0.input_layernorm.weight"),
            Dtype::F32,
            vec![0],
            vec![],
        ));
    }
    write(&folder, &entries);
    let expected = logits(&Model::open(&case.folder, &options()).unwrap(), &case);
    assert_eq!(logits(&Model::open(folder.path(), &options()).unwrap(), &case), expected);
}
