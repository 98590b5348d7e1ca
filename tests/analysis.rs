//! What a model costs, against values calculated by hand.

use std::path::{Path, PathBuf};

use kinglet::analysis::{
    ExpertUse, LayerMemory, PrecisionSize, Sight, StateMemory, WeightPrecision, WorkPerToken, fit,
    sights,
};
use kinglet::models::Matrix;
use kinglet::plan::Plan;
use kinglet::quant::{DType, Format};
use kinglet::quantize::{Job, JobOptions};
use kinglet::weights::CheckOptions;
use kinglet::{
    Backend, CacheType, Checkpoint, Error, MemoryEstimate, Model, ModelOptions, ModelSpec,
    StateType,
};
use kinglet_tests::fixtures;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/hybrid")
}

fn spec(case: &str) -> ModelSpec {
    kinglet::read_spec(&fixtures().join(case)).unwrap()
}

/// Projections, scans and attention of a component at a context of 1000 tokens.
fn work(case: &str, component: &str) -> [u64; 3] {
    let work = WorkPerToken::of(&spec(case), 1000);
    let mut found = work.components.iter().filter(|(key, _)| key.name() == component);
    let (_, found) = found.next().unwrap_or_else(|| panic!("{case}: no {component} in {work:?}"));
    [found.projections, found.scans, found.attention]
}

#[test]
fn work_is_that_of_the_equations() {
    for (case, component, expected) in [
        // Two layers: queries of 3 heads, keys and values of one, 12 wide; a window of 19.
        (
            "mixtral/bf16",
            "attention",
            [2 * 2 * (36 + 2 * 12 + 36) * 36, 0, 2 * 2 * 3 * (12 + 12) * 19],
        ),
        // Three of five experts of three matrices.
        ("mixtral/bf16", "moe experts", [2 * 2 * 3 * (3 * 36 * 20), 0, 0]),
        ("mixtral/bf16", "router", [2 * 2 * 5 * 36, 0, 0]),
        ("mixtral/bf16", "head", [2 * 97 * 36, 0, 0]),
        // in, x, dt and out; a convolution of 4 taps, 16 elements of state a channel, the skip.
        (
            "mamba/bf16",
            "mamba",
            [
                2 * 2 * (192 * 48 + 35 * 96 + 96 * 3 + 48 * 96),
                2 * (2 * 96 * 4 + 6 * 96 * 16 + 2 * 96),
                0,
            ],
        ),
        // z, x, B, C and dt of 6 heads of 16; out.
        (
            "mamba2/bf16",
            "mamba2",
            [
                2 * 2 * ((96 + 96 + 2 * 16 + 6) * 48 + 48 * 96),
                2 * (2 * 128 * 4 + 5 * 96 * 16 + 2 * 96),
                0,
            ],
        ),
        // q and k of 24, v, o and out of 48, two gates of 3 heads; C of 8 by 16 and n of 8.
        (
            "xlstm/bf16",
            "mlstm",
            [2 * 2 * (2 * 24 + 3 * 48 + 2 * 3) * 48, 2 * 5 * 3 * (8 * 16 + 8), 0],
        ),
        // q and k of 2 heads of 8, v and z of 4 heads of 12, b and a, out; the convolution of q, k and v.
        (
            "qwen3_next/bf16",
            "gated_delta",
            [
                2 * 2 * ((2 * 16 + 2 * 48 + 2 * 4) * 40 + 40 * 48),
                2 * (2 * 80 * 4 + 7 * 4 * 8 * 12),
                0,
            ],
        ),
        // Queries come with a gate. All positions are seen.
        (
            "qwen3_next/bf16",
            "attention",
            [2 * ((2 * 64 + 2 * 32) * 40 + 40 * 64), 0, 2 * 4 * (16 + 16) * 1000],
        ),
        ("lfm2/bf16", "short conv", [2 * 2 * (3 * 48 + 48) * 48, 2 * 2 * 48 * 3, 0]),
        // Queries, keys, values and a gate of 48, and out.
        ("minimax/defaults", "linear attention", [2 * 5 * 48 * 48, 5 * 4 * 12 * 12, 0]),
        // Keys of 12 + 4 elements, whose first 12 are the values of 4 heads.
        (
            "kimi_linear/bf16",
            "attention",
            [2 * (4 * 12 * 24 + 16 * 24 + 4 * (8 + 6) * 12 + 24 * 24), 0, 2 * 4 * (16 + 12) * 1000],
        ),
        // In parallel branches.
        (
            "falcon_h1/biases",
            "attention",
            [2 * 2 * (36 + 2 * 12 + 36) * 36, 0, 2 * 2 * 3 * 24 * 1000],
        ),
        (
            "falcon_h1/biases",
            "mamba2",
            [2 * 2 * ((42 + 62 + 6) * 36 + 36 * 42), 2 * (2 * 62 * 3 + 5 * 42 * 10 + 2 * 42), 0],
        ),
        ("falcon_h1/biases", "dense ffn", [2 * 2 * 3 * 36 * 44, 0, 0]),
    ] {
        assert_eq!(work(case, component), expected, "{case}: {component}");
    }
}

#[test]
fn all_components_together_are_the_plan() {
    for case in ["granitemoehybrid/plain", "zamba2/adapters", "kimi_linear/plain", "jamba/plain"] {
        let spec = spec(case);
        let plan = Plan::new(&spec);
        let (mut products, mut beside) = (0, 0);
        for op in &plan.ops {
            let uses = op.uses();
            let elements = |matrix: &Matrix| matrix.elements() as u64;
            products += uses.matrices.iter().map(|matrix| elements(matrix)).sum::<u64>();
            let experts = uses.experts.iter().map(|(used, matrix)| *used as u64 * elements(matrix));
            products += experts.sum::<u64>() / uses.expert_count.max(1) as u64;
            let work = op.description().work(300);
            beside += work.scan + work.attention;
        }
        let work = WorkPerToken::of(&spec, 300);
        assert_eq!(work.total(), 2 * products + beside, "{case}");
        assert_eq!(work.sum().projections, 2 * products, "{case}");
    }
}

#[test]
fn work_grows_with_the_context_where_attention_sees_it() {
    let attention = |context| WorkPerToken::of(&spec("mixtral/bf16"), context).sum().attention;
    assert_eq!(attention(1), 2 * 2 * 3 * 24);
    assert_eq!(attention(19), attention(1) * 19);
    assert_eq!(attention(20), attention(19));
    let mamba = |context| WorkPerToken::of(&spec("mamba/bf16"), context).total();
    assert_eq!(mamba(1), mamba(1 << 40));
}

#[test]
fn every_fixture_answers_without_overflow() {
    let families = std::fs::read_dir(fixtures()).unwrap();
    let mut seen = 0;
    for family in families.flatten().filter(|family| family.path().is_dir()) {
        for case in std::fs::read_dir(family.path()).unwrap().flatten() {
            let Ok(spec) = kinglet::read_spec(&case.path()) else { continue };
            let work = WorkPerToken::of(&spec, usize::MAX);
            assert!(work.total() > 0, "{}", case.path().display());
            let plan = Plan::new(&spec);
            let layers = sights(&plan);
            assert!(!layers.is_empty());
            assert!(layers.is_sorted_by_key(|(layer, _)| *layer));
            seen += 1;
        }
    }
    assert!(seen > 70, "{seen}");
}

#[test]
fn memory_is_that_of_the_states() {
    // Two layers of 6 heads of 16 by 16 elements and 3 inputs of 128 channels, in f32.
    let memory = StateMemory::of(&Plan::new(&spec("mamba2/bf16")), 1 << 17);
    let recurrent = 2 * 4 * (6 * 16 * 16 + 3 * 128);
    assert_eq!(memory, StateMemory { context: 1 << 17, recurrent, key_value: 0 });
    assert_eq!(memory.total(), recurrent);
    // Two layers of one key and one value of 12 elements, for at most 19 positions.
    let plan = Plan::new(&spec("mixtral/bf16"));
    for (context, positions) in [(10, 10), (1 << 17, 19)] {
        assert_eq!(StateMemory::of(&plan, context).key_value, 2 * 4 * 24 * positions);
    }
}

#[test]
fn layers_see_windows_or_everything_or_a_state() {
    let layers = sights(&Plan::new(&spec("qwen3_next/bf16")));
    let attention = Some(LayerMemory { window: None, sinks: 0 });
    assert_eq!(layers.len(), 3);
    assert_eq!(layers[0], (0, Sight { recurrent: true, attention: None }));
    assert_eq!(layers[2], (2, Sight { recurrent: false, attention }));
    let layers = sights(&Plan::new(&spec("mixtral/bf16")).with_window(12, 4));
    let windowed = LayerMemory { window: Some(12), sinks: 4 };
    assert_eq!(layers[1].1.attention, Some(windowed));
    assert_eq!([10, 16, 17, 1000].map(|context| windowed.seen(context)), [10, 16, 16, 16]);
    let both = sights(&Plan::new(&spec("falcon_h1/biases")));
    assert_eq!(both[0], (0, Sight { recurrent: true, attention }));
}

#[test]
fn a_precision_has_the_size_that_quantizing_gives() {
    let folder = demo();
    let checkpoint = Checkpoint::open(&folder, CheckOptions { strict: false }).unwrap();
    let (spec, weights) = (&checkpoint.spec, Some(&checkpoint.weights));
    for (bits, group) in [(2, 32), (3, 64), (4, 64), (6, 128), (8, 32)] {
        let format = Format::affine(bits, group).unwrap();
        let job = Job::open(&folder, &JobOptions::new(format)).unwrap();
        let expected: u64 = job.tensors().iter().map(|tensor| tensor.bytes()).sum();
        let size = PrecisionSize::of(spec, weights, WeightPrecision::Quantized(format));
        assert_eq!(size.total(), expected, "{format}");
        assert!(size.kept > 0 && size.matrices > 8 * size.kept);
    }
    let dense = |dtype| PrecisionSize::of(spec, weights, WeightPrecision::Dense(dtype)).total();
    let elements: u64 = spec.tensors().iter().map(|tensor| tensor.elements() as u64).sum();
    assert_eq!([dense(DType::F32), dense(DType::BF16)], [4 * elements, 2 * elements]);
}

#[test]
fn the_best_choice_that_fits_comes_first() {
    let checkpoint = Checkpoint::open(demo(), CheckOptions { strict: false }).unwrap();
    let (spec, weights) = (&checkpoint.spec, &checkpoint.weights);
    let context = 1 << 16;
    let fitting = |memory: u64| fit(spec, weights, memory, context).unwrap();
    // Everything fits: the weights as they are stored, and nothing else is worse than it needs to be.
    let all = fitting(1 << 40).choices;
    assert_eq!(
        all.iter().map(|choice| choice.bits).collect::<Vec<_>>(),
        [None, Some(8), Some(6), Some(5), Some(4), Some(3), Some(2)]
    );
    for choice in &all {
        assert_eq!(
            (choice.cache, choice.state, choice.window),
            (CacheType::F32, StateType::F32, None)
        );
    }
    assert!(all.is_sorted_by(|a, b| a.memory.total() > b.memory.total()));
    // What fits, fits; less memory never gives a better best choice.
    let mut last = 0.0;
    for megabytes in [200, 150, 100, 80, 60, 50, 40, 30, 20] {
        let memory = megabytes * 1_000_000;
        let found = fitting(memory);
        for choice in &found.choices {
            assert!(choice.memory.total() <= memory, "{choice:?}");
            // The same numbers as for these options without the search.
            let mut options = ModelOptions::new().cache_type(choice.cache).state_type(choice.state);
            if let Some(window) = choice.window {
                options = options.attention_window(window, 4);
            }
            let known = kinglet::estimate(demo(), &options, context).unwrap();
            assert_eq!((choice.memory.state, choice.memory.working), (known.state, known.working));
        }
        let Some(best) = found.choices.first() else {
            assert!(found.smallest.memory.total() > memory);
            continue;
        };
        assert!(found.choices.iter().all(|other| best.window.is_none() || other.window.is_some()));
        let loss = best.loss() + if best.window.is_some() { 10.0 } else { 0.0 };
        assert!(loss >= last, "{megabytes}: {best:?}");
        last = loss;
    }
    assert!(last > 10.0, "a window was needed");
    let nothing = fitting(1000);
    assert!(nothing.choices.is_empty());
    assert_eq!(
        (nothing.smallest.bits, nothing.smallest.cache, nothing.smallest.window),
        (Some(2), CacheType::Affine4, Some(1024))
    );
}

#[test]
fn codes_stay_as_they_are() {
    let folder = fixtures().join("quantized/granite-nvfp4");
    let checkpoint = Checkpoint::open(&folder, CheckOptions { strict: false }).unwrap();
    let found = fit(&checkpoint.spec, &checkpoint.weights, 1 << 30, 100).unwrap();
    assert_eq!(found.choices.iter().map(|choice| choice.bits).collect::<Vec<_>>(), [None]);
    assert_eq!(found.choices[0].memory.weights, checkpoint.weights.total_bytes());
}

/// Peak of the process's resident memory, in bytes.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
}

/// Options of a run in a child process: `CONTEXT,KV,STATE`.
const MEASURE: &str = "KINGLET_MEASURE_MEMORY";

fn measured_options(cache: &str, state: &str) -> ModelOptions {
    let options = ModelOptions::new().backend(Backend::Cpu).threads(2);
    options.cache_type(cache.parse().unwrap()).state_type(state.parse().unwrap())
}

/// The child process of the next test.
#[cfg(target_os = "linux")]
#[test]
fn child_that_measures_its_memory() {
    let Ok(asked) = std::env::var(MEASURE) else { return };
    let [context, cache, state] = asked.split(',').collect::<Vec<_>>()[..] else {
        panic!("{asked}")
    };
    let before = peak();
    let model = Model::open(demo(), &measured_options(cache, state)).unwrap();
    let mut session = model.session().unwrap();
    let context: u32 = context.parse().unwrap();
    let tokens: Vec<u32> = (0..context).map(|i| (i * 7919) % 8192).collect();
    session.feed(&tokens).unwrap();
    println!("measured {}", peak() - before);
}

#[cfg(target_os = "linux")]
#[test]
fn the_estimate_is_what_a_process_needs() {
    let program = std::env::current_exe().unwrap();
    let runs = [
        (600, "32", "32"),
        (4096, "32", "32"),
        (8192, "32", "16"),
        (4096, "8", "32"),
        (4096, "4", "16"),
    ];
    for (context, cache, state) in runs {
        let mut child = std::process::Command::new(&program);
        child.args([
            "--exact",
            "child_that_measures_its_memory",
            "--nocapture",
            "--test-threads=1",
        ]);
        let output = child.env(MEASURE, format!("{context},{cache},{state}")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let measured = text
            .lines()
            .find_map(|line| line.rsplit_once("measured "))
            .unwrap_or_else(|| panic!("{output:?}"));
        let measured: f64 = measured.1.parse().unwrap();
        let options = measured_options(cache, state);
        let estimate: MemoryEstimate = kinglet::estimate(demo(), &options, context).unwrap();
        let ratio = estimate.total() as f64 / measured;
        assert!(
            (0.9..1.1).contains(&ratio),
            "{context},{cache},{state}: {ratio}: {measured}, {estimate:?}"
        );
    }
}

#[test]
fn every_expert_that_a_token_uses_is_counted_once() {
    let options = ModelOptions::new().backend(Backend::Cpu).threads(1);
    let model = Model::open(fixtures().join("mixtral/bf16"), &options).unwrap();
    let tokens: Vec<u32> = (0..50).map(|i| (i * 31) % 97).collect();
    let mut calls = Vec::new();
    let used = ExpertUse::of(&model, &tokens, 20, &mut |done, total| {
        calls.push((done, total));
        true
    })
    .unwrap();
    assert_eq!(calls, [(20, 50), (40, 50), (50, 50)]);
    assert_eq!(used.layers.iter().map(|(layer, _)| *layer).collect::<Vec<_>>(), [0, 1]);
    for (_, counts) in &used.layers {
        assert_eq!((counts.tokens.len(), counts.top_k, counts.seen()), (5, 3, 50));
        assert_eq!(counts.tokens.iter().sum::<u64>(), 3 * 50);
        // The router's weights of a token add up to one.
        assert!((counts.weights.iter().sum::<f64>() - 50.0).abs() < 1e-3);
        assert!(
            counts
                .tokens
                .iter()
                .zip(&counts.weights)
                .all(|(tokens, weight)| *weight <= *tokens as f64)
        );
        let shares: f64 = (0..5).map(|expert| counts.share(expert)).sum();
        assert!((shares - 3.0).abs() < 1e-9);
        assert!((1.0..=5.0 / 3.0).contains(&counts.imbalance()), "{}", counts.imbalance());
    }
    // Windows are texts of their own.
    let mut parts = ExpertUse::default();
    for window in tokens.chunks(20) {
        let one = ExpertUse::of(&model, window, 20, &mut |_, _| true).unwrap();
        if parts.layers.is_empty() {
            parts = one;
            continue;
        }
        for ((_, sum), (_, more)) in parts.layers.iter_mut().zip(&one.layers) {
            sum.tokens.iter_mut().zip(&more.tokens).for_each(|(sum, more)| *sum += more);
        }
    }
    for ((_, together), (_, apart)) in used.layers.iter().zip(&parts.layers) {
        assert_eq!(together.tokens, apart.tokens);
    }
    // Stopping keeps what was counted.
    let stopped = ExpertUse::of(&model, &tokens, 20, &mut |_, _| false).unwrap();
    assert_eq!(stopped.layers[0].1.seen(), 20);
    assert_eq!(stopped.layers[0].1.tokens.len(), 5);
}

#[test]
fn counting_experts_refuses_what_it_cannot_count() {
    let options = ModelOptions::new().backend(Backend::Cpu).threads(1);
    let model = Model::open(fixtures().join("mixtral/bf16"), &options).unwrap();
    let count = |tokens: &[u32], window| ExpertUse::of(&model, tokens, window, &mut |_, _| true);
    assert!(matches!(
        count(&[1, 97], 4),
        Err(Error::TokenOutOfRange { id: 97, index: 1, vocab: 97 })
    ));
    assert!(matches!(count(&[1], 0), Err(Error::Option { name: "context", .. })));
    assert_eq!(count(&[], 4).unwrap().layers[0].1.imbalance(), 1.0);
    let mamba = Model::open(fixtures().join("mamba/bf16"), &options).unwrap();
    assert!(ExpertUse::of(&mamba, &[1, 2], 4, &mut |_, _| true).unwrap().layers.is_empty());
}
