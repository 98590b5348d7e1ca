//! [`Recipe`]: which format each matrix gets.
//!
//! A recipe's file is a JSON list of rules. The first rule that matches a matrix applies; a matrix
//! that none matches gets the default format:
//!
//! ```json
//! [
//!   { "match": "*.mlp.gate", "keep": true },
//!   { "match": ["lm_head", "model.embed_tokens"], "bits": 6 },
//!   { "match": "*.layers.0.*", "bits": 8, "group_size": 32 },
//!   { "match": "*.down_proj", "mode": "mxfp8" }
//! ]
//! ```
//!
//! - `match`: the path of the module in the new checkpoint, or a list of paths; `*` stands for any
//!   run of characters, including dots.
//! - `bits`, `group_size`, `mode`: omitted fields are as in the default format if that has the same
//!   mode (`affine`, if none is given), or else as MLX chooses them for the mode.
//! - `keep`: `true` keeps the matrix as it is.
//! - `comment`: any text.
//!
//! Routers, the gates of mLSTM and matrices whose rows are not whole groups stay as they are even if a
//! rule matches, unless the rule names their module, with a pattern that has no `*` after its last
//! dot. If it does, gates are quantized, and rows that are not whole groups are an error.

use kinglet_quant::{Format, Mode};
use serde_json::{Map, Value};

use super::error::QuantizeError;
use crate::weights::glob;

/// Which format each matrix gets.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Recipe {
    /// All matrices have the default format.
    #[default]
    Uniform,
    /// The first rule that matches a matrix applies.
    Rules(Vec<Rule>),
    /// More bits where they matter most, within an average. See [`Job::mix`](super::Job::mix).
    Mixed {
        /// Bits per weight of the whole checkpoint, including scales and tensors kept as they are.
        /// Defaults to 0.3 more than the default format.
        bits_per_weight: Option<f64>,
    },
}

/// One rule of a recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Patterns of paths; one must match.
    pub patterns: Vec<String>,
    /// The format; `None` keeps the matrix as it is.
    pub format: Option<Format>,
}

impl Rule {
    /// Whether the rule matches `path`: `Some(true)` if it names the module, `Some(false)` if a `*`
    /// stands for the module's name.
    pub(super) fn matches(&self, path: &str) -> Option<bool> {
        let matching = self.patterns.iter().filter(|pattern| glob(pattern, path));
        let names = matching.map(|pattern| {
            let last = pattern.rsplit('.').next().unwrap_or(pattern);
            !last.contains('*')
        });
        names.reduce(|a, b| a || b)
    }
}

impl Recipe {
    /// Parses a recipe's file. `default` is the format of matrices that no rule matches.
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`] with the rule that is wrong.
    pub fn parse(json: &str, default: Format) -> Result<Self, QuantizeError> {
        let wrong = |problem| QuantizeError::Recipe { problem };
        let value: Value =
            serde_json::from_str(json).map_err(|error| wrong(format!("not JSON: {error}")))?;
        let Value::Array(rules) = value else {
            return Err(wrong("not a list of rules, [{\"match\": .., \"bits\": ..}, ..]".into()));
        };
        let parsed = rules.iter().enumerate().map(|(index, value)| {
            rule(value, default).map_err(|problem| wrong(format!("rule {}: {problem}", index + 1)))
        });
        Ok(Self::Rules(parsed.collect::<Result<_, _>>()?))
    }
}

fn rule(value: &Value, default: Format) -> Result<Rule, String> {
    const KEYS: [&str; 6] = ["match", "bits", "group_size", "mode", "keep", "comment"];
    let Value::Object(rule) = value else { return Err("not an object".into()) };
    if let Some(key) = rule.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("unknown field {key:?}, expected one of {}", KEYS.join(", ")));
    }
    let patterns = match rule.get("match") {
        Some(Value::String(pattern)) => vec![pattern.clone()],
        Some(Value::Array(patterns)) => {
            let text = |value: &Value| value.as_str().map(String::from);
            let patterns: Option<Vec<String>> = patterns.iter().map(text).collect();
            patterns
                .filter(|patterns| !patterns.is_empty())
                .ok_or("match is not a list of patterns")?
        }
        _ => return Err("match must be a pattern or a list of patterns".into()),
    };
    if let Some(pattern) = patterns.iter().find(|pattern| pattern.ends_with(".weight")) {
        return Err(format!("{pattern:?} names a tensor: name its module, without .weight"));
    }
    let keep = match rule.get("keep") {
        None => false,
        Some(Value::Bool(keep)) => *keep,
        Some(_) => return Err("keep must be true or false".into()),
    };
    let given = ["bits", "group_size", "mode"].iter().any(|key| rule.contains_key(*key));
    match (keep, given) {
        (true, true) => Err("keep excludes bits, group_size and mode".into()),
        (true, false) => Ok(Rule { patterns, format: None }),
        (false, false) => Err("give bits, group_size, mode, or keep".into()),
        (false, true) => Ok(Rule { patterns, format: Some(format(rule, default)?) }),
    }
}

fn format(rule: &Map<String, Value>, default: Format) -> Result<Format, String> {
    let mode = match rule.get("mode") {
        None => Mode::Affine,
        Some(Value::String(name)) => name.parse().map_err(|error| format!("mode: {error}"))?,
        Some(_) => return Err("mode must be a string".into()),
    };
    let number = |key: &str| match rule.get(key) {
        None => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{key} must be a whole number")),
        },
    };
    let same = default.mode() == mode;
    let bits = number("bits")?.or(same.then_some(default.bits()));
    let group = number("group_size")?.or(same.then_some(default.group()));
    Format::new(mode, bits, group).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<Rule> {
        match Recipe::parse(json, Format::affine(4, 32).unwrap()).unwrap() {
            Recipe::Rules(rules) => rules,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_rule_leaves_out_is_as_in_the_default_of_its_mode() {
        let rules = rules(
            r#"[{"match": "a", "bits": 6}, {"match": "b", "group_size": 128}, {"match": "c", "mode": "nvfp4"},
                {"match": ["d", "e.*"], "keep": true, "comment": "why"}]"#,
        );
        assert_eq!(rules[0].format, Format::affine(6, 32).ok());
        assert_eq!(rules[1].format, Format::affine(4, 128).ok());
        assert_eq!(rules[2].format, Some(Format::NVFP4));
        assert_eq!(rules[3], Rule { patterns: vec!["d".into(), "e.*".into()], format: None });
        let eight = Recipe::parse(r#"[{"match": "a", "bits": 8}]"#, Format::MXFP4).unwrap();
        let format = Format::affine(8, 64).ok();
        assert_eq!(eight, Recipe::Rules(vec![Rule { patterns: vec!["a".into()], format }]));
    }

    #[test]
    fn a_rule_names_a_module_unless_a_star_stands_for_its_name() {
        let rule = |pattern: &str| Rule { patterns: vec![pattern.into()], format: None };
        assert_eq!(rule("*.mlp.gate").matches("model.layers.3.mlp.gate"), Some(true));
        assert_eq!(rule("*.layers.3.*").matches("model.layers.3.mlp.gate"), Some(false));
        assert_eq!(rule("*gate").matches("model.layers.3.mlp.gate"), Some(false));
        assert_eq!(rule("lm_head").matches("lm_head"), Some(true));
        assert_eq!(rule("lm_head").matches("x.lm_head"), None);
    }

    #[test]
    fn a_wrong_rule_is_named() {
        for (json, parts) in [
            ("{", &["not JSON"][..]),
            ("{}", &["not a list"]),
            (r#"[{"match": "a", "bits": 4}, 3]"#, &["rule 2", "object"]),
            (r#"[{"bits": 4}]"#, &["rule 1", "match"]),
            (r#"[{"match": [], "bits": 4}]"#, &["match"]),
            (r#"[{"match": "a"}]"#, &["keep"]),
            (r#"[{"match": "a", "keep": true, "bits": 4}]"#, &["keep"]),
            (r#"[{"match": "a", "keep": 1}]"#, &["keep"]),
            (r#"[{"match": "a", "bits": 7}]"#, &["7 bits"]),
            (r#"[{"match": "a", "bits": "4"}]"#, &["bits", "whole"]),
            (r#"[{"match": "a", "mode": "mxfp4", "bits": 8}]"#, &["mxfp4"]),
            (r#"[{"match": "a", "mode": "int4"}]"#, &["int4", "affine"]),
            (r#"[{"match": "a", "bit": 4}]"#, &["\"bit\"", "bits"]),
            (r#"[{"match": "lm_head.weight", "bits": 4}]"#, &["lm_head.weight"]),
        ] {
            let error =
                Recipe::parse(json, Format::affine(4, 64).unwrap()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{json}: {error}");
        }
    }
}
