//! Speculation from the command line: the same answers, and statistics.

use serde_json::Value;

use crate::support::TextModel;

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
