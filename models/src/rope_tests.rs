//! The frequencies below are those of `transformers` 5.23.0 on the CPU.

use crate::testing::*;
use crate::{ModelError, Rope};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 20,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 4096
    })
}

fn yarn() -> Value {
    json!({
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 1024
    })
}

fn rope(config: &Value) -> Rope {
    attention(&spec_of(config), 0).rope.clone().expect("rope")
}

fn rope_of(parameters: Value) -> Rope {
    rope(&with(&config(), json!({"rope_parameters": parameters})))
}

/// Panics unless all frequencies are within an ulp of those expected.
#[track_caller]
fn check(rope: &Rope, inv_freq: &[f32], attention_factor: f32) {
    assert_eq!(rope.inv_freq.len(), inv_freq.len());
    for (found, expected) in rope.inv_freq.iter().zip(inv_freq) {
        let ulps = found.to_bits().abs_diff(expected.to_bits());
        assert!(ulps <= 1, "{found} instead of {expected}: {ulps} ulps");
    }
    assert_eq!(rope.attention_factor, attention_factor);
}

const DEFAULT: [f32; 8] =
    [1.0, 0.316_227_76, 0.1, 0.031_622_78, 0.01, 0.003_162_277_9, 0.001, 0.000_316_227_76];

const YARN: [f32; 8] = [
    1.0,
    0.316_227_76,
    0.081_250_004,
    0.019_764_237,
    0.004_375,
    0.000_790_569_47,
    0.000_25,
    7.905_695e-5,
];

#[test]
fn a_proportion_of_the_pairs_turns() {
    let of = |fraction: f64, factor: f64| {
        rope_of(json!({"rope_type": "proportional", "rope_theta": 1e4,
            "partial_rotary_factor": fraction, "factor": factor}))
    };
    let still = [0.0; 8];
    check(&of(0.5, 1.0), &[&DEFAULT[..4], &still[4..]].concat(), 1.0);
    // 0.7 of 8 pairs are 5 whole ones.
    let half: Vec<f32> = DEFAULT[..5].iter().map(|f| f / 2.0).collect();
    check(&of(0.7, 2.0), &[&half, &still[5..]].concat(), 1.0);
    check(&rope_of(json!({"rope_type": "proportional", "rope_theta": 1e4})), &DEFAULT, 1.0);
}

#[test]
fn default() {
    check(&rope(&config()), &DEFAULT, 1.0);
    check(&rope_of(json!({"rope_type": "default", "rope_theta": 10000.0})), &DEFAULT, 1.0);
    check(&rope_of(json!({"rope_theta": 10000})), &DEFAULT, 1.0);
    check(&rope(&with(&config(), json!({"rope_theta": 1e4, "rope_scaling": null}))), &DEFAULT, 1.0);
    check(&rope(&with(&config(), json!({"rope_theta": 1e4, "rope_scaling": {}}))), &DEFAULT, 1.0);
}

#[test]
fn linear() {
    let expected = [
        0.333_333_34,
        0.105_409_26,
        0.033_333_335,
        0.010_540_926,
        0.003_333_333_2,
        0.001_054_092_7,
        0.000_333_333_36,
        0.000_105_409_264,
    ];
    check(
        &rope_of(json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0})),
        &expected,
        1.0,
    );
    let older = json!({"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 3}});
    check(&rope(&with(&config(), older)), &expected, 1.0);
}

#[test]
fn llama3() {
    let expected = [
        1.0,
        0.193_922_76,
        0.037_606_03,
        0.007_292_665,
        0.000_524_846,
        3.428_102_4e-5,
        6.647_87e-6,
        1.289_173_2e-6,
    ];
    let parameters = json!({
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192
    });
    check(&rope_of(parameters.clone()), &expected, 1.0);
    let older = json!({"rope_theta": 500000.0, "rope_scaling": without(&parameters, "rope_theta")});
    check(&rope(&with(&config(), older)), &expected, 1.0);
}

#[test]
fn yarn_by_default() {
    check(&rope_of(yarn()), &YARN, 1.138_629_4);
    // Without a factor it is the ratio of the contexts, which is 4 too.
    check(&rope_of(with(&yarn(), json!({"factor": null}))), &YARN, 1.138_629_4);
    check(&rope_of(with(&yarn(), json!({"beta_fast": null, "beta_slow": 0}))), &YARN, 1.138_629_4);
    // One of the two scales alone, or zero, has no effect.
    let zero = json!({"mscale": 0.5, "mscale_all_dim": 0.0});
    check(&rope_of(with(&yarn(), zero)), &YARN, 1.138_629_4);
    let older = without(&with(&yarn(), json!({"type": "yarn"})), "rope_type");
    let older = json!({"rope_theta": 10000.0, "rope_scaling": older});
    check(&rope(&with(&config(), older)), &YARN, 1.138_629_4);
}

#[test]
fn yarn_with_every_field() {
    let fields = json!({
        "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 16.0, "beta_slow": 2.0,
        "truncate": false
    });
    let expected =
        [1.0, 0.316_227_76, 0.1, 0.018_701_805, 0.002_5, 0.000_790_569_47, 0.000_25, 7.905_695e-5];
    check(&rope_of(with(&yarn(), fields)), &expected, 1.064_821_6);
}

#[test]
fn yarn_takes_the_original_context_from_outside_first() {
    let expected = [
        1.0,
        0.316_227_76,
        0.1,
        0.025_693_506,
        0.006_249_999_6,
        0.001_383_496_6,
        0.000_25,
        7.905_695e-5,
    ];
    let outside = json!({"original_max_position_embeddings": 2048, "rope_parameters": yarn()});
    check(&rope(&with(&config(), outside)), &expected, 1.138_629_4);
    let inside = json!({"original_max_position_embeddings": 2048, "attention_factor": 0.7});
    check(&rope_of(with(&yarn(), inside)), &expected, 0.7);
    // Given nowhere: the context of the config.
    let nowhere = with(&yarn(), json!({"original_max_position_embeddings": 4096}));
    assert_eq!(rope_of(without(&yarn(), "original_max_position_embeddings")), rope_of(nowhere));
}

#[test]
fn part_of_a_head() {
    let bamba = json!({
        "model_type": "bamba", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
        "num_key_value_heads": 2, "attn_layer_indices": [0], "rope_theta": 10000.0
    });
    check(&rope(&bamba), &[1.0, 0.1, 0.01, 0.001], 1.0);
    let quarter = json!({"rope_parameters": {"partial_rotary_factor": 0.25}});
    check(&rope(&with(&bamba, quarter)), &[1.0, 0.01], 1.0);
    // 5 of 10 elements are rounded up to 3 pairs.
    check(
        &rope(&with(&bamba, json!({"hidden_size": 20}))),
        &[1.0, 0.025_118_863, 0.000_630_957_3],
        1.0,
    );
}

#[test]
fn a_family_without_partial_rotation_disregards_it_or_refuses() {
    let partial = json!({"partial_rotary_factor": 0.5});
    check(&rope(&with(&config(), partial.clone())), &DEFAULT, 1.0);
    let error = try_spec(&with(&config(), json!({"rope_parameters": with(&yarn(), partial)})));
    assert!(matches!(error, Err(ModelError::Unsupported { .. })), "{error:?}");
}

#[test]
fn dynamic() {
    let dynamic = rope_of(json!({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.5}));
    check(&dynamic, &DEFAULT, 1.0);
    // Positions up to `max_position_embeddings` are rotated as usual; later ones by the length up
    // to each of them.
    for position in [0, 1, 4095] {
        assert_eq!(*dynamic.inv_freq_at(position), *dynamic.inv_freq);
    }
    for (length, expected) in [
        (
            4097,
            [
                1.0,
                0.316_200_2,
                0.099_982_57,
                0.031_614_51,
                0.009_996_514,
                0.003_160_899_5,
                0.000_999_477_1,
                0.000_316_034_86,
            ],
        ),
        (
            10_000,
            [
                1.0,
                0.254_257,
                0.064_646_62,
                0.016_436_856,
                0.004_179_185_3,
                0.001_062_587_1,
                0.000_270_170_22,
                6.869_266_5e-5,
            ],
        ),
        (
            200_000,
            [
                1.0,
                0.159_470_35,
                0.025_430_793,
                0.004_055_457,
                0.000_646_725_24,
                0.000_103_133_5,
                1.644_673_5e-5,
                2.622_766_5e-6,
            ],
        ),
    ] {
        for (found, expected) in dynamic.inv_freq_at(length - 1).iter().zip(expected) {
            let error = (found / expected - 1.0f32).abs();
            assert!(error < 3e-7, "{length}: {found} instead of {expected}");
        }
    }
    // Both spellings; and other models' identifying text does not mention it.
    let legacy = json!({"rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "factor": 2.5}});
    assert_eq!(dynamic, rope(&with(&config(), legacy)));
    assert!(format!("{dynamic:?}").contains("dynamic"));
    assert!(!format!("{:?}", rope_of(json!({"rope_type": "default"}))).contains("dynamic"));
    let far = dynamic.inv_freq_at(1 << 31);
    assert!(far.iter().all(|f| f.is_finite()));
    let two = with(
        &config(),
        json!({"head_dim": 2, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
    );
    assert!(error_of(&two).contains("more than 2"));
}

#[test]
fn errors() {
    for (parameters, part) in [
        (json!({"rope_type": "longrope"}), "\"longrope\""),
        (json!({"rope_type": "longrope"}), "default, linear, dynamic, llama3, yarn"),
        (json!({"rope_type": "dynamic"}), "rope_parameters.factor` is missing"),
        (json!({"rope_type": "dynamic", "factor": -1.0}), "rope_parameters.factor` is -1"),
        (json!({"type": "su"}), "rope_parameters.type"),
        (json!({"rope_type": "linear"}), "rope_parameters.factor` is missing"),
        (json!({"rope_type": "linear", "factor": 0}), "rope_parameters.factor` is 0"),
        (json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor` is missing"),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4, "high_freq_factor": 1}),
            "high_freq_factor` is 1; expected more than low_freq_factor, 4",
        ),
        (without(&yarn(), "factor"), "rope_parameters.factor` is missing"),
        (with(&yarn(), json!({"rope_theta": 1.0})), "rope_theta` is 1"),
        (with(&yarn(), json!({"beta_fast": -1})), "beta_fast"),
        (with(&yarn(), json!({"beta_fast": 1e-320, "beta_slow": 1e-320})), "rope_theta"),
        (with(&yarn(), json!({"mscale": 1e38, "mscale_all_dim": -1e38})), "mscale"),
        (with(&yarn(), json!({"original_max_position_embeddings": 0})), "original_max_position"),
        (json!({"rope_theta": 0}), "rope_theta"),
        (json!({"rope_theta": 1.4e-45}), "rope_theta"),
        (json!({"partial_rotary_factor": 2}), "partial_rotary_factor"),
        (json!({"full_attention": {"rope_theta": 1e4}}), "rope_parameters.full_attention"),
        (json!([1]), "rope_parameters"),
    ] {
        let error = error_of(&with(&config(), json!({"rope_parameters": parameters})));
        assert!(error.contains(part), "{error}");
    }
    let error = error_of(&with(&config(), json!({"head_dim": 7})));
    assert!(error.contains("head_dim"), "{error}");
}

#[test]
fn exact_angles_stay_exact_far_away() {
    let rope = Rope::exact(500_000.0, 8);
    let position = 100_000_000;
    for (i, angle) in rope.angles_at(position).into_iter().enumerate() {
        let expected = 1e8 * 500_000f64.powf(-2.0 * i as f64 / 8.0);
        assert!((angle - expected).abs() < 1e-6, "{i}: {angle}, not {expected}");
    }
    let rounded = Rope { exact: None, ..rope };
    let angle = rounded.angles_at(position)[1];
    assert!((angle - 1e8 * 500_000f64.powf(-0.25)).abs() > 0.01, "{angle}");
}
