//! The output: tensors, files, config.json, the report.

use std::fs;
use std::path::{Path, PathBuf};

use kinglet::weights::Weights;
use kinglet_tests::relative_l2;
use serde_json::{Value, json};

use super::{Out, TOKENS, dequantized, logits, names, quantize, report, tensors};
use crate::support::{fixture, kinglet};

#[test]
fn rounded_weights_are_those_of_mlx_to_the_byte() {
    for (family, args) in [
        ("llama", &["--bits", "4", "--group-size", "32"][..]),
        ("mixtral", &["--mode", "nvfp4"]),
        ("granitemoehybrid", &["--mode", "nvfp4"]),
        ("mamba", &["--mode", "nvfp4"]),
    ] {
        let out = Out::new();
        report(
            &fixture(&format!("{family}/plain")),
            &out,
            &[&["--method", "round"], args].concat(),
        );
        let ours = tensors(&out.path().join("model.safetensors"));
        let theirs =
            tensors(&kinglet_tests::fixtures().join(format!("quantize/{family}.safetensors")));
        assert!(ours.keys().eq(theirs.keys()), "{family}");
        for (name, tensor) in &ours {
            assert!(*tensor == theirs[name], "{family}: {name} differs");
        }
        // Codes, scales and unquantized tensors are all among them.
        assert!(ours.values().any(|(dtype, ..)| dtype == "U32"), "{family}");
        assert!(ours.values().any(|(dtype, ..)| dtype == "F32"), "{family}");
    }
}

#[test]
fn the_result_runs_and_gives_the_logits_of_its_decoded_weights() {
    // All of these vocabularies have 48 tokens.
    let tokens = TOKENS.map(|token| token % 48);
    for (model, args) in [
        ("xlstm/plain", &["--bits", "4", "--group-size", "32"][..]),
        ("xlstm/plain", &["--bits", "3", "--recipe", "mixed", "--target-bits", "6"]),
        ("xlstm/plain", &["--mode", "mxfp8"]),
        ("granitemoehybrid/plain", &["--mode", "nvfp4"]),
        ("mixtral/plain", &["--mode", "nvfp4"]),
        ("zamba/plain", &["--mode", "nvfp4"]),
        ("llama/plain", &["--bits", "6", "--group-size", "32"]),
        ("quantized/granitemoehybrid-unquantized", &["--bits", "5", "--group-size", "32"]),
    ] {
        let out = Out::new();
        report(&fixture(model), &out, args);
        let dense = dequantized(&out.path());
        let (got, expected) = (logits(&out.path(), &tokens), logits(dense.path(), &tokens));
        let error = relative_l2(&got, &expected);
        assert!(error <= 1e-5, "{model} {args:?}: {error:.1e}");
        // The codes matter: these logits are not the source's, but close to them.
        let source = logits(Path::new(&fixture(model)), &tokens);
        let moved = relative_l2(&got, &source);
        assert!((1e-4..0.9).contains(&moved), "{model} {args:?}: {moved:.1e}");
    }
}

/// The new config has the same factors, so the new weights must be known to contain them.
#[test]
fn factors_in_the_weights_are_still_known_there() {
    let (out, model) = (Out::new(), fixture("quantized/falcon_h1-unquantized"));
    report(&model, &out, &["--bits", "8", "--group-size", "32"]);
    let conv = "model.layers.0.mamba.conv1d.weight";
    assert_eq!(tensors(&out.path().join("model.safetensors"))[conv].1, [128, 4, 1]);
    let (got, source) = (logits(&out.path(), &TOKENS), logits(Path::new(&model), &TOKENS));
    let moved = relative_l2(&got, &source);
    assert!((1e-4..0.05).contains(&moved), "{moved:.1e}");
}

#[test]
fn what_is_kept_keeps_its_type_and_bytes() {
    let out = Out::new();
    let report = report(&fixture("xlstm/plain"), &out, &["--bits", "2", "--group-size", "32"]);
    let source = tensors(&Path::new(&fixture("xlstm/plain")).join("model.safetensors"));
    let new = tensors(&out.path().join("model.safetensors"));
    let kept: Vec<&Value> = report["tensors"].as_array().unwrap().iter().collect();
    let mut gates = 0;
    for tensor in kept.iter().filter(|tensor| tensor["format"].is_null()) {
        let name = tensor["name"].as_str().unwrap();
        assert_eq!(source[name], new[name], "{name}");
        gates += usize::from(tensor["kept"] == "gate");
    }
    assert_eq!(gates, 4, "igate and fgate of two layers");
    for name in ["norm_mlstm.weight", "multihead_norm.weight", "igate_preact.bias"] {
        let found = kept.iter().find(|tensor| tensor["name"].as_str().unwrap().ends_with(name));
        assert!(found.unwrap()["format"].is_null(), "{name}");
    }
}

/// A stack that is a parameter of its layer has no names for scales.
#[test]
fn parameters_that_are_no_module_are_kept() {
    let out = Out::new();
    let report = report(&fixture("zamba/plain"), &out, &["--mode", "nvfp4"]);
    let tensors = report["tensors"].as_array().unwrap();
    for (end, format, kept) in [
        ("x_proj_weight", json!(null), json!("parameter")),
        ("dt_proj_weight", json!(null), json!("parameter")),
        ("mamba.in_proj.weight", json!("nvfp4"), json!(null)),
        ("self_attn.q_proj.weight", json!("nvfp4"), json!(null)),
    ] {
        let found = tensors.iter().filter(|t| t["name"].as_str().unwrap().ends_with(end));
        let found: Vec<_> = found.map(|t| (&t["format"]["mode"], &t["kept"])).collect();
        assert!(!found.is_empty(), "{end}");
        assert!(found.iter().all(|found| *found == (&format, &kept)), "{end}: {found:?}");
    }
}

#[test]
fn the_report_has_sizes_and_errors() {
    let (out, more) = (Out::new(), Out::new());
    let model = fixture("xlstm/plain");
    let searched = report(&model, &out, &["--bits", "4", "--group-size", "32"]);
    let rounded =
        report(&model, &more, &["--bits", "4", "--group-size", "32", "--method", "round"]);
    assert_eq!(searched["default_format"], json!({"mode": "affine", "bits": 4, "group_size": 32}));
    assert_eq!((&searched["method"], &rounded["method"]), (&"search".into(), &"round".into()));
    let stored = Weights::open(&out.path()).unwrap().total_bytes();
    assert_eq!(searched["bytes"].as_u64().unwrap(), stored);
    let (weights, bits) = (searched["weights"].as_u64().unwrap(), &searched["bits_per_weight"]);
    assert!((bits.as_f64().unwrap() - 8.0 * stored as f64 / weights as f64).abs() < 1e-9);
    let q = |report: &Value| {
        let all = report["tensors"].as_array().unwrap().clone();
        all.into_iter().find(|t| t["name"] == "backbone.blocks.0.mlstm_layer.q.weight").unwrap()
    };
    // Four bits, plus a scale and a bias of 32 bits for every 32 weights.
    assert_eq!(q(&searched)["bits_per_weight"], 6.0);
    assert_eq!(q(&searched)["role"], "query");
    let error = |report: &Value| q(report)["relative_rms_error"].as_f64().unwrap();
    assert!(error(&searched) < error(&rounded) && error(&rounded) < 0.15, "{:?}", q(&rounded));
    assert!(searched["relative_rms_error"].as_f64() < rounded["relative_rms_error"].as_f64());

    let table = Out::new();
    let options = ["--bits", "4", "--group-size", "32", "--tensors"];
    let text = quantize(&model, &table.path(), &options).ok();
    for part in
        ["mlstm_layer.q ", "4-bit affine, groups of 32", "router or gate", "bits per weight"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn every_number_of_threads_writes_the_same() {
    let (one, three) = (Out::new(), Out::new());
    let model = fixture("quantized/mixtral-unquantized");
    let args = ["--bits", "3", "--group-size", "32"];
    let errors = [(&one, "1"), (&three, "3")].map(|(out, threads)| {
        let report = report(&model, out, &[&args[..], &["--threads", threads]].concat());
        report["tensors"].clone()
    });
    assert_eq!(errors[0], errors[1]);
    for name in names(&one.path()) {
        let read = |out: &Out| fs::read(out.path().join(&name)).unwrap();
        assert!(read(&one) == read(&three), "{name}");
    }
}

#[test]
fn large_checkpoints_are_written_in_shards() {
    let out = Out::new();
    let model = fixture("llama/sharded");
    let args = ["--mode", "nvfp4", "--max-shard-size", "8KB"];
    let report = report(&model, &out, &args);
    let files = report["files"].as_array().unwrap();
    assert!(files.len() > 2, "{files:?}");
    let count = files.len();
    let index = fs::read_to_string(out.path().join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], report["bytes"]);
    let map = index["weight_map"].as_object().unwrap();
    let mut seen = 0;
    for (number, file) in files.iter().enumerate() {
        let name = file["name"].as_str().unwrap();
        assert_eq!(name, format!("model-{:05}-of-{count:05}.safetensors", number + 1));
        let found = tensors(&out.path().join(name));
        let size: usize = found.values().map(|(.., bytes)| bytes.len()).sum();
        let modules = found.keys().filter(|name| name.ends_with(".weight")).count();
        assert!(size <= 8 << 10 || modules == 1, "{name}: {size}");
        assert!(found.keys().all(|tensor| map[tensor] == name));
        seen += found.len();
    }
    assert_eq!(seen, map.len());
    assert!(logits(&out.path(), &TOKENS).iter().all(|logit| logit.is_finite()));
}

#[test]
fn a_single_file_has_an_index_and_the_format_in_its_metadata() {
    let out = Out::new();
    report(&fixture("llama/plain"), &out, &["--bits", "8", "--group-size", "32"]);
    assert_eq!(
        names(&out.path()),
        ["config.json", "model.safetensors", "model.safetensors.index.json"]
    );
    let bytes = fs::read(out.path().join("model.safetensors")).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "mlx");
}

#[test]
fn config_json_gains_the_quantization_and_keeps_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let source = PathBuf::from(fixture("mamba2/plain"));
    fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    // The older spelling has a bare Infinity, and a number that no f64 holds.
    let old = fs::read_to_string(source.join("config.legacy.json")).unwrap();
    let old = old.replacen('{', "{\n  \"added\": 12345678901234567890123,", 1);
    fs::write(folder.path().join("config.json"), &old).unwrap();
    for (name, text) in [("tokenizer.json", "{}"), ("LICENSE", "mine"), ("notes.txt", "no")] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    // What is not a regular file is not copied, with a warning.
    fs::create_dir(folder.path().join("generation_config.json")).unwrap();
    fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    fs::write(folder.path().join("additional_chat_templates/rag.jinja"), "rag").unwrap();
    let out = Out::new();
    let model = folder.path().to_str().unwrap();
    let done = quantize(model, &out.path(), &["--json", "--mode", "nvfp4"]);
    assert!(done.stderr.contains("generation_config.json: it is a folder"), "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let left_out = json!([{ "file": "generation_config.json", "problem": "it is a folder" }]);
    assert_eq!(report["left_out"], left_out);
    let copied = ["LICENSE", "additional_chat_templates/rag.jinja", "tokenizer.json"];
    assert_eq!(report["copied"], json!(copied));
    let template = out.path().join(copied[1]);
    assert_eq!(fs::read_to_string(template).unwrap(), "rag");
    assert_eq!(fs::read_to_string(out.path().join("LICENSE")).unwrap(), "mine");
    let text = fs::read_to_string(out.path().join("config.json")).unwrap();
    let tagged = old.replace("Infinity", "{\"__float__\":\"Infinity\"}");
    let before = tagged.trim_end().strip_suffix('}').unwrap().trim_end();
    assert!(text.starts_with(before), "{text}");
    let config = out.config();
    let format = json!({"group_size": 16, "bits": 4, "mode": "nvfp4"});
    assert_eq!((&config["quantization"], &config["quantization_config"]), (&format, &format));
    let keys: Vec<&String> = config["quantization"].as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 3);
}

#[test]
fn the_demo_model_shrinks_and_still_writes() {
    let out = Out::new();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/hybrid");
    let demo = demo.to_str().unwrap();
    let report = report(demo, &out, &["--bits", "4", "--recipe", "mixed", "--method", "round"]);
    let bits = report["bits_per_weight"].as_f64().unwrap();
    assert!((4.6..4.9).contains(&bits), "{bits}");
    assert!(report["bytes"].as_u64().unwrap() * 3 < report["source_bytes"].as_u64().unwrap());
    for file in
        ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]
    {
        assert!(out.path().join(file).is_file(), "{file}");
    }
    let place = out.path();
    let line = |model: &str| {
        let prompt = ["--prompt", "Once upon a time", "-n", "6", "--greedy"];
        kinglet(&[&["generate", "--model", model, "--threads", "1"], &prompt[..]].concat()).ok()
    };
    let (before, after) = (line(demo), line(place.to_str().unwrap()));
    assert!(!after.trim().is_empty());
    // Four to five bits do not change what is nearly certain.
    assert_eq!(before.split_whitespace().next(), after.split_whitespace().next());
}
