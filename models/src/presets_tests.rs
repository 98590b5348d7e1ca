use super::*;
use crate::{Config, ModelSpec, spec};

fn model(name: &str, scale: f64) -> ModelSpec {
    let config = preset(name, scale).expect("a preset");
    let config = Config::parse(&config.to_string()).expect("a config");
    spec(&config).unwrap_or_else(|error| panic!("{name} at {scale}: {error}"))
}

/// Billions of parameters.
fn billions(name: &str) -> f64 {
    let model = model(name, 1.0);
    model.tensors().iter().map(|tensor| tensor.elements() as f64).sum::<f64>() / 1e9
}

fn languages() -> impl Iterator<Item = &'static str> {
    PRESETS.into_iter().filter(|name| !name.starts_with("vision"))
}

#[test]
fn full_scale_has_the_size_in_the_name() {
    for (name, expected) in [("ultra-390b", 370.0), ("ultra-52b", 52.0), ("xmamba-350m", 0.35)] {
        let got = billions(name);
        assert!((got / expected - 1.0).abs() < 0.02, "{name}: {got:.3} billion");
    }
    assert_eq!(billions("xmamba-7b").round(), 7.0);
}

#[test]
fn every_preset_is_a_model_at_any_scale() {
    for name in languages() {
        let full = billions(name);
        for scale in [1.0, 0.7, 0.5, 0.3, 0.1, 0.01] {
            let model = model(name, scale);
            assert_eq!(model.hidden % WIDTH_STEP, 0, "{name} at {scale}");
            let size: usize = model.tensors().iter().map(|tensor| tensor.elements()).sum();
            assert!(size as f64 / 1e9 <= full * 1.001, "{name} at {scale}");
        }
    }
}

#[test]
fn a_scale_keeps_whole_patterns_and_enough_experts() {
    let config = preset("ultra-52b", 0.02).expect("a preset");
    assert_eq!(config["num_hidden_layers"], 10);
    assert_eq!(config["hidden_size"], 128);
    assert_eq!(config["kinds"]["e"][0]["num_experts"], 4);
    let config = preset("ultra-52b", 0.001).expect("a preset");
    assert_eq!(config["hidden_size"], 64);
    assert_eq!(config["kinds"]["e"][0]["num_experts"], 2);
    assert_eq!(config["kinds"]["a"][0]["num_heads"], 1);
}

#[test]
fn heads_need_not_be_as_wide_as_the_model() {
    let heads = |name| {
        let config = preset(name, 1.0).expect("a preset");
        let part = &config["kinds"]["layer"][0];
        [&config["hidden_size"], &part["num_heads"], &part["head_dim"]]
            .map(|n| n.as_u64().expect("a number"))
    };
    assert_eq!(heads("dense-base"), [768, 12, 64]);
    assert_eq!(heads("dense-large"), [1536, 16, 96]);
    assert_eq!(heads("dense-xl"), [2048, 24, 128]);
    assert_eq!(heads("dense-xxl"), [4096, 32, 128]);
}

#[test]
fn a_name_has_a_preset_or_none() {
    for name in PRESETS {
        for scale in [1.0, 0.3, 0.001] {
            let config = preset(name, scale).expect("a preset");
            let kinds = config["kinds"].as_object().expect("kinds");
            let pattern = config["pattern"].as_array().expect("a pattern");
            assert!(!pattern.is_empty());
            for kind in pattern {
                assert!(kinds.contains_key(kind.as_str().expect("a name")), "{name}: {kind}");
            }
            assert_eq!(
                config["hidden_size"].as_u64().map(|n| n % 64),
                Some(0),
                "{name} at {scale}"
            );
        }
    }
    assert_eq!(preset("dense", 1.0), None);
}

#[test]
fn the_depth_is_whole_patterns() {
    for name in PRESETS {
        for scale in [1.0, 0.7, 0.1] {
            let config = preset(name, scale).expect("a preset");
            let layers = config["num_hidden_layers"].as_u64().expect("a number");
            let pattern = config["pattern"].as_array().map_or(1, Vec::len) as u64;
            assert!(layers > 0 && layers.is_multiple_of(pattern), "{name} at {scale}: {layers}");
        }
    }
}
