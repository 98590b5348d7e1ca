//! What mlx-lm looks for in config.json that `transformers` 5 does not write any more.
//!
//! Where rotary parameters stand only under `rope_parameters`, mlx-lm takes its own defaults without a word; where other
//! fields have their newer names or values, it refuses the file. The older fields say the same, and every reader of the newer ones reads
//! those on.

use serde_json::{Map, Value, json};

use crate::config::Config;

/// Fields that config.json needs beside those it has, or other values for those it has, so that mlx-lm reads the model that
/// `config` describes: none for files in the spelling before `transformers` 5.
pub fn mlx_fields(config: &Config) -> Vec<(&'static str, Value)> {
    let root = config.root();
    let mut fields = Vec::new();
    rotary(root, &mut fields);
    let family = root.get("model_type").and_then(Value::as_str).unwrap_or_default();
    match family {
        "qwen3_moe" | "olmoe" => {
            let experts = present(root, "num_local_experts").filter(|_| lacks(root, "num_experts"));
            fields.extend(experts.map(|experts| ("num_experts", experts.clone())));
        }
        "granitemoehybrid" => {
            let types = present(root, "layer_types").and_then(Value::as_array);
            let newer = types.filter(|types| types.iter().any(|kind| older(kind) != *kind));
            let types = newer.map(|types| types.iter().map(older).collect::<Value>());
            fields.extend(types.map(|types| ("layer_types", types)));
            // Of a model without experts, mlx-lm takes the width of the one feed-forward network from the experts' field.
            let dense = present(root, "num_local_experts").is_some_and(|count| *count == 0);
            let width = present(root, "shared_intermediate_size").filter(|_| dense);
            let width = width.filter(|width| root.get("intermediate_size") != Some(*width));
            fields.extend(width.map(|width| ("intermediate_size", width.clone())));
        }
        // The field is required there; the inner width is always that of all heads.
        "mamba2" if lacks(root, "intermediate_size") => {
            let size = |key| present(root, key).and_then(Value::as_u64);
            let inner = size("num_heads").zip(size("head_dim"));
            let inner = inner.and_then(|(heads, dim)| heads.checked_mul(dim));
            fields.extend(inner.map(|inner| ("intermediate_size", json!(inner))));
        }
        _ => {}
    }
    fields
}

fn present<'a>(root: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    root.get(key).filter(|value| !value.is_null())
}

fn lacks(root: &Map<String, Value>, key: &str) -> bool {
    present(root, key).is_none()
}

/// The older name of a kind of layer.
fn older(kind: &Value) -> Value {
    match kind.as_str() {
        Some("linear_attention") => "mamba".into(),
        Some("full_attention") => "attention".into(),
        _ => kind.clone(),
    }
}

/// `rope_theta` and `rope_scaling` of `rope_parameters`.
fn rotary(root: &Map<String, Value>, fields: &mut Vec<(&'static str, Value)>) {
    let Some(parameters) = present(root, "rope_parameters").and_then(Value::as_object) else {
        return;
    };
    // Where layers of different kinds have different parameters, there is no older spelling.
    let Some(kind) = parameters.get("rope_type").and_then(Value::as_str) else { return };
    if let Some(theta) = parameters.get("rope_theta")
        && lacks(root, "rope_theta")
    {
        fields.push(("rope_theta", theta.clone()));
    }
    if kind != "default" && lacks(root, "rope_scaling") {
        // Whole: who finds the older field does not look into the newer one.
        fields.push(("rope_scaling", Value::Object(parameters.clone())));
    }
}

#[cfg(test)]
mod tests {
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
