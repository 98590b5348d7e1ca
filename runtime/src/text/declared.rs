//! Token declarations in the companions of `tokenizer.json`: by text, as objects, in lists.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TextError;
use super::files::{field_error, kind};

/// A token declaration: its text alone, or with its properties.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Declared {
    Text(String),
    Token(Properties),
}

impl Declared {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Token(token) => &token.content,
        }
    }
}

/// An `AddedToken` without its defaults filled in.
#[derive(Clone, Debug)]
pub(super) struct Properties {
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    /// Defaults to the opposite of `special`.
    pub(super) normalized: Option<bool>,
    pub(super) special: bool,
    /// Whether it is still a JSON object when `transformers` compares the tokens of
    /// `added_tokens.json` with the named ones.
    pub(super) unconverted: bool,
}

impl Properties {
    pub(super) fn token(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

impl PartialEq for Properties {
    fn eq(&self, other: &Self) -> bool {
        self.token() == other.token()
    }
}

/// The value of `extra_special_tokens`: a list of tokens, or an object of named ones.
#[derive(Debug)]
pub(super) enum Extra {
    Null,
    List(Vec<Declared>),
    Named(Vec<(String, Declared)>),
}

impl Extra {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::List(list) => list.is_empty(),
            Self::Named(named) => named.is_empty(),
        }
    }
}

/// Whether an object has the mark that `transformers` 4 writes into `tokenizer_config.json`.
pub(super) fn is_tagged(object: &Map<String, Value>) -> bool {
    object.get("__type").and_then(Value::as_str) == Some("AddedToken")
}

pub(super) fn plain(text: &str, special: bool) -> Properties {
    Properties {
        content: text.to_string(),
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: Some(!special),
        special,
        unconverted: false,
    }
}

/// Parses a token given as text, as an object, or as null. Objects in `special_tokens_map.json` are
/// always special.
pub(super) fn optional_token(
    path: &Path,
    field: &str,
    value: &Value,
    map: bool,
) -> Result<Option<Declared>, TextError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(Declared::Text(text.clone()))),
        Value::Object(object) => {
            let mut token = properties(path, field, object)?;
            token.unconverted = !map;
            token.special |= map;
            Ok(Some(Declared::Token(token)))
        }
        other => {
            let problem =
                format!("expected a string or an object with `content`, found {}", kind(other));
            Err(field_error(path, field, problem))
        }
    }
}

pub(super) fn extra(path: &Path, field: &str, value: &Value) -> Result<Extra, TextError> {
    let token = |field: &str, value: &Value| {
        let mut token = optional_token(path, field, value, false)?
            .ok_or_else(|| field_error(path, field, "expected a token, found null"))?;
        if let (Declared::Token(token), Value::Object(object)) = (&mut token, value) {
            // `transformers` 4 wrote such objects into special_tokens_map.json; version 5 rejects
            // them.
            token.special |= !is_tagged(object) && !object.contains_key("special");
        }
        Ok::<_, TextError>(token)
    };
    match value {
        Value::Null => Ok(Extra::Null),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            let list = items.map(|(index, item)| token(&format!("{field}.{index}"), item));
            Ok(Extra::List(list.collect::<Result<_, _>>()?))
        }
        Value::Object(named) => {
            let named = named.iter();
            let named = named
                .map(|(name, item)| Ok((name.clone(), token(&format!("{field}.{name}"), item)?)));
            Ok(Extra::Named(named.collect::<Result<_, TextError>>()?))
        }
        other => {
            let problem = format!("expected a list or an object of tokens, found {}", kind(other));
            Err(field_error(path, field, problem))
        }
    }
}

pub(super) fn properties(
    path: &Path,
    field: &str,
    token: &Map<String, Value>,
) -> Result<Properties, TextError> {
    let Some(Value::String(content)) = token.get("content") else {
        return Err(field_error(path, &format!("{field}.content"), "expected a string"));
    };
    let flag = |name: &str| match token.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => {
            let problem = format!("expected true or false, found {}", kind(other));
            Err(field_error(path, &format!("{field}.{name}"), problem))
        }
    };
    Ok(Properties {
        content: content.clone(),
        single_word: flag("single_word")?.unwrap_or(false),
        lstrip: flag("lstrip")?.unwrap_or(false),
        rstrip: flag("rstrip")?.unwrap_or(false),
        normalized: flag("normalized")?,
        special: flag("special")?.unwrap_or(false),
        unconverted: false,
    })
}
