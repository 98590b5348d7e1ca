//! What mlx-lm expects of config.json beside the quantization: the spelling of rotary parameters that `transformers` had before its
//! version 5. Where they stand only under `rope_parameters`, mlx-lm takes its defaults without a word or refuses the file; the
//! older fields are added beside them, which changes nothing for readers of the newer ones.

use serde_json::Value;

use super::config_json::ConfigText;

/// Adds `rope_theta` and `rope_scaling` where only `rope_parameters` says what they are.
pub(super) fn add_old_spellings(config: &mut ConfigText) {
    let value = config.value();
    let Some(parameters) = value.get("rope_parameters").and_then(Value::as_object) else { return };
    // Where layers of different kinds have different parameters, there is no older spelling.
    let Some(kind) = parameters.get("rope_type").and_then(Value::as_str) else { return };
    let absent = |key: &str| value.get(key).is_none_or(Value::is_null);
    if absent("rope_theta")
        && let Some(theta) = parameters.get("rope_theta")
    {
        config.set("rope_theta", theta);
    }
    // Whole: who finds the older field does not look into the newer one.
    if absent("rope_scaling") && kind != "default" {
        config.set("rope_scaling", &Value::Object(parameters.clone()));
    }
}
