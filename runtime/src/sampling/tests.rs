//! The sampler against naive definitions, against `transformers`, and by statistics.

use super::*;

/// Valid logits, in steps large enough that dividing by a temperature keeps them distinct.
fn logits(seed: u64, count: usize, spread: f64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..count)
        .map(|_| {
            // A sum of uniform numbers is approximately normal.
            let normal: f64 = (0..6).map(|_| rng.next_f64()).sum::<f64>() - 3.0;
            ((normal * spread * 512.0).round() / 512.0) as f32
        })
        .collect()
}

/// The stages by their definitions, in f64, by sorting everything.
mod oracle {
    pub(super) type Distribution = Vec<(u32, f64)>;

    pub(super) fn softmax(logits: &[f32], temperature: f32) -> Distribution {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |l: f32| (f64::from(l - max) / f64::from(temperature)).exp();
        normalized((0..).zip(logits.iter().map(|&l| weight(l))).filter(|(_, w)| *w > 0.0).collect())
    }

    fn normalized(mut distribution: Distribution) -> Distribution {
        let total: f64 = distribution.iter().map(|(_, p)| p).sum();
        distribution.iter_mut().for_each(|(_, p)| *p /= total);
        distribution.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        distribution
    }

    pub(super) fn top_k(mut distribution: Distribution, k: usize) -> Distribution {
        distribution.truncate(k);
        normalized(distribution)
    }

    fn until(distribution: Distribution, mass: f64) -> Distribution {
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for (id, p) in distribution {
            if sum >= mass {
                break;
            }
            sum += p;
            kept.push((id, p));
        }
        normalized(kept)
    }

    pub(super) fn top_p(distribution: Distribution, p: f64) -> Distribution {
        until(distribution, p)
    }

    pub(super) fn min_p(mut distribution: Distribution, min_p: f64) -> Distribution {
        let least = distribution[0].1 * min_p;
        distribution.retain(|(_, p)| *p >= least);
        normalized(distribution)
    }

    pub(super) fn typical(mut distribution: Distribution, mass: f64) -> Distribution {
        let entropy: f64 = distribution.iter().map(|(_, p)| -p * p.ln()).sum();
        let distance = |p: f64| (-p.ln() - entropy).abs();
        distribution.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
        until(distribution, mass)
    }

    pub(super) fn exclude_top(mut distribution: Distribution, threshold: f64) -> Distribution {
        let top = distribution.iter().filter(|(_, p)| *p >= threshold).count();
        if top > 1 {
            distribution.drain(..top - 1);
        }
        normalized(distribution)
    }
}

fn distribution(options: SamplingOptions, logits: &[f32]) -> Vec<(u32, f32)> {
    let mut sampler = Sampler::new(options, 1).expect("sound options");
    sampler.distribution(logits).expect("sound logits")
}

#[track_caller]
fn assert_close(found: &[(u32, f32)], expected: &[(u32, f64)], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of candidates");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.0, expected.0, "{what}");
        let error = (f64::from(found.1) - expected.1).abs();
        assert!(error <= 1e-5 * expected.1 + 1e-9, "{what}: {found:?} {expected:?}");
    }
}

#[test]
fn stages_are_those_of_the_definitions() {
    for (seed, count) in [(1, 3), (2, 50), (3, 1000), (4, 20_000)] {
        for spread in [0.3, 1.5, 4.0] {
            let logits = logits(seed, count, spread);
            let base = SamplingOptions::default();
            for temperature in [0.5, 1.0, 1.8] {
                let all = oracle::softmax(&logits, temperature);
                let with = |options: SamplingOptions| {
                    distribution(SamplingOptions { temperature, ..options }, &logits)
                };
                let what = |stage: &str| format!("{stage} {seed} {spread} {temperature}");
                assert_close(&with(base.clone()), &all, &what("none"));
                for k in [1, 2, 40, 5000] {
                    let found = with(SamplingOptions { top_k: k, ..base.clone() });
                    assert_close(&found, &oracle::top_k(all.clone(), k as usize), &what("top_k"));
                }
                // Values that no cumulative probability comes close to by chance.
                for p in [0.013_f32, 0.4321, 0.9017, 0.9876] {
                    let wide = f64::from(p);
                    let found = with(SamplingOptions { top_p: p, ..base.clone() });
                    assert_close(&found, &oracle::top_p(all.clone(), wide), &what("top_p"));
                    let found = with(SamplingOptions { min_p: p, ..base.clone() });
                    assert_close(&found, &oracle::min_p(all.clone(), wide), &what("min_p"));
                    let found = with(SamplingOptions { typical_p: p, ..base.clone() });
                    let expected = oracle::typical(all.clone(), wide);
                    assert_close(&found, &expected, &what("typical"));
                    let xtc = XtcOptions { probability: 1.0, threshold: p / 10.0 };
                    let found = with(SamplingOptions { xtc, ..base.clone() });
                    let expected = oracle::exclude_top(all.clone(), wide / 10.0);
                    assert_close(&found, &expected, &what("xtc"));
                }
            }
        }
    }
}

#[test]
fn the_order_of_the_stages_is_the_documented_one() {
    let logits = logits(9, 400, 2.0);
    let xtc = XtcOptions { probability: 1.0, threshold: 0.05 };
    let first = SamplingOptions {
        temperature: 1.6,
        top_k: 30,
        top_p: 0.9,
        min_p: 0.05,
        typical_p: 0.8,
        xtc,
        ..Default::default()
    };
    let mut expected = oracle::top_k(oracle::softmax(&logits, 1.6), 30);
    expected = oracle::min_p(oracle::top_p(expected, 0.9), 0.05);
    expected = oracle::exclude_top(oracle::typical(expected, 0.8), 0.05);
    assert_close(&distribution(first.clone(), &logits), &expected, "temperature first");

    let last = SamplingOptions { order: StageOrder::TemperatureLast, ..first };
    let mut expected = oracle::top_k(oracle::softmax(&logits, 1.0), 30);
    expected = oracle::top_p(oracle::typical(expected, 0.8), 0.9);
    expected = oracle::exclude_top(oracle::min_p(expected, 0.05), 0.05);
    let kept: Vec<f32> = expected.iter().map(|(id, _)| logits[*id as usize]).collect();
    let warm = oracle::softmax(&kept, 1.6);
    let expected: Vec<_> = warm.iter().map(|(i, p)| (expected[*i as usize].0, *p)).collect();
    assert_close(&distribution(last, &logits), &expected, "temperature last");
}

#[test]
fn distributions_are_those_of_transformers() {
    let text = include_str!("../../tests/fixtures/sampling/transformers.json");
    let entries: Vec<serde_json::Value> = serde_json::from_str(text).expect("the fixture");
    let mut waiting = Vec::new();
    let mut compared = 0;
    for entry in &entries {
        if entry.get("options").is_some() {
            waiting.push(entry);
            continue;
        }
        let logits: Vec<f32> = serde_json::from_value(entry["values"].clone()).expect("logits");
        for case in waiting.drain(..) {
            let options = serde_json::from_value(case["options"].clone()).expect("options");
            let mut sampler = Sampler::new(options, 0).expect("sound options");
            let history: Vec<u32> = serde_json::from_value(case["history"].clone()).expect("ids");
            sampler.state_mut().accept_all(&history);
            let mut found = sampler.distribution(&logits).expect("sound logits");
            found.sort_by_key(|(id, _)| *id);
            let kept: Vec<(u32, f64)> =
                serde_json::from_value(case["kept"].clone()).expect("pairs");
            assert_close(&found, &kept, &case["options"].to_string());
            compared += 1;
        }
    }
    assert!(compared > 60, "only {compared} cases");
}

/// The chi-square statistic of draws against a distribution, and its degrees of freedom. Tokens
/// expected less than ten times are pooled.
fn chi_square(expected: &[(u32, f64)], drawn: &[u32]) -> (f64, f64) {
    let total = drawn.len() as f64;
    let (mut statistic, mut cells) = (0.0, 0.0);
    let (mut rare_expected, mut rare_seen) = (0.0, 0.0);
    for (id, p) in expected {
        let seen = drawn.iter().filter(|drawn| *drawn == id).count() as f64;
        if p * total < 10.0 {
            rare_expected += p * total;
            rare_seen += seen;
        } else {
            statistic += (seen - p * total).powi(2) / (p * total);
            cells += 1.0;
        }
    }
    if rare_expected > 0.0 {
        statistic += (rare_seen - rare_expected).powi(2) / rare_expected.max(1e-9);
        cells += 1.0;
    }
    (statistic, cells - 1.0)
}

#[test]
fn draws_follow_the_distribution() {
    let logits = logits(5, 200, 1.5);
    for (options, expected) in [
        (SamplingOptions::default(), oracle::softmax(&logits, 1.0)),
        (
            SamplingOptions { temperature: 0.7, top_p: 0.9, ..Default::default() },
            oracle::top_p(oracle::softmax(&logits, 0.7), 0.9),
        ),
        (
            SamplingOptions { top_k: 10, order: StageOrder::TemperatureLast, ..Default::default() },
            oracle::top_k(oracle::softmax(&logits, 1.0), 10),
        ),
    ] {
        let mut sampler = Sampler::new(options.clone(), 2024).expect("sound options");
        let drawn: Vec<u32> =
            (0..40_000).map(|_| sampler.sample(&logits).expect("sound logits")).collect();
        assert!(drawn.iter().all(|id| expected.iter().any(|(kept, _)| kept == id)));
        let (statistic, freedom) = chi_square(&expected, &drawn);
        // Four standard deviations above the mean of the chi-square distribution. The seed is
        // fixed, so the result is deterministic.
        assert!(
            statistic < freedom + 4.0 * (2.0 * freedom).sqrt(),
            "{statistic} at {freedom} degrees of freedom: {options:?}"
        );
        // Nor suspiciously even.
        assert!(statistic > freedom - 4.0 * (2.0 * freedom).sqrt(), "{statistic} at {freedom}");
    }
}

#[test]
fn xtc_is_done_as_often_as_it_says() {
    // Two tokens above the threshold: when XTC applies, the first can't be drawn.
    let logits = [2.0_f32, 1.9, -2.0];
    let xtc = XtcOptions { probability: 0.4, threshold: 0.2 };
    let options = SamplingOptions { xtc, ..Default::default() };
    let mut sampler = Sampler::new(options, 11).expect("sound options");
    let count = 20_000;
    let first = (0..count).filter(|_| sampler.sample(&logits) == Ok(0)).count() as f64;
    let expected = 0.6 * oracle::softmax(&logits, 1.0)[0].1;
    assert!((first / f64::from(count) - expected).abs() < 0.012, "{first} of {count}, {expected}");
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let mut sampler = Sampler::new(SamplingOptions::greedy(), 0).expect("sound options");
    assert_eq!(sampler.sample(&[0.0, 3.0, -1.0, 3.0]), Ok(1));
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -5.0]), Ok(1));
    assert_eq!(sampler.distribution(&[1.0, 2.0]), Ok(vec![(1, 1.0)]));
    // Bias and penalties apply to greedy choices too.
    let options =
        SamplingOptions { logit_bias: vec![(1, f32::NEG_INFINITY)], ..SamplingOptions::greedy() };
    sampler.set_options(options).expect("sound options");
    assert_eq!(sampler.sample(&[0.0, 3.0, -1.0, 3.0]), Ok(3));
    let options = SamplingOptions { presence_penalty: 1.0, ..SamplingOptions::greedy() };
    sampler.set_options(options.clone()).expect("sound options");
    sampler.accept(1);
    assert_eq!(sampler.sample(&[0.0, 3.0, 2.5]), Ok(2));
    // Outside the window the token has no penalty.
    sampler.set_options(SamplingOptions { penalty_last_n: Some(1), ..options }).expect("sound");
    sampler.accept(0);
    assert_eq!(sampler.sample(&[0.0, 3.0, 2.5]), Ok(1));
    // A very low temperature gives the same result.
    let cold = SamplingOptions { temperature: 1e-30, ..Default::default() };
    sampler.set_options(cold).expect("sound options");
    assert_eq!(sampler.sample(&[1e30, 0.0, 1e30 * 1.01]), Ok(2));
}

#[test]
fn the_same_seed_gives_the_same_tokens_also_from_a_saved_state() {
    let options = SamplingOptions {
        temperature: 0.9,
        top_k: 40,
        repetition_penalty: 1.1,
        dry: DryOptions { multiplier: 0.8, ..Default::default() },
        xtc: XtcOptions { probability: 0.5, threshold: 0.1 },
        ..Default::default()
    };
    let step = |sampler: &mut Sampler, step: u64| {
        let token = sampler.sample(&logits(step, 300, 2.0)).expect("sound logits");
        sampler.accept(token);
        token
    };
    let mut one = Sampler::new(options.clone(), 77).expect("sound options");
    let first: Vec<u32> = (0..20).map(|i| step(&mut one, i)).collect();
    let mut two = Sampler::new(options.clone(), 77).expect("sound options");
    assert_eq!((0..10).map(|i| step(&mut two, i)).collect::<Vec<_>>(), first[..10]);
    let saved = serde_json::to_string(two.state()).expect("a plain state");
    let restored = serde_json::from_str(&saved).expect("what was saved");
    let mut three = Sampler::with_state(options.clone(), restored).expect("sound options");
    // Asking for the distribution changes nothing.
    three.distribution(&logits(1, 300, 2.0)).expect("sound logits");
    assert_eq!((10..20).map(|i| step(&mut three, i)).collect::<Vec<_>>(), first[10..]);
    assert_eq!(three.state().history(), first);
    three.state_mut().rewind(3);
    assert_eq!(three.state().history(), &first[..3]);
    // Another seed gives other tokens. The first tokens are pinned, so that they never change.
    let mut other = Sampler::new(options, 78).expect("sound options");
    assert_ne!((0..20).map(|i| step(&mut other, i)).collect::<Vec<_>>(), first);
    assert_eq!(first, PINNED);
}

/// Must be the same on every platform.
const PINNED: [u32; 20] =
    [118, 58, 65, 68, 156, 289, 78, 211, 46, 139, 44, 0, 89, 243, 122, 254, 143, 201, 228, 7];

#[test]
fn nothing_is_allocated_after_the_first_tokens() {
    let options = SamplingOptions {
        temperature: 0.9,
        top_k: 50,
        top_p: 0.9,
        min_p: 0.01,
        typical_p: 0.95,
        repetition_penalty: 1.1,
        dry: DryOptions { multiplier: 0.8, last_n: Some(16), ..Default::default() },
        xtc: XtcOptions { probability: 0.5, threshold: 0.1 },
        logit_bias: vec![(3, 1.0)],
        ..Default::default()
    };
    let mut sampler = Sampler::new(options, 5).expect("sound options");
    sampler.state_mut().accept_all(&[1; 32]);
    let sizes = |sampler: &Sampler| {
        (
            sampler.logits.capacity(),
            format!("{:?}", sampler.candidates.capacities()),
            sampler.counts.capacity(),
            sampler.dry.capacity(),
        )
    };
    for seed in 0..20 {
        sampler.sample(&logits(seed, 5000, 2.0)).expect("sound logits");
    }
    let warm = sizes(&sampler);
    for seed in 20..100 {
        let token = sampler.sample(&logits(seed, 5000, 2.0)).expect("sound logits");
        sampler.accept(token);
    }
    assert_eq!(sizes(&sampler), warm);
}

#[test]
fn broken_logits_are_refused() {
    for options in [SamplingOptions::greedy(), SamplingOptions::default()] {
        let mut sampler = Sampler::new(options, 0).expect("sound options");
        let inf = f32::INFINITY;
        assert!(matches!(
            sampler.sample(&[0.0, f32::NAN, 1.0]),
            Err(SamplingError::NotFinite { id: 1, .. })
        ));
        assert_eq!(
            sampler.sample(&[0.0, inf]),
            Err(SamplingError::NotFinite { id: 1, value: inf })
        );
        assert_eq!(sampler.sample(&[]), Err(SamplingError::NoCandidates { logits: 0 }));
        assert_eq!(sampler.sample(&[-inf, -inf]), Err(SamplingError::NoCandidates { logits: 2 }));
        // The error left the sampler unchanged.
        assert_eq!(sampler.sample(&[-inf, 0.0]), Ok(1));
    }
    let options = SamplingOptions { logit_bias: vec![(9, 1.0)], ..Default::default() };
    let mut sampler = Sampler::new(options, 0).expect("sound options");
    assert_eq!(
        sampler.sample(&[0.0; 4]),
        Err(SamplingError::Token { name: "logit_bias", id: 9, vocabulary: 4 })
    );
}

#[test]
fn options_out_of_range_are_named() {
    let base = SamplingOptions::default;
    let wrong = [
        (SamplingOptions { temperature: -0.1, ..base() }, "temperature"),
        (SamplingOptions { temperature: f32::NAN, ..base() }, "temperature"),
        (SamplingOptions { temperature: f32::INFINITY, ..base() }, "temperature"),
        (SamplingOptions { top_p: 0.0, ..base() }, "top_p"),
        (SamplingOptions { top_p: 1.1, ..base() }, "top_p"),
        (SamplingOptions { min_p: 1.5, ..base() }, "min_p"),
        (SamplingOptions { typical_p: -1.0, ..base() }, "typical_p"),
        (SamplingOptions { repetition_penalty: 0.0, ..base() }, "repetition_penalty"),
        (SamplingOptions { presence_penalty: f32::NAN, ..base() }, "presence_penalty"),
        (SamplingOptions { frequency_penalty: f32::INFINITY, ..base() }, "frequency_penalty"),
        (SamplingOptions { logit_bias: vec![(1, f32::NAN)], ..base() }, "logit_bias"),
        (
            SamplingOptions { dry: DryOptions { base: 0.5, ..Default::default() }, ..base() },
            "dry.base",
        ),
        (
            SamplingOptions {
                dry: DryOptions { sequence_breakers: vec![vec![]], ..Default::default() },
                ..base()
            },
            "dry.sequence_breakers",
        ),
        (
            SamplingOptions { xtc: XtcOptions { probability: 2.0, threshold: 0.1 }, ..base() },
            "xtc.probability",
        ),
    ];
    let mut sampler = Sampler::new(base(), 0).expect("sound options");
    for (options, expected) in wrong {
        match sampler.set_options(options) {
            Err(SamplingError::Option { name, .. }) => assert_eq!(name, expected),
            other => panic!("{expected}: {other:?}"),
        }
        assert_eq!(sampler.options(), &base(), "the old options stay");
    }
}

#[test]
fn defaults_come_from_the_generation_config() {
    use crate::text::GenerationConfig;
    let from = |config: &GenerationConfig| {
        SamplingOptions::from_generation_config(config).expect("sound values")
    };
    assert_eq!(from(&GenerationConfig::default()), SamplingOptions::greedy());
    let config = GenerationConfig {
        do_sample: Some(true),
        temperature: Some(0.6),
        top_p: Some(0.95),
        repetition_penalty: Some(1.05),
        ..Default::default()
    };
    let expected = SamplingOptions {
        temperature: 0.6,
        top_k: 50,
        top_p: 0.95,
        repetition_penalty: 1.05,
        ..Default::default()
    };
    assert_eq!(from(&config), expected);
    let not_sampled = GenerationConfig { do_sample: Some(false), ..config.clone() };
    assert_eq!(from(&not_sampled).temperature, 0.0);
    assert_eq!(from(&not_sampled).repetition_penalty, 1.05);
    let wrong = GenerationConfig { top_p: Some(7.0), ..config };
    assert!(matches!(
        SamplingOptions::from_generation_config(&wrong),
        Err(SamplingError::Option { name: "top_p", .. })
    ));
}
