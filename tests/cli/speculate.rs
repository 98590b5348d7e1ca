//! Speculation from the command line: the same answers, and statistics.

use serde_json::Value;

use kinglet_tests::{fixtures, prediction_cases};

use crate::support::{TextModel, kinglet};

/// The last event of an answer.
fn done(model: &TextModel, more: &[&str]) -> Value {
    let options = ["--prompt", "abcabcabcab", "-n", "24", "--json"];
    let events = model.run("generate", &[&options[..], more].concat()).events();
    events.last().unwrap().clone()
}

#[test]
fn guesses_don_t_change_an_answer_and_are_counted() {
    let model = TextModel::new();
    // Few distinct tokens, so that they repeat.
    let only = model.only(&["a", "b", "c"]);
    for temperature in ["0", "0.8"] {
        let options = ["--temperature", temperature, "--seed", "5", "--logit-bias", &only];
        let plain = done(&model, &options);
        assert!(plain["speculation"].is_null(), "{plain}");
        let folder = model.dir();
        for by in ["ngram", &folder] {
            let guessed = done(&model, &[&options[..], &["--speculate", by]].concat());
            assert_eq!(guessed["ids"], plain["ids"], "{by} at {temperature}");
            let told = &guessed["speculation"];
            assert!(told["drafted"].as_u64().unwrap() > 0, "{by}: {guessed}");
            assert!(told["steps"].as_u64().unwrap() <= 24, "{by}: {guessed}");
        }
    }
    let options = ["--prompt", "abcab", "-n", "5", "--stats", "--speculate", "ngram"];
    let done = model.run("chat", &options);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("drafts accepted"), "{done:?}");
}

#[test]
fn a_model_with_other_tokens_is_refused() {
    let (model, other) = (TextModel::new(), TextModel::new());
    let text = std::fs::read_to_string(other.path().join("tokenizer.json")).unwrap();
    other.write("tokenizer.json", &text.replace("<|user|>", "<|person|>"));
    let message = model.run("generate", &["--prompt", "a", "--speculate", &other.dir()]).error(2);
    assert!(message.contains("<|person|>") && message.contains("same tokenizer"), "{message}");
    let message = model.run("generate", &["--prompt", "a", "--speculate", "/nowhere"]).error(1);
    assert!(message.contains("/nowhere"), "{message}");
}

#[test]
fn the_models_own_head_drafts_and_the_answer_is_the_same() {
    for case in prediction_cases() {
        let folder = case.folder.path().to_str().unwrap();
        let prompt: Vec<String> =
            case.tokens[..case.prompt].iter().map(ToString::to_string).collect();
        let prompt = prompt.join(",");
        let base = ["generate", "--model", folder, "--tokens", &prompt, "-n", "40", "--json"];
        let base = [&base[..], &["--backend", "cpu", "--temperature", "0"]].concat();
        let last = |more: &[&str]| kinglet(&[&base[..], more].concat()).events().pop().unwrap();
        let plain = last(&[]);
        let guessed = last(&["--speculate", "mtp"]);
        assert_eq!(guessed["ids"], plain["ids"], "{}", case.name);
        let told = |key: &str| guessed["speculation"][key].as_u64().unwrap();
        assert!(told("accepted") >= 10, "{}: {guessed}", case.name);
        assert!(told("steps") < 32 && told("accepted") <= told("drafted"), "{guessed}");

        let bench = ["bench", "--model", folder, "--backend", "cpu", "--rounds", "1"];
        let bench = [&bench[..], &["--decode", "9", "--speculate", "mtp", "--json"]].concat();
        let row = kinglet(&bench).events().pop().unwrap();
        assert!(row["drafted"].as_u64().unwrap() > 0 && row["same_answer"] == true, "{row}");
    }
    let without = fixtures().join("qwen3_next/plain");
    let options = ["generate", "--tokens", "1", "--speculate", "mtp", "--model"];
    let message = kinglet(&[&options[..], &[without.to_str().unwrap()]].concat()).error(1);
    assert!(message.contains("mtp.*") && message.contains("multi-token"), "{message}");
}
