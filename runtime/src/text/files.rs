//! Reads the text files of a model folder, with bounded sizes and errors that name file and field.

use std::path::Path;

use serde_json::{Map, Value};

use super::TextError;
use crate::files::small_file::{self, Failure};
use crate::weights::unread;

/// Largest `tokenizer.json` accepted, in bytes. The largest on the hub are near 35 MB.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// Largest size of the other JSON files, in bytes. `tokenizer_config.json` reaches some hundred kB.
pub(crate) const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Reads a whole file that is optional; `None` if there is none. If it can't be read, or is not a
/// file, logs a warning and returns `None`.
pub(crate) fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TextError> {
    match read_needed(path, limit) {
        Err(TextError::Io { source, .. }) => {
            unread::warn(path, &source);
            Ok(None)
        }
        read => read,
    }
}

/// Reads a whole file; `None` if there is none.
pub(crate) fn read_needed(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TextError> {
    match small_file::read(path, limit) {
        Ok(contents) => Ok(Some(contents)),
        Err(Failure::NotFound) => Ok(None),
        Err(Failure::Io(source)) => Err(TextError::Io { path: path.to_path_buf(), source }),
        Err(Failure::TooLarge(bytes)) => {
            Err(TextError::FileTooLarge { path: path.to_path_buf(), bytes, limit })
        }
    }
}

/// Reads a UTF-8 file; `None` if there is none.
#[cfg_attr(not(feature = "chat-template"), allow(dead_code))]
pub(crate) fn read_optional_text(path: &Path, limit: u64) -> Result<Option<String>, TextError> {
    let Some(bytes) = read_optional(path, limit)? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(TextError::Io {
            path: path.to_path_buf(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error()),
        }),
    }
}

/// Reads a JSON object; `None` if there is no file.
pub(crate) fn read_optional_object(path: &Path) -> Result<Option<Map<String, Value>>, TextError> {
    let Some(bytes) = read_optional(path, MAX_CONFIG_BYTES)? else { return Ok(None) };
    // Python writes infinities into such files as bare words.
    let value = match std::str::from_utf8(&bytes) {
        Ok(text) => serde_json::from_str(&kinglet_models::tag_bare_floats(text)),
        // The parser reports where the file stops being UTF-8.
        Err(_) => serde_json::from_slice(&bytes),
    };
    let value: Value =
        value.map_err(|source| TextError::Json { path: path.to_path_buf(), source })?;
    match value {
        Value::Object(map) => Ok(Some(map)),
        other => Err(field_error(path, "", format!("expected an object, found {}", kind(&other)))),
    }
}

/// An error about one field of a file.
pub(crate) fn field_error(path: &Path, field: &str, problem: impl Into<String>) -> TextError {
    TextError::Field { path: path.to_path_buf(), field: field.to_string(), problem: problem.into() }
}

/// Describes a JSON value for messages: its kind, and the value itself if it is short.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.len() <= 40 => format!("{text:?}"),
        Value::String(text) => format!("a string of {} bytes", text.len()),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(map) => format!("an object of {} fields", map.len()),
    }
}

/// Parses a token id or a list of them (`eos_token_id` comes as either). Null and negative numbers
/// mean no token.
pub(crate) fn token_ids(path: &Path, field: &str, value: &Value) -> Result<Vec<u32>, TextError> {
    let one = |value: &Value| {
        if is_no_token(value) {
            return None;
        }
        // Some files have 2.0 for 2.
        let id = value.as_u64().or_else(|| {
            let whole = |float: &f64| float.fract() == 0.0 && *float <= f64::from(u32::MAX);
            value.as_f64().filter(whole).map(|float| float as u64)
        });
        let id = id.and_then(|id| u32::try_from(id).ok());
        Some(id.ok_or_else(|| {
            field_error(path, field, format!("expected a token id, found {}", kind(value)))
        }))
    };
    match value {
        Value::Array(items) => items.iter().filter_map(one).collect(),
        other => one(other).into_iter().collect(),
    }
}

fn is_no_token(value: &Value) -> bool {
    value.is_null() || value.as_f64().is_some_and(|number| number < 0.0)
}
