//! `kinglet eval`: what it prints, and what it refuses.

use serde_json::Value;

use crate::support::{fixture, kinglet};

const STORY: &str = "Once upon a time, there was a little dog named Spot. Spot loved to play in the sand. One day \
    he found a boat. He wanted to see what was inside the boat, but it was too hard. He asked his friend for help.";

fn demo(name: &str) -> String {
    format!("{}/../models/demo/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_model_beside_its_reference_in_words_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("story.txt");
    std::fs::write(&path, STORY).unwrap();
    let (model, reference, text) = (demo("xlstm"), demo("hybrid"), path.to_str().unwrap());
    let line = ["eval", "--model", &model, "--text", text, "--context", "16", "--stride", "4"];
    let plain = kinglet(&line).ok();
    assert!(plain.contains("perplexity") && !plain.contains("KL"), "{plain}");
    let more = [&line[..], &["--reference", &reference]].concat();
    assert!(kinglet(&more).ok().contains("KL, 99 %"));
    let json: Value =
        serde_json::from_str(&kinglet(&[&more[..], &["--json"]].concat()).ok()).unwrap();
    let number = |pointer| json.pointer(pointer).and_then(Value::as_f64).unwrap();
    assert_eq!(number("/predictions"), 4.0 * number("/windows"));
    let (mean, high) = (number("/reference/kl_mean"), number("/reference/kl_99"));
    assert!(0.0 < mean && mean < high && high <= number("/reference/kl_max"));
    assert!((number("/nll").exp() - number("/perplexity")).abs() < 1e-9);
}

#[test]
fn what_cannot_be_evaluated_is_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("story.txt");
    std::fs::write(&path, STORY).unwrap();
    let (model, text) = (demo("xlstm"), path.to_str().unwrap());
    let run = |more: &[&str]| kinglet(&[&["eval", "--model", &model][..], more].concat()).error(1);
    let error = run(&["--text", text]);
    assert!(error.contains("fewer than one window of 512"), "{error}");
    let error = run(&["--text", "/nonexistent"]);
    assert!(error.contains("can't read /nonexistent"), "{error}");
    let error = run(&["--text", text, "--context", "16", "--stride", "17"]);
    assert!(error.contains("stride can't be 17"), "{error}");
    let tiny = fixture("xlstm/plain");
    let error = run(&["--text", text, "--context", "16", "--reference", &tiny]);
    assert!(error.contains("the model has 8192 logits per token and the reference"), "{error}");
    std::fs::write(&path, "").unwrap();
    assert!(run(&["--text", text]).contains("the text is empty"));
}
