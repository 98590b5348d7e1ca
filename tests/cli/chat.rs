//! `kinglet chat` with one message: from an option, from a pipe.

use std::fs::File;
use std::process::Stdio;

use crate::support::{TEMPLATE, TextModel, run};

#[test]
fn a_pipe_is_one_message_and_only_the_answer_is_printed() {
    let model = TextModel::new();
    let only = model.only(&["a", "b"]);
    let line = ["-n", "10", "--logit-bias", &only];
    let answer = run(model.command("chat", &line), b"Hi\nthere\n").ok();
    assert_eq!(answer.len(), 11, "{answer:?}");
    let same = model.run("chat", &[&line[..], &["--prompt", "Hi\nthere"]].concat()).ok();
    assert_eq!(same, answer);
    // The rendered template equals the raw prompt.
    let rendered = "<|user|>Hi\nthere<|end|><|assistant|>";
    let raw = model.run("generate", &[&line[..], &["--prompt", rendered]].concat()).ok();
    assert_eq!(raw, answer);
}

#[test]
fn the_system_prompt_comes_first() {
    let model = TextModel::new();
    let only = model.only(&["a", "b"]);
    let line = ["-n", "10", "--logit-bias", &only];
    let answer =
        model.run("chat", &[&line[..], &["--prompt", "Hi", "--system", "Be brief."]].concat()).ok();
    let rendered = "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>";
    let raw = model.run("generate", &[&line[..], &["--prompt", rendered]].concat()).ok();
    assert_eq!(raw, answer);
}

#[test]
fn a_line_of_json_for_each_token_and_one_for_the_end() {
    let model = TextModel::new();
    let only = model.only(&["a", "<|end|>"]);
    let line =
        ["--prompt", "Hi", "--logit-bias", &only, "--temperature", "1", "--seed", "2", "--json"];
    let events = model.run("chat", &line).events();
    let (done, tokens) = events.split_last().unwrap();
    assert_eq!((&done["event"], &done["stop_reason"]), (&"done".into(), &"stop_token".into()));
    assert!(tokens.iter().all(|event| event["event"] == "token"));
    assert_eq!(done["tokens"]["generated"], tokens.len());
    assert_eq!(done["tokens"]["prompt"], 5);
    assert_eq!(done["text"].as_str().unwrap().len() + 1, tokens.len());
    assert_eq!(done["seed"], 2);
}

#[test]
fn a_model_without_a_template_says_what_to_do() {
    let model = TextModel::bare();
    let message = model.run("chat", &["--prompt", "Hi"]).error(1);
    assert!(
        message.contains("kinglet generate") && message.contains("--template FILE"),
        "{message}"
    );
    let file = model.path().join("mine.jinja");
    std::fs::write(&file, TEMPLATE).unwrap();
    let line = ["--prompt", "Hi", "--template", file.to_str().unwrap(), "-n", "3", "--json"];
    assert_eq!(model.run("chat", &line).events().pop().unwrap()["tokens"]["prompt"], 5);
    std::fs::write(&file, "{% for %}").unwrap();
    let message = model.run("chat", &line).error(1);
    assert!(message.contains("syntax error") && message.contains("line 1"), "{message}");
}

#[test]
fn variables_reach_the_template_and_its_refusal_reaches_the_user() {
    let model = TextModel::new();
    model.write(
        "chat_template.jinja",
        "{% if mood is not defined %}{{ raise_exception('no mood') }}{% endif %}{{ mood }}{{ deep.x }}",
    );
    let message = model.run("chat", &["--prompt", "Hi"]).error(1);
    assert!(message.contains("no mood"), "{message}");
    let line = [
        "--prompt",
        "Hi",
        "--template-var",
        "mood=good",
        "--template-var",
        r#"deep={"x": "ab"}"#,
        "-n",
        "1",
        "--json",
    ];
    assert_eq!(model.run("chat", &line).events().pop().unwrap()["tokens"]["prompt"], 6);
}

#[test]
fn a_conversation_continues_over_several_runs() {
    let model = TextModel::new();
    let only = model.only(&["a", "b"]);
    let file = model.path().join("talk.json");
    let path = file.to_str().unwrap();
    let line = ["-n", "4", "--logit-bias", &only, "--save", path];
    let first = model.run("chat", &[&line[..], &["--prompt", "One"]].concat()).ok();
    let second =
        model.run("chat", &[&line[..], &["--prompt", "Two", "--load", path]].concat()).ok();
    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let said: Vec<_> = saved["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
        .collect();
    let expected = [
        ("user", "One"),
        ("assistant", first.trim_end()),
        ("user", "Two"),
        ("assistant", second.trim_end()),
    ];
    assert_eq!(said, expected);
    std::fs::write(&file, "{}").unwrap();
    let message = model.run("chat", &["--prompt", "x", "--load", path]).error(1);
    assert!(message.contains("talk.json") && message.contains("messages"), "{message}");
}

#[test]
fn nothing_to_answer_is_an_error() {
    let model = TextModel::new();
    let message = model.run("chat", &[]).error(2);
    assert!(message.contains("--prompt"), "{message}");
    let message = run(model.command("chat", &[]), b"caf\xe9").error(1);
    assert!(message.contains("standard input") && message.contains("UTF-8"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let model = TextModel::new();
    let mut command = model.command("chat", &["--prompt", "Hi", "-n", "3", "--ignore-eos"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).stdin(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("standard output") && message.lines().count() == 1, "{message}");
}
