//! Fields of config.json that mlx-lm reads and `transformers` 5 no longer writes.
//!
//! If rotary parameters are only under `rope_parameters`, mlx-lm silently uses its own defaults;
//! for other fields with newer names or values it refuses the file. The older fields mean the same,
//! and readers of the newer ones ignore them.

use serde_json::{Map, Value};

use super::FAMILIES;
use crate::config::Config;

/// All fields of a config.json.
pub(super) type Root = Map<String, Value>;

/// A field and its value.
pub(super) type NamedField = (&'static str, Value);

/// Fields to add to config.json, or values to replace, so that mlx-lm reads the model of `config`:
/// none for files in the spelling before `transformers` 5.
pub fn mlx_fields(config: &Config) -> Vec<NamedField> {
    let root = config.root();
    let mut fields = Vec::new();
    rotary(root, &mut fields);
    let name = root.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let family = FAMILIES.iter().find(|family| family.model_type == name);
    fields.extend(family.into_iter().flat_map(|family| (family.older_fields)(root)));
    fields
}

/// For families whose config has only one spelling.
pub(super) fn none(_: &Root) -> Vec<NamedField> {
    Vec::new()
}

/// The older name of the number of experts.
pub(super) fn older_experts(root: &Root) -> Vec<NamedField> {
    let experts = present(root, "num_local_experts").filter(|_| lacks(root, "num_experts"));
    experts.map(|experts| ("num_experts", experts.clone())).into_iter().collect()
}

/// A field that is present and not `null`.
pub(super) fn present<'a>(root: &'a Root, key: &str) -> Option<&'a Value> {
    root.get(key).filter(|value| !value.is_null())
}

fn lacks(root: &Root, key: &str) -> bool {
    present(root, key).is_none()
}

/// `rope_theta` and `rope_scaling` of `rope_parameters`.
fn rotary(root: &Root, fields: &mut Vec<NamedField>) {
    let Some(parameters) = present(root, "rope_parameters").and_then(Value::as_object) else {
        return;
    };
    // Different parameters for different kinds of layers have no older spelling.
    let Some(kind) = parameters.get("rope_type").and_then(Value::as_str) else { return };
    if let Some(theta) = parameters.get("rope_theta")
        && lacks(root, "rope_theta")
    {
        fields.push(("rope_theta", theta.clone()));
    }
    if kind != "default" && lacks(root, "rope_scaling") {
        // The whole object: readers of the older field don't look at the newer one.
        fields.push(("rope_scaling", Value::Object(parameters.clone())));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(text: &str) -> Vec<(&'static str, Value)> {
        mlx_fields(&Config::parse(text).unwrap())
    }

    #[test]
    fn newer_spellings_get_the_older_ones_beside_them() {
        let rope =
            r#"{"rope_parameters": {"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0}}"#;
        let scaling = json!({"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0});
        assert_eq!(fields(rope), [("rope_theta", json!(5.0)), ("rope_scaling", scaling)]);
        let plain = r#"{"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}, "rope_scaling": null}"#;
        assert_eq!(fields(plain), [("rope_theta", json!(5.0))]);
        let experts = r#"{"model_type": "qwen3_moe", "num_local_experts": 6}"#;
        assert_eq!(fields(experts), [("num_experts", json!(6))]);
        let layers = r#"{"model_type": "granitemoehybrid", "layer_types": ["linear_attention", "full_attention"]}"#;
        assert_eq!(fields(layers), [("layer_types", json!(["mamba", "attention"]))]);
        let dense = r#"{"model_type": "granitemoehybrid", "num_local_experts": 0,
            "intermediate_size": 5, "shared_intermediate_size": 7}"#;
        assert_eq!(fields(dense), [("intermediate_size", json!(7))]);
        let mamba2 = r#"{"model_type": "mamba2", "num_heads": 4, "head_dim": 64}"#;
        assert_eq!(fields(mamba2), [("intermediate_size", json!(256))]);
    }

    #[test]
    fn older_spellings_get_nothing() {
        for text in [
            "{}",
            r#"{"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}}"#,
            r#"{"model_type": "qwen3_moe", "num_experts": 6}"#,
            r#"{"model_type": "mixtral", "num_local_experts": 6}"#,
            r#"{"model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"]}"#,
            r#"{"rope_parameters": {"full_attention": {"rope_theta": 1.0}, "sliding_attention": {"rope_theta": 2.0}}}"#,
        ] {
            assert_eq!(fields(text), [], "{text}");
        }
    }
}
