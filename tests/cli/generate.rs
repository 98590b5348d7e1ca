//! `kinglet generate`: the right tokens, as text without split characters.

use kinglet_tests::cases;

use crate::support::{TextModel, fixture, kinglet, run};

#[test]
fn greedy_tokens_equal_the_reference_for_models_without_a_tokenizer() {
    let cases = cases();
    for name in
        ["granitemoehybrid/plain", "xlstm/plain", "falcon_mamba/plain", "qwen3_moe/norm_topk"]
    {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let join = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let (prompt, count) = (join(&case.tokens[..case.prompt]), case.greedy.len().to_string());
        let model = fixture(name);
        let line =
            ["generate", "--model", &model, "--tokens", &prompt, "-n", &count, "--ignore-eos"];
        assert_eq!(kinglet(&line).ok(), format!("{}\n", join(&case.greedy)), "{name}");
        let events = kinglet(&[&line[..], &["--json"]].concat()).events();
        let ids =
            events[..events.len() - 1].iter().map(|event| event["id"].as_u64().unwrap() as u32);
        assert_eq!(ids.collect::<Vec<_>>(), case.greedy, "{name}");
    }
}

#[test]
fn text_goes_in_and_comes_out() {
    let model = TextModel::new();
    let only = model.only(&["a", "b", "Ġ"]);
    let line = [
        "--prompt",
        "Once upon",
        "-n",
        "40",
        "--temperature",
        "1",
        "--seed",
        "7",
        "--logit-bias",
        &only,
    ];
    let text = model.run("generate", &line).ok();
    assert_eq!(text.len(), 41, "{text:?}");
    assert!(text.trim_end().chars().all(|c| "ab ".contains(c)), "{text:?}");
    // The same from a file and from standard input.
    let file = model.path().join("prompt.txt");
    std::fs::write(&file, "Once upon").unwrap();
    let from_file = [&["--prompt-file", file.to_str().unwrap()], &line[2..]].concat();
    assert_eq!(model.run("generate", &from_file).ok(), text);
    let from_pipe = [&["--prompt-file", "-"], &line[2..]].concat();
    assert_eq!(run(model.command("generate", &from_pipe), b"Once upon").ok(), text);
    let large = [&line[..6], &["--seed", "18446744073709551615", "--json"], &line[8..]].concat();
    let told = model.run("generate", &large).events();
    assert_eq!(told.last().unwrap()["seed"], "18446744073709551615", "exact as text");
    // Another seed gives another text; without a seed, one is chosen and printed.
    let other = [&line[..6], &["--seed", "8"], &line[8..]].concat();
    assert_ne!(model.run("generate", &other).ok(), text);
    let without = [&line[..6], &line[8..], &["--json"]].concat();
    let events = model.run("generate", &without).events();
    // Small enough for JavaScript's numbers.
    assert!(events.last().unwrap()["seed"].as_u64().unwrap() < 1 << 53);
    let seed = events.last().unwrap()["seed"].to_string();
    let again = [&line[..6], &["--seed", &seed], &line[8..]].concat();
    let text = model.run("generate", &again).ok();
    assert_eq!(events.last().unwrap()["text"], text.trim_end_matches('\n'));
}

#[test]
fn the_events_agree_with_the_text() {
    let model = TextModel::new();
    let line = [
        "--prompt",
        "Hello",
        "-n",
        "30",
        "--temperature",
        "1.5",
        "--seed",
        "3",
        "--ignore-eos",
        "--json",
    ];
    let events = model.run("generate", &line).events();
    let (done, tokens) = events.split_last().unwrap();
    let joined: String = tokens.iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert_eq!(done["event"], "done");
    assert_eq!(done["text"], joined);
    assert_eq!(done["stop_reason"], "max_tokens");
    let counts = &done["tokens"];
    assert_eq!((&counts["prompt"], &counts["computed"]), (&5.into(), &5.into()));
    assert_eq!((&counts["reused"], &counts["generated"]), (&0.into(), &30.into()));
    for rate in
        ["prefill_tokens_per_second", "decode_tokens_per_second", "time_to_first_token_seconds"]
    {
        assert!(done["timings"][rate].as_f64().unwrap() > 0.0, "{rate}: {done}");
    }
    let ids: Vec<_> = tokens.iter().map(|e| e["id"].clone()).filter(|id| !id.is_null()).collect();
    assert_eq!(done["ids"], serde_json::Value::Array(ids));
}

#[test]
fn half_a_character_is_never_printed() {
    let model = TextModel::new();
    // Random bytes of é and € only: whole characters, halves, and bytes that fit nowhere.
    let only = model.only(&["Ã", "©", "â", "Ĥ", "¬"]);
    let bytes: Vec<u8> = "é€".bytes().collect();
    let of_these_bytes =
        |c: char| c == '\u{fffd}' || c.to_string().bytes().all(|byte| bytes.contains(&byte));
    let mut whole = 0;
    for seed in ["1", "2", "3"] {
        let line = [
            "--prompt",
            "x",
            "-n",
            "60",
            "--temperature",
            "1",
            "--top-k",
            "0",
            "--seed",
            seed,
            "--logit-bias",
            &only,
        ];
        // The harness checks that it is UTF-8.
        let text = model.run("generate", &line).ok();
        let events = model.run("generate", &[&line[..], &["--json"]].concat()).events();
        assert_eq!(events.last().unwrap()["text"], text.trim_end_matches('\n'));
        for event in &events[..events.len() - 1] {
            let piece = event["text"].as_str().unwrap();
            assert!(piece.chars().all(of_these_bytes), "{piece:?}");
        }
        whole += text.trim_end().chars().filter(|c| *c != '\u{fffd}').count();
    }
    assert!(whole > 0, "no whole character came by chance: choose other seeds");
}

#[test]
fn stop_strings_end_the_text_and_are_not_printed() {
    let model = TextModel::new();
    let only = model.only(&["a", "b"]);
    let line =
        ["--prompt", "x", "-n", "200", "--temperature", "9", "--seed", "5", "--logit-bias", &only];
    let full = model.run("generate", &line).ok();
    let stop = &full[100..106];
    assert!(stop.contains('a') && stop.contains('b'), "choose another seed: {full}");
    let at = full.find(stop).unwrap();
    let stopped = [&line[..], &["--stop", "zzz", "--stop", stop]].concat();
    assert_eq!(model.run("generate", &stopped).ok().trim_end(), &full[..at]);
    let events = model.run("generate", &[&stopped[..], &["--json"]].concat()).events();
    let done = events.last().unwrap();
    assert_eq!((&done["stop_reason"], &done["stop_string"]), (&"stop_string".into(), &stop.into()));
    let joined: String = events
        .iter()
        .filter(|e| e["event"] == "token")
        .map(|e| e["text"].as_str().unwrap())
        .collect();
    assert_eq!(joined, full[..at]);
    // The beginning of a stop string that never completes is printed at the end.
    let never = format!("{}c", &full[195..200]);
    let held = [&line[..], &["--stop", &never]].concat();
    assert_eq!(model.run("generate", &held).ok(), full);
}

#[test]
fn the_end_token_ends_the_text_unless_it_is_ignored() {
    let model = TextModel::new();
    let only = model.only(&["<|end|>"]);
    let line = ["--prompt", "x", "-n", "5", "--logit-bias", &only, "--json"];
    let done = model.run("generate", &line).events().pop().unwrap();
    assert_eq!((&done["stop_reason"], &done["text"]), (&"stop_token".into(), &"".into()));
    assert_eq!(done["stop_token"], model.id("<|end|>"));
    assert_eq!(done["tokens"]["generated"], 1);
    let ignored = [&line[..6], &["--ignore-eos", "--special"]].concat();
    assert_eq!(model.run("generate", &ignored).ok(), format!("{}\n", "<|end|>".repeat(5)));
}

#[test]
fn the_models_own_defaults_hold_until_an_option_is_given() {
    let model = TextModel::new();
    model.write(
        "generation_config.json",
        r#"{"do_sample": true, "top_k": 1, "max_new_tokens": 6, "temperature": 9.0}"#,
    );
    let line = ["--prompt", "abc", "--ignore-eos", "--json"];
    let ids = |more: &[&str]| {
        let done = model.run("generate", &[&line[..], more].concat()).events().pop().unwrap();
        done["ids"].clone()
    };
    assert_eq!(ids(&[]).as_array().unwrap().len(), 6);
    // Top-k 1 equals greedy.
    assert_eq!(ids(&["--seed", "1"]), ids(&["--greedy"]));
    assert_ne!(ids(&["--seed", "1", "--top-k", "0"]), ids(&["--greedy"]));
    assert_eq!(ids(&["-n", "3"]).as_array().unwrap().len(), 3);
    model.write("generation_config.json", r#"{"do_sample": true, "top_p": 7}"#);
    let message = model.run("generate", &["--prompt", "abc"]).error(1);
    assert!(message.contains("generation_config.json") && message.contains("top_p"), "{message}");
}

#[test]
fn every_sampling_option_is_taken_and_does_something() {
    let model = TextModel::new();
    let base = [
        "--prompt",
        "aaaa",
        "-n",
        "48",
        "--ignore-eos",
        "--temperature",
        "0.6",
        "--seed",
        "4",
        "--json",
    ];
    let ids = |more: &[&str]| {
        let done = model.run("generate", &[&base[..], more].concat()).events().pop().unwrap();
        done["ids"].clone()
    };
    let plain = ids(&[]);
    for more in [
        &["--top-k", "2"][..],
        &["--top-p", "0.1"],
        &["--min-p", "0.9"],
        &["--typical-p", "0.1"],
        &["--repetition-penalty", "3"],
        &["--presence-penalty", "9"],
        &["--frequency-penalty", "9"],
        &["--dry-multiplier", "50", "--dry-base", "4", "--dry-allowed-length", "1"],
        &["--xtc-probability", "1", "--xtc-threshold", "0.01"],
        &["--logit-bias", "3=50"],
    ] {
        assert_ne!(ids(more), plain, "{more:?} changes nothing");
    }
    let limited = ids(&["--frequency-penalty", "9", "--penalty-last-n", "1"]);
    assert_ne!(limited, ids(&["--frequency-penalty", "9"]));
    for order in ["temperature-first", "temperature-last"] {
        ids(&[
            "--stage-order",
            order,
            "--dry-multiplier",
            "1",
            "--dry-sequence-breaker",
            "a",
            "--dry-last-n",
            "9",
        ]);
    }
}

#[test]
fn the_context_ends_an_answer_and_refuses_a_prompt() {
    let model = TextModel::new();
    let only = model.only(&["a"]);
    let line = ["--prompt", "12345", "--context", "9", "--logit-bias", &only];
    let done = model.run("generate", &[&line[..], &["--json"]].concat()).events().pop().unwrap();
    assert_eq!((&done["stop_reason"], &done["text"]), (&"context_full".into(), &"aaaa".into()));
    let message = model.run("generate", &["--prompt", "12345", "--context", "5"]).error(1);
    assert!(message.contains("5 tokens") && message.contains("--context"), "{message}");
    // A model with rotary positions has its own limit (256), which can be lifted.
    let rope = fixture("qwen3/plain");
    let line = ["generate", "--model", &rope, "--tokens", "1", "-n", "300", "--json"];
    let done = kinglet(&line).events().pop().unwrap();
    assert_eq!(
        (&done["stop_reason"], &done["tokens"]["generated"]),
        (&"context_full".into(), &255.into())
    );
    let done = kinglet(&[&line[..], &["--context", "0"]].concat()).events().pop().unwrap();
    assert_eq!(
        (&done["stop_reason"], &done["tokens"]["generated"]),
        (&"max_tokens".into(), &300.into())
    );
}

#[test]
fn times_are_told_on_standard_error() {
    let model = TextModel::new();
    let done = model.run("generate", &["--prompt", "abc", "-n", "4", "--ignore-eos", "--stats"]);
    assert_eq!(done.code, 0, "{done:?}");
    for part in ["prompt: 3 tokens", "first token after", "answer: 4 tokens", "tokens/s"] {
        assert!(done.stderr.contains(part), "{part}: {done:?}");
    }
}
