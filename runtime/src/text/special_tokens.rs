//! The named special tokens of a model: `tokenizer_config.json` and `special_tokens_map.json`.

use std::path::Path;

use serde_json::{Map, Value};

use super::TextError;
use super::files::{field_error, kind, read_optional_object};

/// The names that `transformers` gives to special tokens, in its order. Chat templates see those
/// that are set as variables of the same name.
pub(crate) const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The special tokens that a model's tokenizer configuration names.
///
/// The tokens of `tokenizer_config.json` count. Where that file has no `added_tokens_decoder` (it
/// is then older than the field), `special_tokens_map.json` overrides it, as in `transformers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Name and text, in the order of [`NAMES`].
    named: Vec<(String, String)>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
}

impl SpecialTokens {
    /// Reads the names from a model folder. Missing files mean that no token is named.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("tokenizer_config.json");
        let config = read_optional_object(&path)?.unwrap_or_default();
        let mut tokens = Self::default();
        tokens.read_names(&path, &config)?;
        tokens.add_bos = optional_bool(&path, &config, "add_bos_token")?;
        tokens.add_eos = optional_bool(&path, &config, "add_eos_token")?;
        if !config.contains_key("added_tokens_decoder") {
            let path = folder.join("special_tokens_map.json");
            if let Some(map) = read_optional_object(&path)? {
                tokens.read_names(&path, &map)?;
            }
        }
        Ok(tokens)
    }

    fn read_names(&mut self, path: &Path, map: &Map<String, Value>) -> Result<(), TextError> {
        for name in NAMES {
            let Some(value) = map.get(name) else { continue };
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text,
                Value::Object(token) => match token.get("content") {
                    Some(Value::String(text)) => text,
                    _ => {
                        let field = format!("{name}.content");
                        return Err(field_error(path, &field, "expected a string"));
                    }
                },
                other => {
                    let problem = format!(
                        "expected a string or an object with `content`, found {}",
                        kind(other)
                    );
                    return Err(field_error(path, name, problem));
                }
            };
            self.set(name, text);
        }
        Ok(())
    }

    /// Sets a token by the name that `transformers` gives to it (`bos_token`, `pad_token`, ...).
    pub fn set(&mut self, name: &str, text: &str) {
        match self.named.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => *value = text.to_string(),
            None => self.named.push((name.to_string(), text.to_string())),
        }
    }

    /// The text of a token by its name (`bos_token`, `pad_token`, ...), if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<&str> {
        self.get("bos_token")
    }

    /// The token that ends a text or a turn.
    pub fn eos(&self) -> Option<&str> {
        self.get("eos_token")
    }

    /// All named tokens: name (`bos_token`, ...) and text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// `add_bos_token` of the configuration. For information: like `transformers` 5, what is
    /// really added is decided by the post-processor in `tokenizer.json`.
    pub fn add_bos_token(&self) -> Option<bool> {
        self.add_bos
    }

    /// `add_eos_token` of the configuration; for information, as [`Self::add_bos_token`].
    pub fn add_eos_token(&self) -> Option<bool> {
        self.add_eos
    }
}

fn optional_bool(
    path: &Path,
    map: &Map<String, Value>,
    field: &str,
) -> Result<Option<bool>, TextError> {
    match map.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => {
            Err(field_error(path, field, format!("expected true or false, found {}", kind(other))))
        }
    }
}
