use super::{Fields, MAX_BYTES, tag_bare_floats};
use crate::{Config, ModelError};
use serde_json::json;

fn parse(text: &str) -> Config {
    Config::parse(text).expect("a config")
}

#[test]
fn bare_floats_outside_of_strings_are_tagged() {
    for (text, tagged) in [
        ("[Infinity]", r#"[{"__float__":"Infinity"}]"#),
        ("[-Infinity,NaN ]", r#"[{"__float__":"-Infinity"},{"__float__":"NaN"} ]"#),
        (r#"{"NaN": NaN}"#, r#"{"NaN": {"__float__":"NaN"}}"#),
        (r#"["a \" NaN", NaN]"#, r#"["a \" NaN", {"__float__":"NaN"}]"#),
        (r#"["a \\", NaN]"#, r#"["a \\", {"__float__":"NaN"}]"#),
        ("Infinity", r#"{"__float__":"Infinity"}"#),
    ] {
        assert_eq!(tag_bare_floats(text), tagged);
    }
    for text in
        ["[Infinit]", "[NaNs, xNaN, 1NaN, -NaN, NaN1, InfinityInfinity]", "--Infinity", "éNaN"]
    {
        assert_eq!(tag_bare_floats(text), text);
    }
}

#[test]
fn both_spellings_of_infinity_are_numbers() {
    let config = parse(
        r#"{"a": Infinity, "b": {"__float__": "-Infinity"}, "c": [0.0, Infinity], "d": NaN,
            "e": {"__float__": "Inf"}, "f": {"__float__": "NaN", "g": 1}, "h": {"g": Infinity}}"#,
    );
    let fields = config.fields();
    assert_eq!(fields.float("a"), Ok(Some(f64::INFINITY)));
    assert_eq!(fields.float("b"), Ok(Some(f64::NEG_INFINITY)));
    assert_eq!(fields.pair("c"), Ok(Some((0.0, f64::INFINITY))));
    assert!(fields.float("d").is_ok_and(|x| x.is_some_and(f64::is_nan)));
    assert!(fields.float("e").is_err() && fields.float("f").is_err());
    assert_eq!(fields.nested().collect::<Vec<_>>(), ["e", "f", "h"]);
    for key in ["a", "b", "d"] {
        assert!(fields.finite(key).is_err() && fields.positive(key).is_err(), "{key}");
        assert!(fields.epsilon(key, 0.0).is_err() && fields.size(key, 0, 9).is_err(), "{key}");
    }
}

#[test]
fn sizes_are_whole_and_bounded() {
    let config = parse(
        r#"{"a": 7, "b": 7.0, "c": 7.5, "d": -1, "e": "7", "f": 18446744073709551616, "g": 1e300,
            "h": null, "i": true, "j": [1, 2.0], "k": [1, -2], "l": 7e2}"#,
    );
    let fields = config.fields();
    let size = |key| fields.size(key, 0, 1000);
    assert_eq!((size("a"), size("b"), size("l")), (Ok(Some(7)), Ok(Some(7)), Ok(Some(700))));
    assert_eq!((size("h"), size("absent")), (Ok(None), Ok(None)));
    for key in ["c", "d", "f", "g"] {
        assert!(matches!(size(key), Err(ModelError::OutOfRange { .. })), "{key}");
    }
    for key in ["e", "i", "j"] {
        assert!(matches!(size(key), Err(ModelError::WrongType { .. })), "{key}");
    }
    assert!(fields.size("a", 8, 9).is_err() && fields.size("a", 0, 6).is_err());
    assert_eq!(fields.sizes("j", 0, 9), Ok(Some(vec![1, 2])));
    assert!(fields.sizes("k", 0, 9).is_err());
}

#[test]
fn messages_say_where_and_what() {
    let config = parse(r#"{"a": {"b": "c"}, "d": 5}"#);
    let inner = config.fields().object("a").expect("an object").expect("a");
    let message =
        |fields: &Fields<'_>, key| fields.size(key, 1, 9).expect_err("no size").to_string();
    assert_eq!(message(&inner, "b"), "config.json: `a.b` is the string \"c\"; expected an integer");
    assert_eq!(
        message(&config.fields(), "a"),
        "config.json: `a` is an object of 1 fields; expected an integer"
    );
    let error = config.fields().size("d", 6, 9).expect_err("too small").to_string();
    assert_eq!(error, "config.json: `d` is 5; expected an integer from 6 to 9");
}

#[test]
fn long_values_are_cut_in_messages() {
    let config =
        parse(&json!({"hidden_act": "é".repeat(100_000), "model_type": "llama"}).to_string());
    let error = crate::spec(&config).expect_err("no activation").to_string();
    assert!(error.len() < 600, "{}", error.len());
    let config = parse(&json!({"model_type": "é".repeat(100_000)}).to_string());
    let error = crate::spec(&config).expect_err("no family").to_string();
    assert!(error.len() < 600, "{}", error.len());
}

#[test]
fn non_objects_are_refused() {
    assert!(matches!(Config::parse("[1]"), Err(ModelError::NotAnObject { .. })));
    let number = Err(ModelError::NotAnObject { found: "the number Infinity".into() });
    assert_eq!(Config::parse(" Infinity"), number);
    assert_eq!(
        Config::parse("{\n  \"a\": 1,\n}"),
        Err(ModelError::Syntax { line: 3, column: 1, message: "trailing comma".into() })
    );
    let long = " ".repeat(MAX_BYTES + 1);
    assert!(matches!(Config::parse(&long), Err(ModelError::TooLong { .. })));
}
