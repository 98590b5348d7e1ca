//! `kinglet tokenize`: there and back.

use serde_json::json;

use crate::support::{TextModel, kinglet, run};

#[test]
fn text_becomes_ids_and_ids_become_text() {
    let model = TextModel::new();
    let ids = [model.id("H"), model.id("i"), model.id("Ġ"), model.id("Ã"), model.id("©")];
    let line = ids.map(|id| id.to_string()).join(",");
    assert_eq!(model.run("tokenize", &["Hi é"]).ok(), format!("{line}\n"));
    assert_eq!(run(model.command("tokenize", &[]), "Hi é".as_bytes()).ok(), format!("{line}\n"));
    assert_eq!(model.run("tokenize", &["--decode", &line]).ok(), "Hi é\n");
    let event = model.run("tokenize", &["--json", "Hi é"]).events().pop().unwrap();
    let pieces = ["H", "i", "Ġ", "Ã", "©"];
    assert_eq!(event, json!({ "text": "Hi é", "count": 5, "ids": ids, "pieces": pieces }));
    let decoded = model.run("tokenize", &["--json", "--decode", &line]).events().pop().unwrap();
    assert_eq!(decoded, event);
    let table = model.run("tokenize", &["--pieces", "Hi"]).ok();
    assert_eq!(table, format!("{}\tH\n{}\ti\n", ids[0], ids[1]));
}

#[test]
fn a_chat_is_rendered_first() {
    let model = TextModel::new();
    let line = ["--chat", "--system", "S", "--json", "Hi"];
    let event = model.run("tokenize", &line).events().pop().unwrap();
    assert_eq!(event["text"], "<|system|>S<|end|><|user|>Hi<|end|><|assistant|>");
    assert_eq!(event["ids"][0], model.id("<|system|>"));
    assert_eq!(event["count"], 8);
}

#[test]
fn it_needs_the_tokenizer_alone() {
    let model = TextModel::new();
    std::fs::remove_file(model.path().join("model.safetensors")).unwrap();
    std::fs::remove_file(model.path().join("config.json")).unwrap();
    model.run("tokenize", &["Hi"]).ok();
    std::fs::remove_file(model.path().join("tokenizer.json")).unwrap();
    let message = model.run("tokenize", &["Hi"]).error(1);
    assert!(message.contains("tokenizer.json"), "{message}");
}

#[test]
fn ids_that_are_none_are_refused() {
    let model = TextModel::new();
    let message = model.run("tokenize", &["--decode", "1,9999"]).error(2);
    assert!(message.contains("9999"), "{message}");
    let message = model.run("tokenize", &["--decode", "1,x"]).error(2);
    assert!(message.contains("\"x\""), "{message}");
    let dir = model.dir();
    let message = kinglet(&["tokenize", "--model", &dir, "--file", "/no/such/file"]).error(1);
    assert!(message.contains("/no/such/file"), "{message}");
}
