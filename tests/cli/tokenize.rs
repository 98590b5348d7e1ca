//! `kinglet tokenize`: encoding and decoding.

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
fn tokens_that_only_the_companions_name_are_tokens() {
    let demo = kinglet_tests::fixtures().join("../../models/demo/hybrid");
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(demo.join(name)).unwrap()).unwrap()
    };
    let write = |name: &str, value: &serde_json::Value| {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    for name in ["config.json", "chat_template.jinja"] {
        std::fs::copy(demo.join(name), folder.path().join(name)).unwrap();
    }
    let mut tokenizer = read("tokenizer.json");
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let names: Vec<_> = added.drain(1..).map(|token| token["content"].clone()).collect();
    write("tokenizer.json", &tokenizer);
    let mut config = read("tokenizer_config.json");
    config.as_object_mut().unwrap().remove("added_tokens_decoder");
    config["additional_special_tokens"] = json!(names);
    write("tokenizer_config.json", &config);
    let dir = folder.path().to_str().unwrap();
    let ids = kinglet(&["tokenize", "--model", dir, "--chat", "Hi"]).ok();
    assert_eq!(ids, kinglet(&["tokenize", "--model", demo.to_str().unwrap(), "--chat", "Hi"]).ok());
    assert_eq!(ids, "2,1556,4,3\n");
}

#[test]
fn a_template_is_chosen_by_its_name() {
    let model = TextModel::new();
    std::fs::remove_file(model.path().join("chat_template.jinja")).unwrap();
    let named = json!([
        {"name": "brief", "template": "<|user|>{{ messages[0].content }}"},
        {"name": "rag", "template": "<|system|>{{ eot_token }}{{ messages[0].content }}"},
    ]);
    let config = json!({"chat_template": named, "eot_token": "<|end|>"});
    model.write("tokenizer_config.json", &config.to_string());
    let text = |args: &[&str]| {
        let line = [&["--chat", "--json", "Hi"], args].concat();
        model.run("tokenize", &line).events().pop().unwrap()["text"].as_str().unwrap().to_string()
    };
    assert_eq!(text(&["--template", "brief"]), "<|user|>Hi");
    assert_eq!(text(&["--template", "rag"]), "<|system|><|end|>Hi");
    for (command, line) in [
        ("tokenize", &["--chat", "Hi"][..]),
        ("tokenize", &["--chat", "Hi", "--template", "other"]),
        ("chat", &["--prompt", "Hi"]),
        ("chat", &["--prompt", "Hi", "--template", "other"]),
    ] {
        let message = model.run(command, line).error(1);
        assert!(message.contains("brief, rag") && message.contains("--template NAME"), "{message}");
    }
    let chat = ["--prompt", "Hi", "--template", "brief", "-n", "1", "--json"];
    assert_eq!(model.run("chat", &chat).events().pop().unwrap()["tokens"]["prompt"], 3);
    // A file is used if no template has its name.
    let file = model.path().join("more.json");
    let file = file.to_str().unwrap();
    model.write("more.json", r#"{"chat_template": {"default": "{{ messages[0].content }}!"}}"#);
    assert_eq!(text(&["--template", file]), "Hi!");
    model.write("more.jinja", "{{ messages[0].content }}?");
    let file = model.path().join("more.jinja");
    assert_eq!(text(&["--template", file.to_str().unwrap()]), "Hi?");
    let message = model.run("tokenize", &["--chat", "Hi", "--template", "no/file"]).error(1);
    assert!(message.contains("no/file"), "{message}");
}

#[cfg(unix)]
#[test]
fn templates_see_the_local_time() {
    let model = TextModel::new();
    model.write("chat_template.jinja", "{{ strftime_now('%Y-%m-%d %H:%M') }}");
    let time = |zone: &str| {
        let mut command = model.command("tokenize", &["--chat", "--json", "Hi"]);
        command.env("TZ", zone);
        run(command, b"").events().pop().unwrap()["text"].as_str().unwrap().to_string()
    };
    // Time zones 26 hours apart differ by a day; two names of the same zone give the same time.
    assert!(time("<+14>-14") > time("<-12>12"));
    let (before, offset, after) = (time("UTC0"), time(":<+00>0"), time("UTC0"));
    assert!(before <= offset && offset <= after, "{before} {offset} {after}");
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
