//! The format of each matrix.

use std::fs;

use kinglet_tests::relative_l2;
use serde_json::{Value, json};

use super::{Out, TOKENS, dequantized, logits, quantize, tensors};
use crate::support::{fixture, kinglet};

#[test]
fn a_recipe_names_formats_by_layer() {
    let out = Out::new();
    let recipe = out.0.path().join("recipe.json");
    let rules = json!([
        { "match": "*.igate_preact", "bits": 8 },
        { "match": ["backbone.embeddings", "*.q"], "keep": true },
        { "match": "*.blocks.0.*", "mode": "mxfp8", "comment": "the first layer" },
        { "match": "lm_head", "bits": 6, "group_size": 64 },
        { "match": "*.nothing", "bits": 2 },
    ]);
    fs::write(&recipe, rules.to_string()).unwrap();
    let model = fixture("xlstm/plain");
    let args = ["--json", "--group-size", "32", "--recipe", recipe.to_str().unwrap()];
    let done = quantize(&model, &out.path(), &args);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("*.nothing") && done.stderr.lines().count() == 1, "{done:?}");
    let quantization = out.config()["quantization"].clone();
    let entry = |mode: &str, bits: u32, group_size: u32| json!({"group_size": group_size, "bits": bits, "mode": mode});
    for (path, expected) in [
        ("lm_head", entry("affine", 6, 64)),
        ("backbone.blocks.0.mlstm_layer.v", entry("mxfp8", 8, 32)),
        ("backbone.blocks.0.mlstm_layer.igate_preact", entry("affine", 8, 32)),
        ("backbone.blocks.0.mlstm_layer.fgate_preact", Value::Null),
        ("backbone.blocks.0.mlstm_layer.q", Value::Null),
        ("backbone.blocks.1.mlstm_layer.v", Value::Null),
    ] {
        assert_eq!(quantization[path], expected, "{path}");
    }
    let new = tensors(&out.path().join("model.safetensors"));
    for (name, there) in [
        ("backbone.embeddings.scales", false),
        ("backbone.blocks.1.mlstm_layer.q.scales", false),
        ("backbone.blocks.0.mlstm_layer.v.scales", true),
        ("backbone.blocks.0.mlstm_layer.v.biases", false),
        ("backbone.blocks.1.mlstm_layer.v.biases", true),
        ("backbone.blocks.1.mlstm_layer.fgate_preact.scales", false),
    ] {
        assert_eq!(new.contains_key(name), there, "{name}");
    }
    let dense = dequantized(&out.path());
    let error = relative_l2(&logits(&out.path(), &TOKENS), &logits(dense.path(), &TOKENS));
    assert!(error <= 1e-5, "{error:.1e}");
}

#[test]
fn a_recipe_that_cannot_be_is_refused() {
    let out = Out::new();
    let recipe = out.0.path().join("recipe.json");
    let model = fixture("granitemoehybrid/plain");
    let line = |rules: &str| {
        fs::write(&recipe, rules).unwrap();
        let args = ["--mode", "nvfp4", "--recipe", recipe.to_str().unwrap()];
        quantize(&model, &out.path(), &args)
    };
    for (rules, parts) in [
        ("{", &["recipe.json", "not JSON"][..]),
        (r#"[{"match": "a", "bits": 7}]"#, &["recipe.json", "rule 1", "7 bits"]),
        // Rows of 12 are not whole groups; a rule with a star in the module's name skips them
        // without an error.
        (
            r#"[{"match": "*.switch_mlp.down_proj", "bits": 8, "group_size": 32}]"#,
            &["rule 1", "layers.0", "switch_mlp.down_proj", "12", "32"],
        ),
    ] {
        let message = line(rules).error(1);
        assert!(parts.iter().all(|part| message.contains(part)), "{rules}: {message}");
    }
    assert_eq!(line(r#"[{"match": "*.switch_mlp.*", "mode": "nvfp4"}]"#).code, 0);
    fs::remove_file(&recipe).unwrap();
    let args = ["--recipe", recipe.to_str().unwrap()];
    let message = quantize(&model, &out.path(), &args).error(1);
    assert!(message.contains("recipe.json"), "{message}");
}

#[test]
fn a_mixed_recipe_keeps_to_its_average() {
    let model = fixture("xlstm/plain");
    let dry = |args: &[&str]| -> Value {
        let line =
            [&["quantize", "--model", &model, "--dry-run", "--json", "--group-size", "32"], args];
        serde_json::from_str(&kinglet(&line.concat()).ok()).unwrap()
    };
    let bits = |report: &Value| report["bits_per_weight"].as_f64().unwrap();
    let plain = bits(&dry(&["--bits", "3"]));
    let mut last = plain;
    for target in [plain + 0.3, plain + 1.0, plain + 2.0] {
        let text = target.to_string();
        let mixed = bits(&dry(&["--bits", "3", "--recipe", "mixed", "--target-bits", &text]));
        assert!(mixed > last && mixed <= target, "{mixed} of {target}");
        last = mixed;
    }
    let default = dry(&["--bits", "3", "--recipe", "mixed"]);
    assert!(bits(&default) > plain && bits(&default) <= plain + 0.3, "{default}");
    // The matrices that matter most get the most bits.
    let of = |name: &str| {
        let tensors = default["tensors"].as_array().unwrap();
        tensors.iter().find(|t| t["name"] == name).unwrap()["format"]["bits"].as_u64().unwrap()
    };
    assert!(
        of("backbone.blocks.0.mlstm_layer.v.weight") > of("backbone.blocks.1.mlstm_layer.q.weight")
    );
}
