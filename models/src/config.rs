//! [`Config`]: a parsed `config.json`, with typed and bounded access to its fields.
//!
//! Real files are not always JSON: `transformers` wrote infinities as the bare word `Infinity` for
//! years, and now writes `{"__float__": "Infinity"}`. Both are read here. A field that is `null`
//! counts as absent, except for the few fields in which `null` has a meaning of its own.

use crate::ModelError;
use crate::family::{reader_of_class, reader_of_type};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Maximum length of the text in bytes; real configs have a few kilobytes.
const MAX_BYTES: usize = 4 << 20;

/// Maximum context (`max_position_embeddings` and similar fields).
pub(crate) const MAX_POSITIONS: usize = i32::MAX as usize;

/// The key under which `transformers` 5 writes numbers that JSON lacks.
const FLOAT_TAG: &str = "__float__";

/// A parsed `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    root: Map<String, Value>,
    /// Path of these fields in the file: empty, or object names, each followed by a dot.
    path: String,
}

/// Fields in which the config of a larger model holds that of its language model.
const PARTS: [&str; 4] = ["text_config", "llm_config", "language_config", "thinker_config"];

/// Maximum nesting depth of such a config.
const MOST_WRAPPERS: usize = 3;

impl Config {
    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// If the text is too long, not JSON, or not an object.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        if text.len() > MAX_BYTES {
            return Err(ModelError::TooLong { bytes: text.len(), limit: MAX_BYTES });
        }
        match serde_json::from_str(&tag_bare_floats(text)) {
            Ok(Value::Object(root)) if tag(&root).is_none() => {
                Ok(Self { root, path: String::new() })
            }
            Ok(other) => Err(ModelError::NotAnObject { found: describe(&other) }),
            Err(error) => Err(ModelError::Syntax {
                line: error.line(),
                column: error.column(),
                message: without_position(&error.to_string()).into(),
            }),
        }
    }

    /// `model_type`, if the config has it.
    ///
    /// # Errors
    /// If it is not a string.
    pub fn model_type(&self) -> Result<Option<&str>, ModelError> {
        self.fields().str("model_type")
    }

    /// The first of `architectures`, if the config has it.
    ///
    /// # Errors
    /// If `architectures` is not a list of strings.
    pub fn architecture(&self) -> Result<Option<&str>, ModelError> {
        Ok(self.fields().strings("architectures")?.and_then(|names| names.first().copied()))
    }

    /// The config of the language model to run: this config, or, for a larger model (with vision or
    /// audio) around a supported family, the config of that part, extended by fields that such
    /// files have only outside of it.
    pub fn language(&self) -> Cow<'_, Self> {
        match self.part(&self.root, "", MOST_WRAPPERS) {
            Some(part) => Cow::Owned(part),
            None => Cow::Borrowed(self),
        }
    }

    /// Where these fields are in the file: for example `text_config` if
    /// [`language`](Self::language) found them there, `None` for the whole file.
    pub fn place(&self) -> Option<&str> {
        self.path.strip_suffix('.')
    }

    /// The fields as JSON.
    pub fn to_json(&self) -> String {
        format!("{:#}", Value::Object(self.root.clone()))
    }

    /// The field and `model_type` of a language model inside this config, supported or not.
    pub(crate) fn part_model_type(&self) -> Option<(&'static str, &str)> {
        PARTS.iter().find_map(|key| {
            let part = self.root.get(*key)?.as_object()?;
            Some((*key, part.get("model_type")?.as_str()?))
        })
    }

    fn part(&self, object: &Map<String, Value>, path: &str, depth: usize) -> Option<Self> {
        if is_supported(object) {
            return None;
        }
        for key in PARTS {
            let Some(Value::Object(inner)) = object.get(key) else { continue };
            let path = format!("{path}{key}.");
            if is_supported(inner) {
                return Some(self.take(inner, path));
            }
            let deeper = (depth > 1).then(|| self.part(inner, &path, depth - 1)).flatten();
            if deeper.is_some() {
                return deeper;
            }
        }
        None
    }

    /// The config of a part, extended by fields outside of it that concern it.
    fn take(&self, part: &Map<String, Value>, path: String) -> Self {
        let mut root = part.clone();
        for key in ["quantization", "quantization_config", "compression_config", "vocab_size"] {
            let absent = root.get(key).is_none_or(Value::is_null);
            if let Some(outer) = self.root.get(key).filter(|_| absent) {
                root.insert(key.into(), outer.clone());
            }
        }
        // Versions differ in which of the two counts. A stored head counts in any case.
        const TIED: &str = "tie_word_embeddings";
        if self.root.get(TIED) == Some(&Value::Bool(true)) {
            root.insert(TIED.into(), Value::Bool(true));
        }
        Self { root, path }
    }

    /// The whole config.
    pub(crate) fn root(&self) -> &Map<String, Value> {
        &self.root
    }

    /// The fields of the whole config.
    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields { map: &self.root, path: self.path.clone() }
    }
}

/// Whether an object is the config of a supported family.
fn is_supported(object: &Map<String, Value>) -> bool {
    match object.get("model_type").filter(|value| !value.is_null()) {
        Some(name) => name.as_str().is_some_and(|name| reader_of_type(name).is_some()),
        None => object
            .get("architectures")
            .and_then(|names| names.get(0)?.as_str())
            .is_some_and(|name| reader_of_class(name).is_some()),
    }
}

impl std::str::FromStr for Config {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        Self::parse(text)
    }
}

/// The fields of one object of the config.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Path of the object for messages: empty, or with a final dot.
    path: String,
}

impl<'a> Fields<'a> {
    /// The full name of a field of this object.
    pub(crate) fn path(&self, key: &str) -> String {
        // Some keys are names from the file.
        format!("{}{}", self.path, shorten(key))
    }

    /// The value of a field; `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether a field is given as `null`.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// Whether this object has no fields.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The fields whose values are objects, tagged numbers aside.
    pub(crate) fn nested(&self) -> impl Iterator<Item = &'a str> {
        let objects = self.map.iter().filter(|(_, value)| value.is_object());
        objects.filter(|(_, value)| number(value).is_none()).map(|(key, _)| key.as_str())
    }

    /// All fields with their values.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    fn wrong_type(&self, key: &str, value: &Value, expected: &'static str) -> ModelError {
        ModelError::WrongType { field: self.path(key), found: describe(value), expected }
    }

    fn out_of_range(&self, key: &str, value: &Value, expected: String) -> ModelError {
        ModelError::OutOfRange {
            field: self.path(key),
            value: shorten(&value.to_string()),
            expected,
        }
    }

    /// The error for a field whose value Kinglet does not compute.
    pub(crate) fn unsupported(&self, key: &str, supported: impl Into<String>) -> ModelError {
        let value = self.map.get(key).map_or("absent".into(), |v| shorten(&v.to_string()));
        ModelError::Unsupported { field: self.path(key), value, supported: supported.into() }
    }

    /// Fails if the field is present and not `null`.
    pub(crate) fn refuse(&self, key: &str, supported: &str) -> Result<(), ModelError> {
        if self.get(key).is_some() { Err(self.unsupported(key, supported)) } else { Ok(()) }
    }

    /// An integer from `min` to `max`.
    pub(crate) fn size(
        &self,
        key: &str,
        min: usize,
        max: usize,
    ) -> Result<Option<usize>, ModelError> {
        self.get(key).map(|value| self.as_size(key, value, min, max)).transpose()
    }

    /// Like [`size`](Self::size), with a default.
    pub(crate) fn size_or(
        &self,
        key: &str,
        default: usize,
        min: usize,
        max: usize,
    ) -> Result<usize, ModelError> {
        Ok(self.size(key, min, max)?.unwrap_or(default))
    }

    fn as_size(
        &self,
        key: &str,
        value: &Value,
        min: usize,
        max: usize,
    ) -> Result<usize, ModelError> {
        let range = || format!("an integer from {min} to {max}");
        let whole = match value {
            Value::Number(n) => n.as_u64().or_else(|| {
                let x = n.as_f64()?;
                // Above 2^53 a float is not an exact count; all bounds here are lower.
                (x.fract() == 0.0 && (0.0..=9e15).contains(&x)).then_some(x as u64)
            }),
            _ => return Err(self.wrong_type(key, value, "an integer")),
        };
        let whole = whole.and_then(|n| usize::try_from(n).ok());
        whole
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| self.out_of_range(key, value, range()))
    }

    /// A list of integers, each from `min` to `max`.
    pub(crate) fn sizes(
        &self,
        key: &str,
        min: usize,
        max: usize,
    ) -> Result<Option<Vec<usize>>, ModelError> {
        let Some(list) = self.list(key, "a list of integers")? else { return Ok(None) };
        list.iter()
            .map(|value| self.as_size(key, value, min, max))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Any number: finite, infinite or NaN.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        number(value).map(Some).ok_or_else(|| self.wrong_type(key, value, "a number"))
    }

    /// A number for which `accept` holds; `expected` describes the condition.
    pub(crate) fn float_where(
        &self,
        key: &str,
        expected: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, ModelError> {
        match self.float(key)? {
            Some(x) if !accept(x) => {
                let value = self.get(key).unwrap_or(&Value::Null);
                Err(self.out_of_range(key, value, expected.into()))
            }
            x => Ok(x),
        }
    }

    /// A finite number.
    pub(crate) fn finite(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.float_where(key, "a finite single-precision number", |x| (x as f32).is_finite())
    }

    /// A finite number above zero, also in single precision.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.float_where(key, "a finite single-precision number above 0", |x| {
            (x as f32).is_finite() && x as f32 > 0.0
        })
    }

    /// The epsilon of a norm: finite, not below zero.
    pub(crate) fn epsilon(&self, key: &str, default: f64) -> Result<f32, ModelError> {
        let found = self.float_where(key, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?;
        Ok(found.unwrap_or(default) as f32)
    }

    /// A list of finite numbers.
    pub(crate) fn finites(&self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        const EXPECTED: &str = "a list of finite numbers";
        let Some(list) = self.list(key, EXPECTED)? else { return Ok(None) };
        let numbers = list.iter().map(|value| match number(value) {
            Some(x) if (x as f32).is_finite() => Ok(x),
            Some(_) => Err(self.out_of_range(key, value, EXPECTED.into())),
            None => Err(self.wrong_type(key, value, EXPECTED)),
        });
        numbers.collect::<Result<_, _>>().map(Some)
    }

    /// A pair of numbers; both may be infinite.
    pub(crate) fn pair(&self, key: &str) -> Result<Option<(f64, f64)>, ModelError> {
        let Some(list) = self.list(key, "a list of two numbers")? else { return Ok(None) };
        let [low, high] = list.as_slice() else {
            return Err(ModelError::WrongLength {
                field: self.path(key),
                found: list.len(),
                expected: 2,
                because: "the lower and the upper bound",
            });
        };
        match (number(low), number(high)) {
            (Some(low), Some(high)) => Ok(Some((low, high))),
            (None, _) => Err(self.wrong_type(key, low, "a list of two numbers")),
            (_, None) => Err(self.wrong_type(key, high, "a list of two numbers")),
        }
    }

    /// `true` or `false`.
    pub(crate) fn bool_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.wrong_type(key, other, "true or false")),
        }
    }

    /// A string.
    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong_type(key, other, "a string")),
        }
    }

    /// A list of strings.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let Some(list) = self.list(key, "a list of strings")? else { return Ok(None) };
        let strings = list.iter().map(|value| {
            value.as_str().ok_or_else(|| self.wrong_type(key, value, "a list of strings"))
        });
        strings.collect::<Result<_, _>>().map(Some)
    }

    /// An object; messages about its fields include its name.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Fields<'a>>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Fields { map, path: format!("{}.", self.path(key)) }))
            }
            Some(other) => Err(self.wrong_type(key, other, "an object")),
        }
    }

    /// A list of objects; messages about their fields include its name and their places.
    pub(crate) fn objects(&self, key: &str) -> Result<Option<Vec<Fields<'a>>>, ModelError> {
        let Some(list) = self.list(key, "a list of objects")? else { return Ok(None) };
        let objects = list.iter().enumerate().map(|(place, value)| match value {
            Value::Object(map) => Ok(Fields { map, path: format!("{}[{place}].", self.path(key)) }),
            other => Err(ModelError::WrongType {
                field: format!("{}[{place}]", self.path(key)),
                found: describe(other),
                expected: "an object",
            }),
        });
        objects.collect::<Result<_, _>>().map(Some)
    }

    fn list(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<&'a Vec<Value>>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong_type(key, other, expected)),
        }
    }
}

/// A number, plain or tagged.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::Object(map) => match tag(map)? {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            _ => None,
        },
        _ => None,
    }
}

/// The value of a tagged number, if the object is one.
fn tag(map: &Map<String, Value>) -> Option<&str> {
    map.get(FLOAT_TAG).filter(|_| map.len() == 1)?.as_str()
}

/// A message of `serde_json` without its final position, which the error holds separately.
fn without_position(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(message, _)| message)
}

/// Describes a value, to follow "is" in a message.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the string {}", shorten(&format!("{s:?}"))),
        Value::Array(list) => format!("a list of {} entries", list.len()),
        Value::Object(map) => match tag(map) {
            Some(word) => format!("the number {}", shorten(word)),
            None => format!("an object of {} fields", map.len()),
        },
    }
}

/// The beginning of a text that may be long.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.into(),
    }
}

/// Turns the bare words `Infinity`, `-Infinity` and `NaN`, which Python writes, into tagged
/// numbers, except inside strings. The result is JSON.
pub fn tag_bare_floats(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0; // bytes of `text` that are in `out`
    let mut in_string = false;
    let mut escaped = false;
    let mut word_before = false; // the byte before belongs to a word or number
    let mut skip_to = 0;
    for (at, byte) in text.bytes().enumerate() {
        if at < skip_to {
            continue;
        }
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            word_before = false;
            continue;
        }
        let rest = text.get(at..).unwrap_or_default();
        let word = ["Infinity", "-Infinity", "NaN"].into_iter().find(|word| {
            let after = rest.strip_prefix(word).map(|rest| rest.bytes().next());
            after.is_some_and(|next| !next.is_some_and(is_word))
        });
        if let Some(word) = word.filter(|_| !word_before) {
            out.push_str(text.get(copied..at).unwrap_or_default());
            out.push_str(&format!("{{\"{FLOAT_TAG}\":\"{word}\"}}"));
            skip_to = at + word.len();
            copied = skip_to;
            word_before = true;
            continue;
        }
        in_string = byte == b'"';
        word_before = is_word(byte);
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// Whether a byte may continue a word or a number.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'.') || !byte.is_ascii()
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
