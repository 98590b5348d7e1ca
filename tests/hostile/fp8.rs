//! FP8 checkpoints of every family, in the forms that projects write: their logits equal those of
//! the dequantized weights.
//!
//! The checkpoints are made here from the fixtures, with scales that our formats hold exactly.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use kinglet::quant::e4m3;
use kinglet::weights::CheckOptions;
use kinglet::{Checkpoint, Error, ModelOptions};
use kinglet_tests::temp::TempDir;
use kinglet_tests::{Case, case_named, relative_l2, rounded_error};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::weights::{Entry, read, write};
use crate::{one_of_each_family, open_with};

/// Bound on the relative L2 error if the weights are held exactly.
const EXACT: f64 = 1e-5;
/// The same if they are encoded again in 8 bits, as in `foreign_layouts_are_converted`.
const ENCODED_ANEW: f64 = 1.5e-2;
/// Tokens of a comparison.
const TOKENS: usize = 24;

/// The scales of a matrix.
#[derive(Clone, Copy, Debug)]
enum Scales {
    /// One, f32 of any value.
    Tensor,
    /// One for each row, powers of two in bf16.
    Rows,
    /// One for each block, powers of two in f32.
    Blocks([usize; 2]),
    /// The same with the shape `[down, 1, across, 1]`.
    Blocks4d([usize; 2]),
    /// One for each block, f32 of any value: no format of ours holds these.
    AnyBlocks([usize; 2]),
}

/// How a project writes FP8 checkpoints.
struct Form {
    name: &'static str,
    scales: Scales,
    /// Suffix of the scales of `X.weight`.
    suffix: &'static str,
    /// `quantization_config`.
    config: Value,
    /// `hf_quant_config.json`, of older versions of modelopt.
    beside: Option<Value>,
    /// Whether scales of activations and caches are stored too.
    activations: bool,
    /// Whether experts are stacked, with stacked scales.
    stacked: bool,
    /// Whether every third matrix is stored unquantized.
    some: bool,
}

/// The forms, with blocks of `block`; `left_out` are modules that are not quantized.
fn forms(left_out: &[String]) -> Vec<Form> {
    let block = [16, 32];
    let fp8 = json!({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
        "weight_block_size": block, "modules_to_not_convert": left_out});
    let form = |name, scales, suffix, config: &Value| Form {
        name,
        scales,
        suffix,
        config: config.clone(),
        beside: None,
        activations: false,
        stacked: false,
        some: false,
    };
    let modelopt = |algorithm: &str| {
        json!({"quant_method": "modelopt", "quant_algo": algorithm, "ignore": left_out,
            "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": false},
            "producer": {"name": "modelopt", "version": "0.33.0"}})
    };
    let weights = json!({"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": false,
        "symmetric": true});
    let compressed = json!({"quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": left_out});
    vec![
        Form { some: true, ..form("fp8", Scales::Blocks(block), ".weight_scale_inv", &fp8) },
        Form {
            stacked: true,
            ..form("stacked fp8", Scales::Blocks(block), ".weight_scale_inv", &fp8)
        },
        form("fp8 of any scale", Scales::AnyBlocks(block), ".weight_scale_inv", &fp8),
        Form {
            activations: true,
            ..form("modelopt", Scales::Tensor, ".weight_scale", &modelopt("FP8"))
        },
        form(
            "modelopt by row",
            Scales::Rows,
            ".weight_scale",
            &modelopt("FP8_PER_CHANNEL_PER_TOKEN"),
        ),
        form(
            "modelopt by block",
            Scales::Blocks4d([128, 128]),
            ".weight_scale",
            &modelopt("FP8_PB_WO"),
        ),
        Form {
            activations: true,
            beside: Some(json!({"producer": {"name": "modelopt", "version": "0.19.0"},
                "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8",
                    "exclude_modules": left_out}})),
            ..form("modelopt beside the config", Scales::Tensor, ".weight_scale", &Value::Null)
        },
        Form {
            some: true,
            ..form("compressed-tensors", Scales::Rows, ".weight_scale", &compressed)
        },
    ]
}

/// The code whose value is nearest.
fn nearest(x: f32) -> u8 {
    static VALUES: LazyLock<Vec<f32>> = LazyLock::new(|| (0..127).map(e4m3).collect());
    // Codes of positive numbers are in order of their values.
    let above = VALUES.partition_point(|value| *value < x.abs()).clamp(1, 126);
    let is_nearer = x.abs() - VALUES[above - 1] < VALUES[above] - x.abs();
    let code = (above - usize::from(is_nearer)) as u8;
    if x < 0.0 { code | 0x80 } else { code }
}

/// A matrix in FP8: codes, type, shape and bytes of its scales, and the weights that they mean.
struct Packed {
    codes: Vec<u8>,
    scales: (Dtype, Vec<usize>, Vec<u8>),
    meaning: Vec<f32>,
}

fn pack(weights: &[f32], [rows, cols]: [usize; 2], scales: Scales) -> Packed {
    let [block_rows, block_cols] = match scales {
        Scales::Tensor => [rows, cols],
        Scales::Rows => [1, cols],
        Scales::Blocks(block) | Scales::Blocks4d(block) | Scales::AnyBlocks(block) => block,
    };
    let [down, across] = [rows.div_ceil(block_rows), cols.div_ceil(block_cols)];
    let block_of = |i: usize| i / cols / block_rows * across + i % cols / block_cols;
    let mut largest = vec![1e-6f32; down * across];
    for (i, x) in weights.iter().enumerate() {
        largest[block_of(i)] = largest[block_of(i)].max(x.abs());
    }
    let scale = |largest: f32| match scales {
        Scales::Tensor | Scales::AnyBlocks(_) => largest / 448.0,
        _ => (largest / 448.0).log2().ceil().exp2(),
    };
    let values: Vec<f32> = largest.into_iter().map(scale).collect();
    let codes: Vec<u8> =
        weights.iter().enumerate().map(|(i, x)| nearest(x / values[block_of(i)])).collect();
    let meaning = codes.iter().enumerate().map(|(i, &c)| e4m3(c) * values[block_of(i)]).collect();
    let floats = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let scales = match scales {
        Scales::Tensor => (Dtype::F32, vec![], floats),
        Scales::Rows => {
            let halves = values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes());
            (Dtype::BF16, vec![rows, 1], halves.collect())
        }
        Scales::Blocks4d(_) => (Dtype::F32, vec![down, 1, across, 1], floats),
        Scales::Blocks(_) | Scales::AnyBlocks(_) => (Dtype::F32, vec![down, across], floats),
    };
    Packed { codes, scales, meaning }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

fn dense(name: &str, shape: &[usize], values: &[f32]) -> Entry {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    (name.into(), Dtype::F32, shape.to_vec(), bytes)
}

/// Whether projects quantize a tensor: the projections, but not routers, embeddings and heads.
fn is_quantized(entry: &Entry) -> bool {
    let (name, dtype, shape, _) = entry;
    let kept = ["embed", "lm_head", "norm", "gate_preact", "conv1d", "conv.conv"];
    let routers =
        [".gate.weight", "router.weight", "router.layer.weight", "shared_expert_gate.weight"];
    *dtype == Dtype::F32
        && shape.len() == 2
        && name.ends_with(".weight")
        && !kept.iter().any(|part| name.contains(part))
        && !routers.iter().any(|part| name.ends_with(part))
}

/// Moves the experts that are stored one by one out of `entries`: for each module its gate and up,
/// then down, each `[experts, rows, cols]`.
fn take_experts(entries: &mut Vec<Entry>) -> Vec<(String, [usize; 3], Vec<f32>)> {
    let mut modules: BTreeMap<String, BTreeMap<usize, BTreeMap<String, Entry>>> = BTreeMap::new();
    entries.retain(|entry| {
        let Some((module, rest)) = entry.0.split_once(".mlp.experts.") else { return true };
        let Some((expert, name)) = rest.split_once('.') else { return true };
        let experts = modules.entry(format!("{module}.mlp.experts")).or_default();
        let own = experts.entry(expert.parse().unwrap()).or_default();
        own.insert(name.into(), entry.clone());
        false
    });
    let mut stacks = Vec::new();
    for (module, experts) in modules {
        let all = |name: &str| -> Vec<&Entry> {
            experts.values().map(|own| &own[&format!("{name}.weight")]).collect()
        };
        let (gate, up, down) = (all("gate_proj"), all("up_proj"), all("down_proj"));
        let [inner, hidden] = gate[0].2[..] else { panic!("{:?}", gate[0].2) };
        let both = gate.iter().zip(&up).flat_map(|(g, u)| [&g.3[..], &u.3[..]].concat());
        let both = floats(&both.collect::<Vec<u8>>());
        stacks.push((format!("{module}.gate_up_proj"), [gate.len(), 2 * inner, hidden], both));
        let down = floats(&down.iter().flat_map(|d| d.3.clone()).collect::<Vec<u8>>());
        stacks.push((format!("{module}.down_proj"), [gate.len(), hidden, inner], down));
    }
    stacks
}

/// The checkpoint in `form`, and one with the weights that it means. Returns how many matrices are
/// quantized too.
fn checkpoints(case: &Case, form: &Form) -> (TempDir, TempDir, usize) {
    let [packed, plain] = [(); 2].map(|()| TempDir::copy_of(&case.folder));
    let mut entries = read(&packed);
    let stacks = if form.stacked { take_experts(&mut entries) } else { Vec::new() };
    let (mut stored, mut meant, mut count) = (Vec::new(), Vec::new(), 0);
    let add = |stored: &mut Vec<Entry>, name: &str, shape: &[usize], packed: &Packed| {
        stored.push((name.into(), Dtype::F8_E4M3, shape.to_vec(), packed.codes.clone()));
    };
    for (index, entry) in entries.into_iter().enumerate() {
        let (name, _, shape, bytes) = &entry;
        if !is_quantized(&entry) || (form.some && index % 3 == 0) {
            stored.push(entry.clone());
            meant.push(entry);
            continue;
        }
        let matrix = pack(&floats(bytes), [shape[0], shape[1]], form.scales);
        count += 1;
        add(&mut stored, name, shape, &matrix);
        let stem = name.strip_suffix(".weight").unwrap();
        let (dtype, scale_shape, scales) = matrix.scales;
        stored.push((format!("{stem}{}", form.suffix), dtype, scale_shape, scales));
        if form.activations {
            stored.push(dense(&format!("{stem}.input_scale"), &[], &[0.25]));
            if name.ends_with("k_proj.weight") {
                stored.push(dense(&format!("{stem}.k_scale"), &[], &[0.5]));
            }
        }
        meant.push(dense(name, shape, &matrix.meaning));
    }
    for (name, shape @ [experts, rows, cols], values) in stacks {
        let all: Vec<Packed> = values
            .chunks_exact(rows * cols)
            .map(|one| pack(one, [rows, cols], form.scales))
            .collect();
        count += experts;
        let codes = all.iter().flat_map(|one| one.codes.clone()).collect();
        stored.push((name.clone(), Dtype::F8_E4M3, shape.to_vec(), codes));
        let (dtype, own, _) = &all[0].scales;
        let scale_shape = [&[experts][..], own].concat();
        let scales = all.iter().flat_map(|one| one.scales.2.clone()).collect();
        stored.push((format!("{name}_scale_inv"), *dtype, scale_shape, scales));
        let meaning: Vec<f32> = all.iter().flat_map(|one| one.meaning.clone()).collect();
        meant.push(dense(&name, &shape, &meaning));
    }
    write(&packed, &stored);
    write(&plain, &meant);
    let mut config = config(&packed);
    if !form.config.is_null() {
        config["quantization_config"] = form.config.clone();
    }
    packed.write("config.json", config.to_string());
    if let Some(beside) = &form.beside {
        packed.write("hf_quant_config.json", beside.to_string());
    }
    (packed, plain, count)
}

fn config(folder: &TempDir) -> Value {
    serde_json::from_str(&kinglet::models::tag_bare_floats(&folder.read("config.json"))).unwrap()
}

fn logits(folder: &TempDir, tokens: &[u32], what: &str) -> Vec<f32> {
    let options = ModelOptions::new().threads(1).backend(kinglet::Backend::Cpu);
    let options = options.activations(kinglet::Activations::F32);
    let model = kinglet::Model::open(folder.path(), &options);
    let model = model.unwrap_or_else(|error| panic!("{what}: {error}"));
    model.session().unwrap().feed_all(tokens).unwrap().to_vec()
}

#[test]
fn every_family_runs_in_every_form() {
    let mut stacks = 0;
    for case in one_of_each_family() {
        for form in forms(&["lm_head".into(), "model.layers.0.mlp.gate".into()]) {
            let what = format!("{} in {}", case.name, form.name);
            let (packed, plain, count) = checkpoints(&case, &form);
            assert!(count > 0, "{what}: nothing is quantized");
            let tokens = &case.tokens[..TOKENS];
            let [got, expected] = [&packed, &plain].map(|folder| logits(folder, tokens, &what));
            let checkpoint = Checkpoint::open(packed.path(), CheckOptions::default()).unwrap();
            assert_eq!(checkpoint.conversion.matrices, count, "{what}");
            assert!(checkpoint.checked.surplus.is_empty(), "{what}: {:?}", checkpoint.checked);
            let anew = matches!(form.scales, Scales::AnyBlocks(_));
            let inexact = &checkpoint.conversion.inexact;
            assert!(anew || inexact.is_empty(), "{what}: {inexact:?}");
            let (error, bound) = match inexact.is_empty() {
                true => (relative_l2(&got, &expected), EXACT),
                false => (rounded_error(&checkpoint.spec, &got, &expected), ENCODED_ANEW),
            };
            assert!(error <= bound, "{what}: {error:.2e}");
            stacks += usize::from(
                form.stacked
                    && read(&packed).iter().any(|e| e.2.len() == 3 && e.1 == Dtype::F8_E4M3),
            );
        }
    }
    // Qwen's families, OLMoE and others with experts in `mlp`.
    assert!(stacks >= 4, "{stacks} cases with stacks");
}

/// `Qwen3.5-FP8`: a larger model with the config of its text part inside, names with another
/// prefix, and a head of two layers of tensors that nothing uses.
#[test]
fn the_text_part_of_a_larger_model_runs() {
    for family in ["qwen3_5_text", "qwen3_5_moe_text"] {
        let case = case_named(&format!("{family}/plain"));
        for form in forms(&["model.visual.*".into()]) {
            let what = format!("{family} in {}", form.name);
            let (packed, plain, _) = checkpoints(&case, &form);
            let mut entries = read(&packed);
            for entry in &mut entries {
                entry.0 = match entry.0.strip_prefix("model.") {
                    Some(rest) => format!("model.language_model.{rest}"),
                    None => entry.0.clone(),
                };
            }
            entries.push(dense("model.visual.blocks.0.norm1.weight", &[3], &[0.0; 3]));
            entries.push(dense("mtp.norm.weight", &[3], &[0.0; 3]));
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            write(&packed, &entries);
            let mut inner = config(&packed);
            let quantization = inner.as_object_mut().unwrap().remove("quantization_config");
            let outer = family.strip_suffix("_text").unwrap();
            let mut whole = json!({"model_type": outer, "text_config": inner, "vision_config": {}});
            if let Some(quantization) = quantization {
                whole["quantization_config"] = quantization;
            }
            packed.write("config.json", whole.to_string());
            let tokens = &case.tokens[..TOKENS];
            let [got, expected] = [&packed, &plain].map(|folder| logits(folder, tokens, &what));
            let anew = matches!(form.scales, Scales::AnyBlocks(_));
            let error = relative_l2(&got, &expected);
            assert!(error <= if anew { ENCODED_ANEW } else { EXACT }, "{what}: {error:.2e}");
        }
    }
}

#[test]
fn other_algorithms_of_modelopt_are_refused_by_name() {
    let case = case_named("nemotron_h/plain");
    let form = &forms(&[])[3];
    let (folder, ..) = checkpoints(&case, form);
    let refused = |words: &[&str]| {
        let options = ModelOptions::new().threads(1);
        let error = open_with(folder.path(), &options).err().expect("it is refused");
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
        let said = error.to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    let mut stated = config(&folder);
    for algorithm in ["NVFP4", "W4A8_AWQ", "MIXED_PRECISION"] {
        stated["quantization_config"]["quant_algo"] = algorithm.into();
        folder.write("config.json", stated.to_string());
        refused(&["quantization_config.quant_algo", algorithm, "FP8"]);
    }
    stated.as_object_mut().unwrap().remove("quantization_config");
    folder.write("config.json", stated.to_string());
    let beside = json!({"quantization": {"quant_algo": "NVFP4", "group_size": 16}});
    folder.write("hf_quant_config.json", beside.to_string());
    refused(&["hf_quant_config.json", "quantization.quant_algo", "NVFP4"]);
    folder.write("hf_quant_config.json", "{");
    refused(&["hf_quant_config.json"]);
}
