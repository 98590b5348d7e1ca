//! The companions of `tokenizer.json`, compared with `transformers`.

use std::path::PathBuf;

use kinglet::text::{EncodeOptions, TextError, Tokenizer};
use serde_json::{Value, json};

use super::{BYTE_LEVEL, Folder};

/// The folder that a case of the fixture describes.
fn folder(case: &Value) -> Folder {
    let folder = Folder::new("companions");
    let mut tokenizer: Value = serde_json::from_str(BYTE_LEVEL).expect("JSON");
    let keep = usize::try_from(case["keep"].as_u64().expect("a count")).expect("small");
    tokenizer["added_tokens"].as_array_mut().expect("a list").truncate(keep);
    if let Some(token) = case["padding"].as_str() {
        tokenizer["padding"] = json!({
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": token,
        });
    }
    folder.write("tokenizer.json", &tokenizer.to_string());
    for (name, contents) in case["files"].as_object().expect("files") {
        folder.write(name, &contents.to_string());
    }
    folder
}

#[test]
fn companions_name_and_add_tokens_as_in_transformers() {
    // For more cases than are committed: `make_companions.py --random COUNT FILE`.
    let more = std::env::var_os("KINGLET_COMPANIONS").map(PathBuf::from);
    let fixture = match more {
        Some(path) => std::fs::read_to_string(path).expect("the file of cases"),
        None => include_str!("../fixtures/text/companions.json").to_string(),
    };
    let fixture: Value = serde_json::from_str(&fixture).expect("JSON");
    let text = fixture["text"].as_str().expect("a text");
    let cases = fixture["cases"].as_array().expect("a list");
    assert!(cases.len() > 30);
    for case in cases {
        let (name, expected) = (&case["name"], &case["expected"]);
        let folder = folder(case);
        let tokenizer =
            Tokenizer::from_folder(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let named: Vec<_> =
            tokenizer.special_tokens().iter().map(|(name, text)| json!([name, text])).collect();
        assert_eq!(json!(named), expected["named"], "{name}: names");
        for (id, token) in expected["added"].as_object().expect("an object") {
            let id: u32 = id.parse().expect("an id");
            let content = tokenizer.id_to_token(id);
            assert_eq!(json!([content, tokenizer.is_special(id)]), *token, "{name}: {id}");
        }
        assert_eq!(json!(tokenizer.vocab_size()), expected["size"], "{name}: size");
        let ids = tokenizer.encode(text, EncodeOptions::default()).expect("encodes");
        assert_eq!(json!(ids), expected["ids"], "{name}: ids");
        let decoded = tokenizer.decode(&ids, true).expect("decodes");
        assert_eq!(json!(decoded), expected["text"], "{name}: text");
    }
}

#[test]
fn objects_without_a_mark_are_taken_where_transformers_refuses_them() {
    // As transformers 4 wrote `special_tokens_map.json`, and as people write
    // `tokenizer_config.json`.
    let list = json!([{"content": "<|new|>", "lstrip": false}, "<|im_end|>"]);
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let folder = Folder::new("unmarked");
        folder.write("tokenizer.json", BYTE_LEVEL);
        let contents = json!({"additional_special_tokens": list, "bos_token": {"content": "<s>"}});
        folder.write(file, &contents.to_string());
        let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer");
        let ids = tokenizer.encode("<s><|new|>", EncodeOptions::default()).expect("encodes");
        assert_eq!(ids, [422, 423], "{file}");
        assert!(tokenizer.is_special(422) && tokenizer.is_special(423), "{file}");
        assert_eq!(tokenizer.bos_id(), Some(422), "{file}");
    }
}

#[test]
fn a_companion_that_is_broken_is_named() {
    for (file, contents, field) in [
        ("special_tokens_map.json", r#"{"bos_token": 5}"#, "bos_token"),
        ("special_tokens_map.json", r#"{"eot_token": {"lstrip": true}}"#, "eot_token.content"),
        (
            "tokenizer_config.json",
            r#"{"extra_special_tokens": ["a", null]}"#,
            "extra_special_tokens.1",
        ),
        (
            "tokenizer_config.json",
            r#"{"extra_special_tokens": {"x_token": 1}}"#,
            "extra_special_tokens.x_token",
        ),
        (
            "tokenizer_config.json",
            r#"{"additional_special_tokens": "<|x|>"}"#,
            "additional_special_tokens",
        ),
        ("added_tokens.json", r#"{"<|x|>": "5"}"#, "<|x|>"),
    ] {
        let folder = Folder::new("broken");
        folder.write("tokenizer.json", BYTE_LEVEL);
        folder.write(file, contents);
        match Tokenizer::from_folder(folder.path()) {
            Err(TextError::Field { path, field: found, .. }) => {
                assert_eq!(found, field);
                assert!(path.ends_with(file), "{}", path.display());
            }
            other => panic!("{file} {contents}: {other:?}"),
        }
    }
}

#[test]
fn thousands_of_tokens_are_added_at_once() {
    let folder = Folder::new("thousands");
    folder.write("tokenizer.json", BYTE_LEVEL);
    let added: Value = (0..20_000)
        .map(|n| (format!("<|extra_{n}|>"), json!(20_500 - n)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    folder.write("added_tokens.json", &added.to_string());
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer");
    assert_eq!(tokenizer.vocab_size(), 20_422);
    // In the order of their declared ids.
    assert_eq!(tokenizer.token_to_id("<|extra_19999|>"), Some(422));
    assert_eq!(tokenizer.token_to_id("<|extra_0|>"), Some(20_421));
}

#[test]
fn tokens_without_an_embedding_are_refused_only_where_a_text_has_them() {
    let folder = Folder::new("rows");
    folder.write("tokenizer.json", BYTE_LEVEL);
    folder.write("tokenizer_config.json", r#"{"additional_special_tokens": ["<|new|>"]}"#);
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer").for_embedding(422);
    let run = |text: &str| tokenizer.encode(text, EncodeOptions::default());
    assert_eq!(run("水車").expect("the last row").last(), Some(&421));
    match run("a<|new|>") {
        Err(error @ TextError::TokenWithoutEmbedding { id: 422, rows: 422, .. }) => {
            let message = error.to_string();
            assert!(message.contains("<|new|>") && message.contains("422 rows"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    // As plain text it has other tokens.
    let plain = EncodeOptions { parse_special_tokens: false, ..EncodeOptions::default() };
    assert!(tokenizer.encode("a<|new|>", plain).is_ok());
}
