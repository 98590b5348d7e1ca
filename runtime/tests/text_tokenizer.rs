//! Tokenizers from model folders: the right ids, and errors for everything that can be wrong with a
//! folder.

use kinglet::sampling::Rng;
use kinglet::text::{
    EncodeOptions, FinishReason, GenerationConfig, OutputStream, SpecialTokens, StopMatcher,
    StopTokens, TextError, Tokenizer,
};
use serde_json::{Value, json};

mod common;
mod companions;
use common::Folder;

const BYTE_LEVEL: &str = include_str!("fixtures/text/byte_level.json");
const BYTE_FALLBACK: &str = include_str!("fixtures/text/byte_fallback.json");
const METASPACE: &str = include_str!("fixtures/text/metaspace.json");
const WORDPIECE: &str = include_str!("fixtures/text/wordpiece.json");

fn load(json: &str) -> Result<Tokenizer, TextError> {
    Tokenizer::from_json(json.as_bytes(), "tokenizer.json".as_ref(), SpecialTokens::default())
}

#[test]
fn ids_and_texts_are_those_of_the_library() {
    let fixture: Value =
        serde_json::from_str(include_str!("fixtures/text/encodings.json")).expect("JSON");
    for (name, json) in [
        ("byte_level", BYTE_LEVEL),
        ("byte_fallback", BYTE_FALLBACK),
        ("metaspace", METASPACE),
        ("wordpiece", WORDPIECE),
    ] {
        let tokenizer = load(json).expect("a tokenizer");
        for case in fixture[name].as_array().expect("a list") {
            let text = case["text"].as_str().expect("a string");
            for (field, add_special_tokens, parse_special_tokens) in
                [("with_special", true, true), ("ids", false, true), ("as_text", false, false)]
            {
                let options = EncodeOptions { add_special_tokens, parse_special_tokens };
                let ids = tokenizer.encode(text, options).expect("encodes");
                assert_eq!(json!(ids), case[field], "{name} {field}: {text:?}");
                for (field, decoded, skip) in
                    [("with_special", "decoded", true), ("ids", "decoded_plain", false)]
                {
                    if case[field] == json!(ids) {
                        let text = tokenizer.decode(&ids, skip).expect("decodes");
                        assert_eq!(json!(text), case[decoded], "{name}: {ids:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_vocabulary_is_compared_with_the_embedding() {
    let tokenizer = load(BYTE_LEVEL).expect("a tokenizer");
    let largest = tokenizer.largest_id().expect("a vocabulary");
    assert_eq!(tokenizer.vocab_size(), largest as usize + 1);
    assert_eq!(tokenizer.id_to_token(largest).as_deref(), Some("水車"), "the last added token");
    assert_eq!(tokenizer.token_to_id("水車"), Some(largest));
    assert_eq!(tokenizer.id_to_token(largest + 1), None);
    let rows = largest as usize;
    tokenizer.check_vocab(rows + 1).expect("just enough rows");
    tokenizer.check_vocab(rows + 1000).expect("a padded embedding");
    match tokenizer.check_vocab(rows) {
        Err(TextError::VocabularyTooLarge { largest_id, rows: found, .. }) => {
            assert_eq!((largest_id, found), (largest, rows));
        }
        other => panic!("{other:?}"),
    }
    // Ids have gaps, so the size says nothing.
    let mut json: Value = serde_json::from_str(BYTE_LEVEL).expect("JSON");
    json["model"]["vocab"]["far"] = json!(1_000_000);
    let tokenizer = load(&json.to_string()).expect("a tokenizer");
    assert!(tokenizer.vocab_size() < 1000);
    assert!(tokenizer.check_vocab(1000).is_err());
}

#[test]
fn special_tokens_are_named_by_the_configuration() {
    let folder = Folder::new("special");
    folder.write("tokenizer.json", BYTE_LEVEL);
    let none = Tokenizer::from_folder(folder.path()).expect("no other file is needed");
    assert_eq!((none.bos_id(), none.eos_id()), (None, None));
    assert!(none.is_special(0) && !none.is_special(300));

    folder.write(
        "tokenizer_config.json",
        &json!({
            "bos_token": null,
            "eos_token": {"content": "<|im_end|>", "lstrip": false},
            "pad_token": "not in the vocabulary",
            "add_bos_token": false,
            "added_tokens_decoder": {
                "0": {"content": "<|endoftext|>", "special": true, "normalized": false,
                      "lstrip": false, "rstrip": false, "single_word": false},
                "422": {"content": "<|new|>", "special": true},
                "423": {"content": "plain new", "special": false},
            },
        })
        .to_string(),
    );
    // The configuration has an `added_tokens_decoder`, so this older file is ignored.
    folder.write("special_tokens_map.json", r#"{"eos_token": "<|endoftext|>"}"#);
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer");
    assert_eq!(tokenizer.special_tokens().bos(), None);
    assert_eq!(tokenizer.special_tokens().eos(), Some("<|im_end|>"));
    assert_eq!(tokenizer.special_tokens().add_bos_token(), Some(false));
    assert_eq!(tokenizer.eos_id(), tokenizer.token_to_id("<|im_end|>"));
    // A named token that is not in the vocabulary follows the added tokens.
    assert_eq!(tokenizer.token_to_id("not in the vocabulary"), Some(424));
    // The added tokens follow those of tokenizer.json.
    assert_eq!(none.largest_id(), Some(421));
    assert_eq!(tokenizer.token_to_id("<|new|>"), Some(422));
    assert_eq!(tokenizer.token_to_id("plain new"), Some(423));
    assert!(tokenizer.is_special(422) && !tokenizer.is_special(423));
    let ids = tokenizer.encode("a<|new|>plain new", EncodeOptions::default()).expect("encodes");
    assert_eq!(ids[1..], [422, 423]);

    folder.write("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer");
    assert_eq!(tokenizer.special_tokens().eos(), Some("<|endoftext|>"), "the older file counts");
}

#[test]
fn a_wrong_configuration_is_named() {
    for (config, wanted) in [
        (r#"{"eos_token": 5}"#, "eos_token"),
        (r#"{"eos_token": {"text": "x"}}"#, "eos_token.content"),
        (r#"{"add_bos_token": "yes"}"#, "add_bos_token"),
        (r#"{"added_tokens_decoder": []}"#, "added_tokens_decoder"),
        (r#"{"added_tokens_decoder": {"x": {}}}"#, "added_tokens_decoder.x"),
        (r#"{"added_tokens_decoder": {"-1": {}}}"#, "added_tokens_decoder.-1"),
        (r#"{"added_tokens_decoder": {"4294967296": {}}}"#, "added_tokens_decoder.4294967296"),
        (r#"{"added_tokens_decoder": {"5": 7}}"#, "added_tokens_decoder.5"),
        (r#"{"added_tokens_decoder": {"5": {"content": 7}}}"#, "added_tokens_decoder.5.content"),
        (
            r#"{"added_tokens_decoder": {"5": {"content": "x", "special": 1}}}"#,
            "added_tokens_decoder.5.special",
        ),
        ("[1]", ""),
    ] {
        let folder = Folder::new("config");
        folder.write("tokenizer.json", BYTE_LEVEL);
        folder.write("tokenizer_config.json", config);
        match Tokenizer::from_folder(folder.path()) {
            Err(TextError::Field { path, field, .. }) => {
                assert!(path.ends_with("tokenizer_config.json"));
                assert_eq!(field, wanted);
            }
            other => panic!("{config}: {other:?}"),
        }
    }
    let folder = Folder::new("config");
    folder.write("tokenizer.json", BYTE_LEVEL);
    folder.write("tokenizer_config.json", r#"{"eos_token": "#);
    assert!(matches!(Tokenizer::from_folder(folder.path()), Err(TextError::Json { .. })));
}

#[test]
fn a_broken_tokenizer_is_an_error() {
    let folder = Folder::new("broken");
    let run = || Tokenizer::from_folder(folder.path());
    let error = run().expect_err("no file");
    assert!(matches!(error, TextError::Tokenizer { .. }));
    // A folder that is not a model is reported as such.
    assert!(error.to_string().contains("config.json"), "{error}");
    folder.write("config.json", "{}");
    let error = run().expect_err("no file");
    assert!(error.to_string().contains("tokenizer.json: no usable tokenizer: the file is missing"));
    folder.write("tokenizer.model", "");
    assert!(run().expect_err("no file").to_string().contains("tokenizer.model cannot be used"));
    folder.write("tokenizer.json", "");
    assert!(matches!(run(), Err(TextError::Json { .. })));
    // A truncated download.
    for share in 1..20 {
        folder
            .write_bytes("tokenizer.json", &BYTE_LEVEL.as_bytes()[..BYTE_LEVEL.len() * share / 20]);
        let error = run().expect_err("half a file");
        assert!(matches!(error, TextError::Json { .. }), "{error}");
        assert!(error.to_string().contains("line "), "{error}");
    }
    for (json, _) in [("{}", ()), ("[]", ()), ("null", ()), ("7", ()), (r#"{"model": {}}"#, ())] {
        folder.write("tokenizer.json", json);
        assert!(matches!(run(), Err(TextError::Tokenizer { .. })), "{json}");
    }
    // Nested so deeply that a naive parser overflows its stack.
    folder.write("tokenizer.json", &"[".repeat(1_000_000));
    assert!(matches!(run(), Err(TextError::Json { .. })));
    folder.write("tokenizer.json", &format!("{}{}", r#"{"a":"#.repeat(100), "}".repeat(100)));
    assert!(run().is_err());
    // Larger than any tokenizer; it must not be read.
    let file = std::fs::File::create(folder.path().join("tokenizer.json")).expect("a file");
    file.set_len(1 << 40).expect("a sparse file");
    assert!(matches!(run(), Err(TextError::FileTooLarge { .. })));
}

/// Valid JSON in the form of a tokenizer, but absurd.
#[test]
fn hostile_tokenizers_neither_panic_nor_take_memory() {
    let edit = |path: &str, value: Value| {
        let mut json: Value = serde_json::from_str(BYTE_FALLBACK).expect("JSON");
        *json.pointer_mut(path).expect(path) = value;
        json.to_string()
    };
    let huge = 4_294_967_295u64;
    let hostile = [
        edit("/model/vocab", json!({})),
        edit("/model/vocab", json!({"a": huge})),
        edit("/model/vocab", json!({"a": -1})),
        edit("/model/vocab", json!({"a": 1, "b": 1})),
        edit("/model/merges", json!([["no", "such"]])),
        edit("/model/merges", json!([["a"]])),
        edit("/model/merges", json!(["a b c d"])),
        edit("/model/unk_token", json!("not there")),
        edit("/model/type", json!("WordLevel")),
        edit("/model/type", json!("Nonsense")),
        edit("/added_tokens/0/id", json!(huge)),
        edit("/added_tokens/0/content", json!("")),
        edit("/added_tokens/0/content", json!("\u{0}")),
        edit(
            "/truncation",
            json!({"max_length": 0, "strategy": "LongestFirst", "stride": 5, "direction": "Right"}),
        ),
        edit(
            "/truncation",
            json!({"max_length": 1, "strategy": "OnlySecond", "stride": 0, "direction": "Left"}),
        ),
        edit(
            "/padding",
            json!({"strategy": {"Fixed": 1_000_000_000_000u64}, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}),
        ),
        edit(
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(((((a*)*)*)*)*)*$"}, "content": "x"}),
        ),
        edit(
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(?:a{1000}){1000}{1000}"}, "content": "x"}),
        ),
        edit("/normalizer", json!({"type": "Replace", "pattern": {"Regex": "("}, "content": "x"})),
        edit("/normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "xx"})),
        edit("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "////////////"})),
        edit("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        edit("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "!"})),
        edit("/normalizer", json!({"type": "Prepend", "prepend": ""})),
        edit("/pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        edit(
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(?=.)"}, "behavior": "Isolated", "invert": true}),
        ),
        edit(
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": ""}, "behavior": "MergedWithNext", "invert": false}),
        ),
        edit("/pre_tokenizer", json!({"type": "Metaspace", "replacement": "ab"})),
        edit("/pre_tokenizer", json!({"type": "ByteLevel"})),
        edit("/decoder", json!({"type": "Strip", "content": "", "start": 1, "stop": 1})),
        edit("/decoder", json!({"type": "Strip", "content": " ", "start": huge, "stop": huge})),
        edit("/decoder", json!({"type": "Nonsense"})),
        edit("/decoder", json!(5)),
        edit(
            "/decoder",
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        ),
        edit("/decoder", json!({"type": "Sequence", "decoders": []})),
        edit("/decoder", json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""})),
        edit(
            "/post_processor",
            json!({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
        ),
        edit("/post_processor/special_tokens", json!({})),
        edit(
            "/post_processor",
            json!({"type": "BertProcessing", "sep": ["x", huge], "cls": ["y", huge]}),
        ),
        edit("/version", json!("9.9")),
    ];
    let (mut loaded, mut refused) = (0, 0);
    for json in hostile {
        match load(&json) {
            Ok(tokenizer) => {
                loaded += 1;
                for text in ["", "The river <s> é", &"a".repeat(30), "\u{0}川🙂"] {
                    for parse_special_tokens in [true, false] {
                        let options =
                            EncodeOptions { add_special_tokens: true, parse_special_tokens };
                        if let Ok(ids) = tokenizer.encode(text, options) {
                            assert!(ids.len() < 1000, "{} ids: {json}", ids.len());
                            let _ = tokenizer.decode(&ids, false);
                        }
                    }
                }
                let all: Vec<u32> = (0..500).chain([u32::MAX, u32::MAX - 1]).collect();
                let _ = tokenizer.decode(&all, true);
                let _ = tokenizer.check_vocab(1);
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(error, TextError::Tokenizer { .. }), "{error}");
            }
        }
    }
    assert!(loaded > 5 && refused > 5, "{loaded} loaded, {refused} refused");
}

/// Randomly damaged files load or fail, and then work or fail, without a panic.
#[test]
fn damaged_tokenizers_do_not_panic() {
    let mut rng = Rng::new(1);
    let (mut loaded, mut refused) = (0, 0);
    for json in [BYTE_LEVEL, BYTE_FALLBACK, METASPACE, WORDPIECE] {
        for _ in 0..120 {
            let mut bytes = json.as_bytes().to_vec();
            for _ in 0..1 + rng.next_u64() % 3 {
                let place = (rng.next_u64() % bytes.len() as u64) as usize;
                match rng.next_u64() % 4 {
                    0 => {
                        bytes[place] = b"0123456789-.eE[]{}\",:ntf"[(rng.next_u64() % 24) as usize]
                    }
                    1 => bytes[place] = (rng.next_u64() % 256) as u8,
                    2 => drop(bytes.drain(place..(place + 7).min(bytes.len()))),
                    _ => {
                        let copy = bytes[place..(place + 9).min(bytes.len())].to_vec();
                        bytes.splice(place..place, copy);
                    }
                }
            }
            match Tokenizer::from_json(&bytes, "damaged".as_ref(), SpecialTokens::default()) {
                Ok(tokenizer) => {
                    loaded += 1;
                    if let Ok(ids) = tokenizer.encode("The river 川 <s>", EncodeOptions::default())
                    {
                        let _ = tokenizer.decode(&ids, false);
                    }
                    let _ = tokenizer.decode(&(0..450).collect::<Vec<_>>(), false);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(loaded > 20 && refused > 100, "{loaded} loaded, {refused} refused");
}

#[test]
fn stop_tokens_come_from_the_first_file_that_names_them() {
    let folder = Folder::new("stop");
    folder.write("tokenizer.json", BYTE_LEVEL);
    folder.write("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer");
    let ids = || {
        let stop = StopTokens::from_folder(folder.path(), Some(&tokenizer));
        stop.expect("sound files").ids().to_vec()
    };
    assert_eq!(ids(), [2]);
    folder.write("config.json", r#"{"text_config": {"eos_token_id": 7}}"#);
    assert_eq!(ids(), [7]);
    folder
        .write("config.json", r#"{"eos_token_id": [8, 9, 8], "text_config": {"eos_token_id": 7}}"#);
    assert_eq!(ids(), [8, 9]);
    folder.write("generation_config.json", r#"{"temperature": 0.5}"#);
    assert_eq!(ids(), [8, 9]);
    folder.write("generation_config.json", r#"{"eos_token_id": [1, 2]}"#);
    assert_eq!(ids(), [1, 2]);
    let config = GenerationConfig::from_folder(folder.path()).expect("a sound file");
    assert_eq!(config.eos_token_ids, [1, 2]);
    folder.write("generation_config.json", r#"{"eos_token_id": "</s>"}"#);
    assert!(matches!(
        StopTokens::from_folder(folder.path(), None),
        Err(TextError::Field { field, .. }) if field == "eos_token_id"
    ));
    folder.write("generation_config.json", "{");
    assert!(matches!(StopTokens::from_folder(folder.path(), None), Err(TextError::Json { .. })));
}

#[test]
fn an_output_ends_at_a_stop_token_or_a_stop_string() {
    let tokenizer = load(BYTE_LEVEL).expect("a tokenizer");
    let run = |text: &str, strings: &[&str], extra: &[u32]| {
        let mut ids = tokenizer.encode(text, EncodeOptions::default()).expect("encodes");
        ids.extend_from_slice(extra);
        let strings = StopMatcher::new(strings).expect("sound strings");
        let mut output = OutputStream::new(tokenizer.stream(true), StopTokens::new([2]), strings);
        let mut text = String::new();
        for id in ids {
            let step = output.push(id).expect("decodes");
            text.push_str(&step.text);
            if step.finish.is_some() {
                return (text, step.finish);
            }
        }
        let last = output.finish().expect("decodes");
        (text + &last.text, last.finish)
    };
    let whole = "The river runs past the mill 川";
    assert_eq!(run(whole, &[], &[]), (whole.into(), None));
    assert_eq!(run(whole, &["mills"], &[2, 300]), (whole.into(), Some(FinishReason::StopToken(2))));
    // The stop string spans several tokens.
    assert_eq!(
        run(whole, &["xyz", "runs p"], &[]),
        ("The river ".into(), Some(FinishReason::StopString(1)))
    );
    // Part of a stop string is returned at the end of the text.
    assert_eq!(run("The riv", &["river"], &[]), ("The riv".into(), None));
    assert_eq!(
        run("The riv", &["river"], &[2]),
        ("The riv".into(), Some(FinishReason::StopToken(2)))
    );
    // A character that is never completed: its first byte of three, in the byte alphabet.
    let half = tokenizer.token_to_id("å").expect("the byte E5");
    let (text, finish) = run("a", &["\u{fffd}"], &[half, 2]);
    assert_eq!((text.as_str(), finish), ("a", Some(FinishReason::StopString(0))));
}
