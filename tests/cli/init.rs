//! `init`: random checkpoints.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{fixture, kinglet};

fn config(case: &str) -> String {
    format!("{}/config.json", fixture(case))
}

fn bytes(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_the_model_runs() {
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str| root.path().join(name);
    let config = config("granitemoehybrid/plain");
    let write = |name: &str, more: &[&str]| {
        let out = place(name).display().to_string();
        let line = [&["init", "--config", &config, "--out", &out][..], more].concat();
        kinglet(&line)
    };
    let events = write("a", &["--json"]).events();
    let size = bytes(&place("a")).len();
    assert_eq!(events[0]["files"], json!([{ "name": "model.safetensors", "bytes": size }]));
    write("b", &[]).ok();
    write("c", &["--seed", "1"]).ok();
    write("d", &["--dtype", "f32"]).ok();
    assert_eq!(bytes(&place("a")), bytes(&place("b")));
    assert_ne!(bytes(&place("a")), bytes(&place("c")));
    assert!(bytes(&place("d")).len() > 3 * size / 2);
    let written: Value =
        serde_json::from_slice(&std::fs::read(place("d").join("config.json")).unwrap()).unwrap();
    assert_eq!(
        (&written["dtype"], &written["model_type"]),
        (&"float32".into(), &"granitemoehybrid".into())
    );
    for name in ["a", "d"] {
        let folder = place(name).display().to_string();
        assert!(kinglet(&["inspect", "--model", &folder, "--check"]).ok().contains("No NaN"));
        let logits = root.path().join("logits.safetensors").display().to_string();
        let line = [
            "logits",
            "--model",
            &folder,
            "--backend",
            "cpu",
            "--threads",
            "1",
            "--tokens",
            "1,2,3",
            "--out",
            &logits,
        ];
        kinglet(&line);
        assert!(std::fs::metadata(&logits).unwrap().len() > 3 * 4 * 100);
    }
    // What is there stays, unless it is to be replaced.
    let message = write("a", &[]).error(1);
    assert!(message.contains("is not empty"), "{message}");
    write("a", &["--force", "--seed", "1"]).ok();
    assert_eq!(bytes(&place("a")), bytes(&place("c")));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 5);
}

#[test]
fn a_wrong_config_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("config.json");
    std::fs::write(&path, r#"{"model_type": "mamba", "hidden_size": 0}"#).unwrap();
    let out = root.path().join("out").display().to_string();
    let message = kinglet(&["init", "--config", path.to_str().unwrap(), "--out", &out]).error(1);
    assert!(message.contains("config.json"), "{message}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    for (line, part) in [
        (&["init", "--out", &out][..], "--preset"),
        (&["init", "--preset", "huge", "--out", &out], "ultra-52b"),
        (&["init", "--preset", "mamba-base", "--scale", "0", "--out", &out], "0.001"),
        (&["init", "--preset", "mamba-base", "--config", "c", "--out", &out], "--config"),
        (&["inspect", "--scale", "0.5"], "--preset"),
    ] {
        assert!(kinglet(line).error(2).contains(part), "{line:?}");
    }
}
