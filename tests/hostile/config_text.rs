//! `config.json` truncated, mangled, and with values of every wrong type.

use kinglet::models::ModelError;
use kinglet::{Error, Logits, Run};
use kinglet_tests::random::Random;
use kinglet_tests::temp::TempDir;
use serde_json::{Value, json};

use crate::{copy, one_of_each_family, open, refused};

/// Opens a folder and, if that succeeds, runs a few tokens; both may fail, neither may panic.
fn try_out(folder: &TempDir) -> Result<(), Error> {
    let model = open(folder.path())?;
    let mut session = model.session()?;
    let run = Run { session: &mut session, tokens: &[1, 2, 3], logits: Logits::All };
    model.step(&mut [run])
}

#[test]
fn cut_short_at_every_length() {
    for case in one_of_each_family() {
        let folder = TempDir::copy_of(&case.folder);
        let text = folder.read("config.json");
        let end = text.trim_end().len();
        for length in 0..end {
            folder.write("config.json", &text[..length]);
            let error = refused(folder.path(), &["config.json"]);
            let syntax = matches!(&error, Error::Config { source: ModelError::Syntax { .. }, .. });
            assert!(syntax, "{} cut at {length}: {error:?}", case.name);
        }
        // Losing the final newline is harmless.
        folder.write("config.json", &text[..end]);
        try_out(&folder).unwrap();
    }
}

#[test]
fn mangled_at_random() {
    for case in one_of_each_family() {
        let folder = TempDir::copy_of(&case.folder);
        let text = folder.read("config.json").into_bytes();
        let mut random = Random::named(&case.name);
        let (mut refused, mut opened) = (0, 0);
        for _ in 0..400 {
            let mut bytes = text.clone();
            for _ in 0..random.between(1, 4) {
                let at = random.between(0, bytes.len() - 1);
                match random.between(0, 3) {
                    0 => bytes[at] = random.bits() as u8,
                    // Digits, signs and brackets do more damage than letters.
                    1 => bytes[at] = random.choose(b"0123456789-+.eE[]{}\",: nft"),
                    2 => {
                        bytes.remove(at);
                    }
                    _ => bytes.insert(at, random.choose(b"0123456789-[]{}\",:")),
                }
            }
            folder.write("config.json", &bytes);
            match try_out(&folder) {
                Err(error) => {
                    refused += 1;
                    assert!(!error.to_string().is_empty());
                }
                Ok(()) => opened += 1,
            }
        }
        // A field that isn't known is an error in Kinglet's own format, and so is nearly every change of a letter.
        let least = if case.name.starts_with("kinglet_hybrid/") { 10 } else { 40 };
        assert!(
            refused > 40 && opened > least,
            "{}: {refused} refused, {opened} opened",
            case.name
        );
    }
}

/// Values of every JSON type, and numbers of every size.
fn values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(false),
        json!(""),
        json!("auto"),
        json!("12"),
        json!("x".repeat(5000)),
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(1.5),
        json!(-0.0),
        json!(1e-320),
        json!(1e300),
        json!(1_000_000_000u64),
        json!(1u64 << 40),
        json!(u64::MAX),
        json!(i64::MIN),
        json!([]),
        json!([1, 2, 3]),
        json!(["linear_attention", "full_attention"]),
        json!([1e300, -1e300]),
        json!({}),
        json!({"__float__": "NaN"}),
        json!({"__float__": "Infinity"}),
        json!({"rope_type": "yarn", "factor": 1e300}),
        json!({"rope_type": "llama3", "factor": -1, "low_freq_factor": 0}),
        json!({"a": {"b": {"c": [{}]}}}),
    ]
}

#[test]
fn values_of_every_wrong_kind_in_every_field() {
    for case in one_of_each_family() {
        let folder = TempDir::copy_of(&case.folder);
        let config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
        let fields: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for field in &fields {
            for value in values() {
                let mut spoilt = config.clone();
                spoilt[field] = value.clone();
                folder.write("config.json", spoilt.to_string());
                let Err(error) = try_out(&folder) else { continue };
                let message = error.to_string();
                let what = || format!("{} {field} = {value}: {message}", case.name);
                assert!(message.len() < 8000, "{}", what());
                match &error {
                    Error::Config { source, .. } => {
                        assert!(message.contains("config.json"), "{}", what());
                        // A value of the wrong type is reported with its field's name.
                        if let ModelError::WrongType { field: named, .. } = source {
                            assert!(named.starts_with(field.as_str()), "{}", what());
                        }
                    }
                    // Sizes that are valid in themselves do not fit the weights.
                    Error::Weights(_) => {
                        assert!(message.contains("do not match config.json"), "{}", what());
                        // The first tensor is named on the first line.
                        let first = message.lines().next().unwrap_or_default();
                        assert!(first.contains(": `"), "no tensor named: {}", what());
                    }
                    // A scale or a frequency of 1e300.
                    Error::NonFinite { .. } => {}
                    _ => panic!("{error:?} for {}", what()),
                }
            }
        }
    }
}

#[test]
fn fields_left_out_are_defaults_or_named() {
    for case in one_of_each_family() {
        let folder = TempDir::copy_of(&case.folder);
        let config: Value = serde_json::from_str(&folder.read("config.json")).unwrap();
        let fields: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for field in &fields {
            let mut spoilt = config.clone();
            spoilt.as_object_mut().unwrap().remove(field);
            folder.write("config.json", spoilt.to_string());
            if let Err(error) = try_out(&folder) {
                let fit = matches!(error, Error::Config { .. } | Error::Weights(_));
                assert!(fit, "{} without {field}: {error:?}", case.name);
            }
        }
    }
}

#[test]
fn an_unknown_model_type_is_answered_with_what_is_supported() {
    let folder = copy("llama/plain");
    let supported: Vec<&str> = kinglet::models::supported().collect();
    for model_type in ["gpt2", "Llama", "", "mamba3", "\u{0}\n\u{1b}[2J", &"x".repeat(100_000)] {
        let config = json!({"model_type": model_type});
        folder.write("config.json", config.to_string());
        let error = refused(folder.path(), &supported);
        let known =
            matches!(&error, Error::Config { source: ModelError::UnknownModelType { .. }, .. });
        assert!(known, "{error:?}");
        let message = error.to_string();
        assert!(message.len() < 2000, "{message}");
        // A file must not control the terminal.
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
    folder.write("config.json", "{}");
    let error = refused(folder.path(), &supported);
    assert!(matches!(error, Error::Config { source: ModelError::NoModelType { .. }, .. }));
    folder.write("config.json", r#"{"architectures": ["GPT2LMHeadModel"]}"#);
    refused(folder.path(), &["GPT2LMHeadModel", "llama"]);
}

#[test]
fn non_objects_are_described() {
    let folder = copy("llama/plain");
    for (text, part) in [
        ("[]", "a list"),
        ("null", "null"),
        ("\"llama\"", "string"),
        ("12", "number"),
        ("", "line 1"),
        ("{", "line 1"),
        ("\u{feff}{}", "line 1"),
        ("{\"model_type\": \"llama\"} x", "line 1"),
        ("{'model_type': 'llama'}", "line 1"),
    ] {
        folder.write("config.json", text);
        let error = refused(folder.path(), &["config.json", part]);
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
    }
    // Very deep nesting: recursive parsers overflow the stack here.
    folder.write("config.json", format!("{{\"a\":{}", "[".repeat(1 << 20)));
    refused(folder.path(), &["config.json"]);
    folder.write("config.json", "{\"a\":".repeat(1 << 18));
    refused(folder.path(), &["config.json"]);
    // Not text.
    folder.write("config.json", [0xff, 0xfe, 0x7b, 0x00]);
    assert!(matches!(refused(folder.path(), &["config.json"]), Error::Read { .. }));
}

#[test]
fn a_config_that_is_too_long_is_not_read() {
    let folder = copy("llama/plain");
    folder.write("config.json", vec![b' '; 5 << 20]);
    let error = refused(folder.path(), &["config.json", "5242880"]);
    assert!(matches!(error, Error::Config { source: ModelError::TooLong { .. }, .. }), "{error:?}");
    folder.write("config.json", vec![b' '; 17 << 20]);
    let (error, peak) = crate::counting::peak(|| kinglet::read_spec(folder.path()).unwrap_err());
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    assert!(peak < 100_000, "{peak} bytes to refuse a file by its length");
}
