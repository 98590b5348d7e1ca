//! The output folder: nothing incomplete is ever there, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::time::{Duration, Instant};

#[cfg(unix)]
use serde_json::{Value, json};
#[cfg(unix)]
use tempfile::TempDir;

use super::{Out, names, quantize};
#[cfg(unix)]
use super::{TOKENS, logits};
#[cfg(unix)]
use crate::support::{Running, command};
use crate::support::{fixture, kinglet};

#[test]
fn a_dry_run_writes_nothing() {
    let out = Out::new();
    let model = fixture("llama/plain");
    let text = quantize(&model, &out.path(), &["--group-size", "32", "--dry-run"]).ok();
    let matrix = "model.layers.1.mlp.up_proj";
    assert!(text.contains("would be") && !text.contains(matrix), "{text}");
    let options = ["--group-size", "32", "--dry-run", "--tensors"];
    let text = quantize(&model, &out.path(), &options).ok();
    assert!(text.contains("would be") && text.contains(matrix), "{text}");
    assert!(text.contains("model.layers.1.mlp.down_proj"), "{text}");
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
        (&file, &["--force"], "exists and is not a folder"),
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

    // An empty folder is as good as none, and a checkpoint is replaced on request.
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
fn models_that_cannot_be_quantized_are_distinguished() {
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
    assert!(message.contains("is truncated"), "{message}");
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

/// A model that takes seconds to quantize but no time to make: its weights are a hole in a file.
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

/// Starts quantizing and waits until weights are being written.
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
    // Another run's incomplete output is left alone.
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
    // The handler is active from just before the folder is created.
    running.interrupt();
    let (status, stdout, stderr) = running.finish();
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(130), "", ""));
    assert!(out.siblings().is_empty(), "{:?}", out.siblings());
}
