//! [`GenerationConfig`]: the defaults in `generation_config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use super::TextError;
use super::files::{field_error, kind, read_optional_object, token_ids};

/// The parts of `generation_config.json` that concern sampling and stopping.
///
/// A field that the file lacks is `None`, so that the engine's default holds. Reading doesn't check
/// ranges; [`SamplingOptions::validate`](crate::sampling::SamplingOptions::validate) does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Whether to draw tokens at random. If not, the most probable token is taken.
    pub do_sample: Option<bool>,
    /// Divisor of the logits.
    pub temperature: Option<f32>,
    /// Keeps only the `top_k` most probable tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keeps only the most probable tokens that together reach this probability.
    pub top_p: Option<f32>,
    /// Keeps only tokens at least this probable, relative to the most probable one.
    pub min_p: Option<f32>,
    /// Keeps only the most typical tokens that together reach this probability.
    pub typical_p: Option<f32>,
    /// Penalty on tokens that are already in the text; 1 is none.
    pub repetition_penalty: Option<f32>,
    /// Most tokens to generate.
    pub max_new_tokens: Option<u32>,
    /// Most tokens of prompt and answer together.
    pub max_length: Option<u32>,
    /// Strings that end the answer.
    pub stop_strings: Vec<String>,
    /// Tokens that end the answer; empty if the file names none. Negative ids are dropped.
    pub eos_token_ids: Vec<u32>,
    /// The token that begins a text. For information only: an invalid value is `None`.
    pub bos_token_id: Option<u32>,
    /// The token that pads a batch. For information only: an invalid value is `None`.
    pub pad_token_id: Option<u32>,
}

impl GenerationConfig {
    /// Reads the file in a model folder. Without the file, all fields are unset.
    ///
    /// # Errors
    /// If the file is not a JSON object, or a field has the wrong type or range; the error names
    /// it.
    pub fn from_folder(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("generation_config.json");
        match read_optional_object(&path)? {
            Some(map) => Self::from_object(&map, &path),
            None => Ok(Self::default()),
        }
    }

    /// Reads the parsed file. `path` is used only in messages.
    ///
    /// # Errors
    /// Those of [`Self::from_folder`].
    pub fn from_object(map: &Map<String, Value>, path: &Path) -> Result<Self, TextError> {
        let reader = Reader { map, path };
        Ok(Self {
            do_sample: reader.bool("do_sample")?,
            temperature: reader.float("temperature")?,
            top_k: reader.integer("top_k")?,
            top_p: reader.float("top_p")?,
            min_p: reader.float("min_p")?,
            typical_p: reader.float("typical_p")?,
            repetition_penalty: reader.float("repetition_penalty")?,
            max_new_tokens: reader.integer("max_new_tokens")?,
            max_length: reader.integer("max_length")?,
            stop_strings: reader.strings("stop_strings")?,
            eos_token_ids: reader.ids("eos_token_id")?,
            bos_token_id: reader.unused_id("bos_token_id"),
            pad_token_id: reader.unused_id("pad_token_id"),
        })
    }
}

/// Typed access to the fields of one file. A null field counts as absent.
struct Reader<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn wrong(&self, field: &str, wanted: &str, found: &Value) -> TextError {
        field_error(self.path, field, format!("expected {wanted}, found {}", kind(found)))
    }

    fn bool(&self, field: &str) -> Result<Option<bool>, TextError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(field, "true or false", value))
    }

    fn float(&self, field: &str) -> Result<Option<f32>, TextError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(field, "a number", value))
    }

    fn integer(&self, field: &str) -> Result<Option<u32>, TextError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        // Some files have 50.0 for 50.
        let whole = value.as_u64().or_else(|| {
            let number = value.as_f64()?;
            (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number))
                .then_some(number as u64)
        });
        let number = whole.and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| self.wrong(field, "a whole number from 0", value))
    }

    fn ids(&self, field: &str) -> Result<Vec<u32>, TextError> {
        self.get(field).map_or(Ok(Vec::new()), |value| token_ids(self.path, field, value))
    }

    /// An id that is for information only; invalid values become `None`.
    fn unused_id(&self, field: &str) -> Option<u32> {
        self.ids(field).ok()?.first().copied()
    }

    fn strings(&self, field: &str) -> Result<Vec<String>, TextError> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let one = |value: &Value| {
            let text = value.as_str().map(str::to_string);
            text.ok_or_else(|| self.wrong(field, "a string", value))
        };
        match value {
            Value::Array(items) => items.iter().map(one).collect(),
            other => Ok(vec![one(other)?]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<GenerationConfig, TextError> {
        let value: Value = serde_json::from_str(json).expect("the test's JSON");
        GenerationConfig::from_object(value.as_object().expect("an object"), Path::new("g.json"))
    }

    #[test]
    fn reads_what_hub_files_have() {
        let config = read(
            r#"{"do_sample": true, "temperature": 1, "top_k": 20.0, "top_p": 0.95, "min_p": null,
                "eos_token_id": [151645, 151643], "pad_token_id": 151643, "bos_token_id": 1,
                "stop_strings": "\n\n", "transformers_version": "4.51.0"}"#,
        )
        .expect("a usual file");
        assert_eq!(config.temperature, Some(1.0));
        assert_eq!(config.top_k, Some(20));
        assert_eq!(config.top_p, Some(0.95));
        assert_eq!(config.min_p, None);
        assert_eq!(config.eos_token_ids, [151645, 151643]);
        assert_eq!(config.bos_token_id, Some(1));
        assert_eq!(config.stop_strings, ["\n\n"]);
        assert_eq!(read(r#"{"eos_token_id": 2}"#).expect("one id").eos_token_ids, [2]);
        assert_eq!(read("{}").expect("an empty file"), GenerationConfig::default());
        // Values that mean no token, and values that nothing depends on.
        let config = read(
            r#"{"eos_token_id": [2, -1, null, 5.0], "pad_token_id": -1, "bos_token_id": "<s>"}"#,
        );
        let config = config.expect("ids that are none");
        assert_eq!(config.eos_token_ids, [2, 5]);
        assert_eq!((config.pad_token_id, config.bos_token_id), (None, None));
        assert!(read(r#"{"eos_token_id": -1}"#).expect("none").eos_token_ids.is_empty());
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (json, field) in [
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"temperature": 1e300}"#, "temperature"),
            (r#"{"top_k": -1}"#, "top_k"),
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"do_sample": 1}"#, "do_sample"),
            (r#"{"eos_token_id": [1, "</s>"]}"#, "eos_token_id"),
            (r#"{"eos_token_id": 1.5}"#, "eos_token_id"),
            (r#"{"eos_token_id": 4294967296}"#, "eos_token_id"),
            (r#"{"stop_strings": [1]}"#, "stop_strings"),
        ] {
            match read(json) {
                Err(TextError::Field { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{json}: {other:?}"),
            }
        }
    }
}
