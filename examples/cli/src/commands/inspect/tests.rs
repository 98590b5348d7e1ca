use std::path::{Path, PathBuf};

use kinglet::models::{Block, Config, Input, ModelSpec, spec};
use serde_json::Value;

use super::*;
use kinglet::analysis::ModelComponent as Component;

/// Every model folder of the fixtures.
fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    };
    let mut all: Vec<_> = folders(&root).iter().flat_map(|family| folders(family)).collect();
    all.retain(|folder| folder.join("config.json").is_file());
    all.sort();
    assert!(all.len() >= 70, "only {} fixtures", all.len());
    all
}

/// Elements of tensors that blocks share, without their first use.
fn repeated(spec: &ModelSpec) -> u64 {
    let elements = |blocks: &[Block]| -> u64 {
        let own = ModelSpec { blocks: blocks.to_vec(), ..spec.clone() };
        own.tensors().iter().map(|tensor| tensor.elements() as u64).sum()
    };
    let around = elements(&[]);
    let apart: u64 = spec.blocks.chunks(1).map(|block| elements(block) - around).sum();
    apart + around - elements(&spec.blocks)
}

fn report_of(folder: &Path, context: usize) -> Report {
    let Checkpoint { spec, weights, checked, .. } =
        Checkpoint::open(folder, CheckOptions { strict: false }).unwrap();
    Report::new(folder.into(), spec, Some((&weights, &checked)), context).unwrap()
}

fn stored_row<'a>(report: &'a Report, name: &str) -> &'a StoredRow {
    let rows = &report.stored.as_ref().unwrap().rows;
    rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"))
}

#[test]
fn every_fixture_has_as_many_parameters_as_its_tensors_have_elements() {
    for folder in fixtures() {
        let report = report_of(&folder, 100);
        // Includes tensors that were converted while loading.
        let options = CheckOptions { strict: false };
        let weights = Checkpoint::open(&folder, options).unwrap().weights;
        let ignored = &report.stored.as_ref().unwrap().checked.ignored;
        let needed = weights.tensors().filter(|tensor| !ignored.iter().any(|i| i == tensor.name));
        // Packed words hold several weights each; scales and biases hold none.
        let count = |tensor: kinglet::weights::TensorInfo<'_>| {
            let elements = tensor.shape.iter().product::<usize>() as u64;
            let beside = |part: &str| tensor.name.ends_with(part);
            match (tensor.dtype.as_str(), tensor.name.strip_suffix(".weight")) {
                ("U32", Some(_)) => {
                    let cols = *stored_row(&report, tensor.name).shape.last().unwrap() as u64;
                    elements / *tensor.shape.last().unwrap() as u64 * cols
                }
                _ if beside(".scales") || beside(".biases") || beside(".global_scale") => 0,
                _ => elements,
            }
        };
        let elements: u64 = needed.map(count).sum();
        assert_eq!(report.parameters.total(), elements, "{}", folder.display());
        let blocks = report
            .layers
            .iter()
            .flat_map(|run| run.blocks.iter().map(|block| block.parameters * run.layers() as u64));
        let outside = |c: &Component| matches!(c, Component::Embedding | Component::Head);
        let around = report.parameters.components.iter().filter(|(c, _)| outside(c));
        let around: u64 = around.map(|(_, count)| count.total).sum();
        let norm = &report.spec.head.norm;
        let norm: usize = [Some(&norm.weight), norm.bias.as_ref()]
            .into_iter()
            .flatten()
            .map(|tensor| tensor.elements())
            .sum();
        let sum = blocks.sum::<u64>() + around + norm as u64;
        // Each use of a shared block shows all of its parameters.
        assert_eq!(
            sum,
            elements + repeated(&report.spec),
            "{}: blocks, embedding, head, final norm",
            folder.display()
        );
    }
}

#[test]
fn memory_and_traffic_match_the_plan() {
    for folder in fixtures() {
        let report = report_of(&folder, 1000);
        let state = report.memory.recurrent + report.memory.key_value;
        assert_eq!(state, report.plan.state_bytes(1000) as u64);
        let stored = report.stored.as_ref().unwrap();
        assert_eq!(stored.by_dtype.iter().map(|(_, bytes)| bytes).sum::<u64>(), stored.bytes);
        let sum = stored.bytes + state + report.memory.prefill_buffers;
        assert_eq!(report.memory.total(), Some(sum));
        assert_eq!(stored.traffic.state, 2 * report.memory.recurrent);
        let dispatches: usize = report
            .layers
            .iter()
            .map(|run| run.layers() * run.blocks.iter().map(|b| b.dispatches).sum::<usize>())
            .sum();
        // Each block that reads the embeddings counts the op that keeps them, which the plan has once.
        let readers = report.spec.blocks.iter().filter(|b| b.input == Input::WithEmbeddings);
        let again = readers.count().saturating_sub(1);
        // The embedding and the head add one op each, and so do positions.
        let around = 2 + usize::from(report.spec.embedding.positions.is_some());
        assert_eq!(dispatches + around, report.plan.ops.len() + again, "{}", folder.display());
    }
}

/// Parameters of the model that a `config.json` describes.
fn parameters(config: &str) -> Parameters {
    Parameters::of(&spec(&Config::parse(config).unwrap()).unwrap())
}

#[test]
fn known_models_have_their_known_sizes() {
    // Counts that the hub shows for the checkpoints (safetensors metadata).
    let mixtral = parameters(
        r#"{"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
            "num_experts_per_tok": 2, "vocab_size": 32000, "tie_word_embeddings": false}"#,
    );
    assert_eq!(mixtral.total(), 46_702_792_704);
    // Six of eight experts of 3 * 4096 * 14336 in 32 layers are idle.
    assert_eq!(mixtral.active(), 46_702_792_704 - 6 * 32 * 3 * 4096 * 14336);

    let qwen2 = parameters(
        r#"{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
            "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
            "tie_word_embeddings": true}"#,
    );
    assert_eq!(qwen2.total(), 494_032_768);
    assert!(qwen2.tied && !qwen2.components.contains_key(&Component::Head));

    let mamba = parameters(
        r#"{"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16, "expand": 2,
            "conv_kernel": 4, "time_step_rank": 48, "vocab_size": 50280, "use_bias": false,
            "use_conv_bias": true, "tie_word_embeddings": true}"#,
    );
    assert_eq!(mamba.total(), 129_135_360);
}

#[test]
fn equal_layers_are_one_row() {
    let spec_of = |types: &[&str]| {
        let config = serde_json::json!({
            "model_type": "granitemoehybrid", "hidden_size": 64, "num_hidden_layers": types.len(),
            "layer_types": types, "mamba_n_heads": 8, "mamba_d_head": 16, "num_local_experts": 0,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        });
        spec(&Config::parse(&config.to_string()).unwrap()).unwrap()
    };
    let (m, a) = ("mamba", "attention");
    let runs = blocks::layers(&spec_of(&[m, m, m, a, m, a, a]));
    let found: Vec<_> = runs.iter().map(|r| (r.first, r.last, r.blocks[0].kind.as_str())).collect();
    let expected = [(0, 2, "mamba2"), (3, 3, "attention"), (4, 4, "mamba2"), (5, 6, "attention")];
    assert_eq!(found, expected);
    for run in &runs {
        assert_eq!(run.blocks.len(), 2);
        let most = if run.blocks[0].kind == "mamba2" { 3 } else { 4 };
        assert!(run.blocks[0].dispatches <= most && run.blocks[1].dispatches <= 2);
    }
}

#[test]
fn both_reports_show_every_part() {
    for folder in fixtures() {
        let report = report_of(&folder, 32_768);
        let stored = report.stored.as_ref().unwrap();
        for width in [30, 80, 200] {
            let parts = [
                tables::summary(&report, width),
                tables::tensors(stored, width),
                tables::plan(&report, width),
            ];
            let text = anstream::adapter::strip_str(&parts.concat()).to_string();
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for part in
                ["32,768 tokens", "recurrent state", "F", "moved per token", "embed", "head"]
            {
                assert!(words.contains(part), "{}: no {part} in\n{text}", folder.display());
            }
            // The first line is the folder, which is not wrapped.
            for line in text.lines().skip(1) {
                assert!(line.chars().count() <= width, "{}: {line:?}", folder.display());
            }
        }
        let json: Value = json::report(&report, true, true, Some(5));
        let sum = |list: &Value| -> u64 {
            list.as_array().unwrap().iter().map(|v| v["bytes"].as_u64().unwrap()).sum()
        };
        assert_eq!(sum(&json["tensors"]), sum(&json["weights"]["formats"]));
        if stored.checked.ignored.is_empty() {
            assert_eq!(sum(&json["tensors"]), stored.bytes, "{}", folder.display());
        }
        assert_eq!(json["parameters"]["total"], report.parameters.total());
        assert_eq!(json["plan"].as_array().unwrap().len(), report.plan.ops.len());
        assert_eq!(json["check"]["bytes"], 5);
        assert!(json["decode_traffic"]["total"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_config_alone_is_enough() {
    for folder in fixtures() {
        let spec = kinglet::read_spec(&folder).unwrap();
        let report = Report::new(folder.clone(), spec, None, 4096).unwrap();
        let stored = report_of(&folder, 4096).parameters;
        // A stored head is used even if the config ties it.
        if report.parameters.tied == stored.tied {
            assert_eq!(report.parameters, stored, "{}", folder.display());
        }
        assert!(tables::summary(&report, 80).contains("No weights in the folder"));
        let json = json::report(&report, false, false, None);
        assert!(json["weights"].is_null() && json["memory"]["total"].is_null());
        assert!(json.get("plan").is_none() && json.get("check").is_none());
    }
}

#[test]
fn quantized_tensors_are_listed_with_their_formats() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/quantized");
    let report = report_of(&root.join("granite-nvfp4"), 100);
    let row = |name: &str| {
        let row = stored_row(&report, name);
        (row.shape.clone(), row.format.clone(), row.bits_per_weight())
    };
    let (shape, format, bits) = row("model.layers.0.self_attn.q_proj.weight");
    assert_eq!((shape, format.as_str(), bits), (vec![64, 64], "nvfp4", 4.5));
    let (_, format, bits) = row("model.layers.0.self_attn.o_proj.weight");
    assert_eq!((format.as_str(), bits), ("8-bit affine, groups of 64", 8.5));
    assert_eq!(row("model.norm.weight").1, "BF16");
    let json = json::report(&report, false, false, None);
    let formats = json["weights"]["formats"].as_array().unwrap();
    assert_eq!(formats.len(), 3);
    assert!(json.get("tensors").is_none());
    let bits = json["weights"]["bits_per_weight"].as_f64().unwrap();
    assert!((4.5..8.5).contains(&bits), "{bits}");
    // A token moves every byte once, but only one row of the embedding (quantized too).
    let stored = report.stored.as_ref().unwrap();
    let embedding = stored_row(&report, "model.embed_tokens.weight");
    let all = stored.bytes - embedding.bytes + embedding.bytes / report.spec.vocab as u64;
    assert_eq!(stored.traffic.weights, all);
}
