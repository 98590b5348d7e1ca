//! `kinglet quantize`: what it writes is what MLX writes, is kept, is read again, and is there whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kinglet::weights::{Encoding, MatrixView, Weights};
use kinglet::{Checkpoint, Model, ModelOptions};
use kinglet_tests::relative_l2;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Done, Running, command, fixture, kinglet};

/// A place to write to that does not exist.
struct Out(TempDir);

impl Out {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("out")
    }

    /// Names beside the place.
    fn siblings(&self) -> Vec<String> {
        names(self.0.path())
    }

    fn config(&self) -> Value {
        let text = fs::read_to_string(self.path().join("config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn quantize(model: &str, out: &Path, args: &[&str]) -> Done {
    let out = out.to_str().unwrap();
    kinglet(&[&["quantize", "--model", model, "--out", out], args].concat())
}

/// Quantizes and gives the report.
#[track_caller]
fn report(model: &str, out: &Out, args: &[&str]) -> Value {
    let text = quantize(model, &out.path(), &[&["--json"], args].concat()).ok();
    serde_json::from_str(&text).unwrap()
}

/// All tensors of a safetensors file: dtype, shape, bytes.
fn tensors(file: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(file).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: &str| {
        let view = file.tensor(name).unwrap();
        (view.dtype().to_string(), view.shape().to_vec(), view.data().to_vec())
    };
    file.names().into_iter().map(|name| (name.to_string(), read(name))).collect()
}

fn logits(folder: &Path, tokens: &[u32]) -> Vec<f32> {
    let model = Model::open(folder, &ModelOptions::new().threads(1)).unwrap();
    model.session().unwrap().feed_all(tokens).unwrap().to_vec()
}

/// The same checkpoint with every matrix decoded to F32, in a folder of its own.
fn dequantized(folder: &Path) -> TempDir {
    let checkpoint = Checkpoint::open(folder, Default::default()).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for tensor in checkpoint.spec.tensors() {
        let begin = data.len();
        let cols = *tensor.shape.last().unwrap();
        match checkpoint.weights.stored(tensor).unwrap().encoding {
            Encoding::Dense(_) => {
                let values = checkpoint.weights.vector(tensor).unwrap();
                data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Encoding::Quantized(_) => {
                let rows = tensor.elements() / cols;
                let whole =
                    kinglet::models::Matrix { tensor: tensor.clone(), row_offset: 0, rows, cols };
                let matrix = checkpoint.weights.matrix(&whole).unwrap();
                assert!(matches!(matrix.view(), MatrixView::Quantized(_)));
                let mut row = vec![0.0; cols];
                for index in 0..rows {
                    matrix.decode_row(index, &mut row).unwrap();
                    data.extend(row.iter().flat_map(|value| value.to_le_bytes()));
                }
            }
        }
        let entry =
            json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, data.len()] });
        header.insert(tensor.name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.append(&mut data);
    let dense = tempfile::tempdir().unwrap();
    fs::write(dense.path().join("model.safetensors"), file).unwrap();
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for key in ["quantization", "quantization_config"] {
        config.as_object_mut().unwrap().remove(key).unwrap();
    }
    fs::write(dense.path().join("config.json"), config.to_string()).unwrap();
    dense
}

const TOKENS: [u32; 12] = [5, 17, 3, 58, 42, 1, 0, 60, 7, 7, 63, 21];

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
        // Codes, scales and what is kept are all among them.
        assert!(ours.values().any(|(dtype, ..)| dtype == "U32"), "{family}");
        assert!(ours.values().any(|(dtype, ..)| dtype == "F32"), "{family}");
    }
}

#[test]
fn the_result_runs_and_gives_the_logits_of_its_decoded_weights() {
    for (model, args) in [
        ("xlstm/plain", &["--bits", "4", "--group-size", "32"][..]),
        ("xlstm/plain", &["--bits", "3", "--recipe", "mixed", "--target-bits", "6"]),
        ("xlstm/plain", &["--mode", "mxfp8"]),
        ("granitemoehybrid/plain", &["--mode", "nvfp4"]),
        ("mixtral/plain", &["--mode", "nvfp4"]),
        ("llama/plain", &["--bits", "6", "--group-size", "32"]),
        ("quantized/granitemoehybrid-unquantized", &["--bits", "5", "--group-size", "32"]),
    ] {
        let out = Out::new();
        report(&fixture(model), &out, args);
        let dense = dequantized(&out.path());
        let (got, expected) = (logits(&out.path(), &TOKENS), logits(dense.path(), &TOKENS));
        let error = relative_l2(&got, &expected);
        assert!(error <= 1e-5, "{model} {args:?}: {error:.1e}");
        // The codes say something: these are not the logits of the source, and not far from them either.
        let source = logits(Path::new(&fixture(model)), &TOKENS);
        let moved = relative_l2(&got, &source);
        assert!((1e-4..0.9).contains(&moved), "{model} {args:?}: {moved:.1e}");
    }
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
    // Four bits and a scale and a bias of 32 bits for 32 weights.
    assert_eq!(q(&searched)["bits_per_weight"], 6.0);
    assert_eq!(q(&searched)["role"], "query");
    let error = |report: &Value| q(report)["relative_rms_error"].as_f64().unwrap();
    assert!(error(&searched) < error(&rounded) && error(&rounded) < 0.15, "{:?}", q(&rounded));
    assert!(searched["relative_rms_error"].as_f64() < rounded["relative_rms_error"].as_f64());

    let table = Out::new();
    let text = quantize(&model, &table.path(), &["--bits", "4", "--group-size", "32"]).ok();
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
    // The older spelling has a bare Infinity; and a number that no f64 holds.
    let old = fs::read_to_string(source.join("config.legacy.json")).unwrap();
    let old = old.replacen('{', "{\n  \"added\": 12345678901234567890123,", 1);
    fs::write(folder.path().join("config.json"), &old).unwrap();
    for (name, text) in [("tokenizer.json", "{}"), ("LICENSE", "mine"), ("notes.txt", "no")] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let out = Out::new();
    let report = report(folder.path().to_str().unwrap(), &out, &["--mode", "nvfp4"]);
    assert_eq!(report["copied"], json!(["LICENSE", "tokenizer.json"]));
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
fn a_recipe_names_formats_by_layer() {
    let out = Out::new();
    let recipe = out.0.path().join("recipe.json");
    let rules = json!([
        { "match": "*.igate_preact", "bits": 8 },
        { "match": ["backbone.embeddings", "*.q"], "keep": true },
        { "match": "*.blocks.0.*", "mode": "mxfp8", "comment": "the first layer" },
        { "match": "lm_head", "bits": 6, "group_size": 64 },
        { "match": "*.nothing", "bits": 2 },
    ]);
    fs::write(&recipe, rules.to_string()).unwrap();
    let model = fixture("xlstm/plain");
    let args = ["--json", "--group-size", "32", "--recipe", recipe.to_str().unwrap()];
    let done = quantize(&model, &out.path(), &args);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("*.nothing") && done.stderr.lines().count() == 1, "{done:?}");
    let quantization = out.config()["quantization"].clone();
    let entry = |mode: &str, bits: u32, group_size: u32| json!({"group_size": group_size, "bits": bits, "mode": mode});
    for (path, expected) in [
        ("lm_head", entry("affine", 6, 64)),
        ("backbone.blocks.0.mlstm_layer.v", entry("mxfp8", 8, 32)),
        ("backbone.blocks.0.mlstm_layer.igate_preact", entry("affine", 8, 32)),
        ("backbone.blocks.0.mlstm_layer.fgate_preact", Value::Null),
        ("backbone.blocks.0.mlstm_layer.q", Value::Null),
        ("backbone.blocks.1.mlstm_layer.v", Value::Null),
    ] {
        assert_eq!(quantization[path], expected, "{path}");
    }
    let new = tensors(&out.path().join("model.safetensors"));
    for (name, there) in [
        ("backbone.embeddings.scales", false),
        ("backbone.blocks.1.mlstm_layer.q.scales", false),
        ("backbone.blocks.0.mlstm_layer.v.scales", true),
        ("backbone.blocks.0.mlstm_layer.v.biases", false),
        ("backbone.blocks.1.mlstm_layer.v.biases", true),
        ("backbone.blocks.1.mlstm_layer.fgate_preact.scales", false),
    ] {
        assert_eq!(new.contains_key(name), there, "{name}");
    }
    let dense = dequantized(&out.path());
    let error = relative_l2(&logits(&out.path(), &TOKENS), &logits(dense.path(), &TOKENS));
    assert!(error <= 1e-5, "{error:.1e}");
}

#[test]
fn a_recipe_that_cannot_be_is_refused() {
    let out = Out::new();
    let recipe = out.0.path().join("recipe.json");
    let model = fixture("granitemoehybrid/plain");
    let line = |rules: &str| {
        fs::write(&recipe, rules).unwrap();
        let args = ["--mode", "nvfp4", "--recipe", recipe.to_str().unwrap()];
        quantize(&model, &out.path(), &args)
    };
    for (rules, parts) in [
        ("{", &["recipe.json", "no JSON"][..]),
        (r#"[{"match": "a", "bits": 7}]"#, &["recipe.json", "rule 1", "7 bits"]),
        // Rows of 12 are no whole groups; where a star stands for the module's name, that is no error.
        (
            r#"[{"match": "*.switch_mlp.down_proj", "bits": 8, "group_size": 32}]"#,
            &["rule 1", "layers.0", "switch_mlp.down_proj", "12", "32"],
        ),
    ] {
        let message = line(rules).error(1);
        assert!(parts.iter().all(|part| message.contains(part)), "{rules}: {message}");
    }
    assert_eq!(line(r#"[{"match": "*.switch_mlp.*", "mode": "nvfp4"}]"#).code, 0);
    fs::remove_file(&recipe).unwrap();
    let args = ["--recipe", recipe.to_str().unwrap()];
    let message = quantize(&model, &out.path(), &args).error(1);
    assert!(message.contains("recipe.json"), "{message}");
}

#[test]
fn a_mixed_recipe_keeps_to_its_average() {
    let model = fixture("xlstm/plain");
    let dry = |args: &[&str]| -> Value {
        let line =
            [&["quantize", "--model", &model, "--dry-run", "--json", "--group-size", "32"], args];
        serde_json::from_str(&kinglet(&line.concat()).ok()).unwrap()
    };
    let bits = |report: &Value| report["bits_per_weight"].as_f64().unwrap();
    let plain = bits(&dry(&["--bits", "3"]));
    let mut last = plain;
    for target in [plain + 0.3, plain + 1.0, plain + 2.0] {
        let text = target.to_string();
        let mixed = bits(&dry(&["--bits", "3", "--recipe", "mixed", "--target-bits", &text]));
        assert!(mixed > last && mixed <= target, "{mixed} of {target}");
        last = mixed;
    }
    let default = dry(&["--bits", "3", "--recipe", "mixed"]);
    assert!(bits(&default) > plain && bits(&default) <= plain + 0.3, "{default}");
    // What matters most has most.
    let of = |name: &str| {
        let tensors = default["tensors"].as_array().unwrap();
        tensors.iter().find(|t| t["name"] == name).unwrap()["format"]["bits"].as_u64().unwrap()
    };
    assert!(
        of("backbone.blocks.0.mlstm_layer.v.weight") > of("backbone.blocks.1.mlstm_layer.q.weight")
    );
}

#[test]
fn a_dry_run_writes_nothing() {
    let out = Out::new();
    let model = fixture("llama/plain");
    let text = quantize(&model, &out.path(), &["--group-size", "32", "--dry-run"]).ok();
    assert!(text.contains("would be") && text.contains("model.layers.1.mlp.down_proj"), "{text}");
    assert!(out.siblings().is_empty());
}

#[test]
fn places_that_must_not_be_written_to_are_refused() {
    let out = Out::new();
    let source = fixture("llama/plain");
    let model = out.0.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(Path::new(&source).join(file), model.join(file)).unwrap();
    }
    let model_name = model.to_str().unwrap();
    let full = out.0.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("letter.txt"), "dear").unwrap();
    let file = full.join("letter.txt");
    let before = fs::read(model.join("model.safetensors")).unwrap();
    for (place, args, part) in [
        (&model, &[][..], "model's own folder"),
        (&model, &["--force"], "model's own folder"),
        (&model.join("inside"), &[], "model's own folder"),
        (&out.0.path().to_path_buf(), &["--force"], "model's own folder"),
        (&full, &[], "not empty"),
        (&full, &["--force"], "no checkpoint"),
        (&file, &["--force"], "no folder"),
        (&file.join("below"), &[], "letter.txt"),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let args = [&["--group-size", "32"], args, more].concat();
            let message = quantize(model_name, place, &args).error(1);
            assert!(message.contains(part), "{place:?} {args:?}: {message}");
        }
    }
    assert_eq!(fs::read(model.join("model.safetensors")).unwrap(), before);
    assert_eq!(names(&full), ["letter.txt"]);
    assert_eq!(out.siblings(), ["full", "model"]);

    // An empty folder is as good as none, and a checkpoint is replaced when that is asked for.
    fs::create_dir(out.path()).unwrap();
    quantize(model_name, &out.path(), &["--group-size", "32"]).ok();
    let message = quantize(model_name, &out.path(), &["--mode", "mxfp8"]).error(1);
    assert!(message.contains("--force"), "{message}");
    assert_eq!(out.config()["quantization"]["mode"], "affine");
    quantize(model_name, &out.path(), &["--mode", "mxfp8", "--force"]).ok();
    assert_eq!(out.config()["quantization"]["mode"], "mxfp8");
    assert_eq!(out.siblings(), ["full", "model", "out"]);
}

#[test]
fn models_that_cannot_be_quantized_are_told_apart() {
    let out = Out::new();
    for (name, part) in [
        ("quantized/llama-affine4", "quantized already"),
        ("quantized/qwen3-nvfp4", "quantized already"),
    ] {
        let message = quantize(&fixture(name), &out.path(), &["--dry-run"]).error(1);
        assert!(message.contains(part) && message.contains("original"), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    let source = PathBuf::from(fixture("llama/plain"));
    fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    let mut bytes = fs::read(source.join("model.safetensors")).unwrap();
    let (header, _) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    let data = file.tensor(name).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
    assert!(header > 0);
    // Row 2, column 3 of 64.
    let at = data + 4 * (2 * 64 + 3);
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
    let model = folder.path().to_str().unwrap();
    let message = quantize(model, &out.path(), &["--group-size", "32"]).error(1);
    assert!(message.contains(name) && message.contains("NaN at index 131"), "{message}");
    fs::write(folder.path().join("model.safetensors"), &bytes[..bytes.len() - 5]).unwrap();
    let message = quantize(model, &out.path(), &["--group-size", "32"]).error(1);
    assert!(message.contains("cut short"), "{message}");
    assert!(out.siblings().is_empty(), "nothing is left behind: {:?}", out.siblings());
}

#[test]
fn options_that_cannot_be_meant_are_wrong_usage() {
    let model = fixture("llama/plain");
    for (args, part) in [
        (&["--dry-run", "--bits", "7"][..], "7 bits"),
        (&["--dry-run", "--group-size", "48"], "groups of 48"),
        (&["--dry-run", "--mode", "mxfp4", "--bits", "8"], "mxfp4"),
        (&["--dry-run", "--mode", "int4"], "int4"),
        (&["--dry-run", "--target-bits", "5"], "--recipe mixed"),
        (&["--dry-run", "--recipe", "mixed", "--target-bits", "99"], "1 to 32"),
        (&["--dry-run", "--max-shard-size", "5 apples"], "5GB"),
        (&["--dry-run", "--method", "guess"], "search"),
        (&[], "--out"),
    ] {
        let message = kinglet(&[&["quantize", "--model", &model], args].concat()).error(2);
        assert!(message.contains(part), "{args:?}: {message}");
    }
}

/// A model that takes seconds to quantize and nothing to make: its weights are a hole in a file.
#[cfg(unix)]
fn slow_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (vocab, hidden, inner) = (1usize << 20, 1024usize, 64usize);
    let config = json!({
        "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1,
        "num_attention_heads": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let config = kinglet::models::Config::parse(&config.to_string()).unwrap();
    let spec = kinglet::models::spec(&config).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for tensor in spec.tensors() {
        let begin = end;
        end += 2 * tensor.elements();
        let entry = json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end] });
        header.insert(tensor.name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let path = folder.path().join("model.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    fs::write(&path, &bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((bytes.len() + end) as u64).unwrap();
    folder
}

/// Starts to quantize and waits until weights are being written.
#[cfg(unix)]
fn begin(model: &Path, out: &Out) -> Running {
    let (model, place) = (model.to_str().unwrap(), out.path());
    let line = ["quantize", "--model", model, "--threads", "1", "--out", place.to_str().unwrap()];
    let before = out.siblings();
    let running = Running::start(command(&line));
    let begun = Instant::now();
    let writing = |name: &String| {
        !before.contains(name)
            && name.starts_with(".out.partial-")
            && out.0.path().join(name).join("model.safetensors").exists()
    };
    while !out.siblings().iter().any(writing) {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never began");
        std::thread::sleep(Duration::from_millis(2));
    }
    running
}

#[cfg(unix)]
#[test]
fn a_killed_run_leaves_no_half_checkpoint_and_the_next_one_cleans_up() {
    let (out, slow) = (Out::new(), slow_model());
    begin(slow.path(), &out).kill();
    assert!(!out.path().exists());
    let left = out.siblings();
    assert_eq!(left.len(), 1, "{left:?}");
    // What another run is still writing is none of this one's business.
    let busy = begin(slow.path(), &out);
    assert_eq!(out.siblings().len(), 1, "the leftover is gone: {:?}", out.siblings());
    quantize(&fixture("llama/plain"), &out.path(), &["--group-size", "32"]).ok();
    assert_eq!(out.siblings().len(), 2, "{:?}", out.siblings());
    busy.kill();
    assert!(logits(&out.path(), &TOKENS).iter().all(|logit| logit.is_finite()));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing() {
    let (out, slow) = (Out::new(), slow_model());
    let running = begin(slow.path(), &out);
    // The handler watches from just before the folder is made.
    running.interrupt();
    let (status, stdout, stderr) = running.finish();
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(130), "", ""));
    assert!(out.siblings().is_empty(), "{:?}", out.siblings());
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
