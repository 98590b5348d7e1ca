//! Tokens chosen by the device, against those that the sampler chooses on the host.

use std::sync::Arc;

use kinglet::backend::{Executable, TokenChoice, compile};
use kinglet::models::Matrix;
use kinglet::op::{BufferId, Embed, Head, Op};
use kinglet::plan::{Buffer, Plan};
use kinglet::sampling::{Rng, Sampler, SamplingOptions, StageOrder};
use kinglet_tests::argmax;
use kinglet_tests::random::Random;
use kinglet_tests::target::wgpu_targets;
use kinglet_tests::tensors::{Stored, Tensors};

/// Number of distributions for the logits after a token.
const SHAPES: usize = 5;

/// Logits with a given distribution.
fn logits(shape: usize, vocab: usize) -> Vec<f32> {
    let mut random = Random::new((vocab * SHAPES + shape) as u64);
    let mut next = |id: usize| match shape {
        // Like a model's.
        0 => 2.5 * random.normal(),
        // Nearly flat.
        1 => 0.01 * random.normal(),
        // One token far ahead of the others, late in the vocabulary.
        2 => random.normal() + if id == vocab - 2 { 12.0 } else { 0.0 },
        // Many ties, also for the largest.
        3 => random.uniform(-12.0, 3.0).round(),
        // Far apart: most tokens have no weight.
        _ => 300.0 * random.normal(),
    };
    (0..vocab).map(|id| next(id) as f32).collect()
}

/// A model whose logits after token `t` are those of distribution `t % SHAPES`.
fn model(vocab: usize, columns: &[Vec<f32>]) -> (Plan, Tensors) {
    let mut tensors = Tensors::default();
    let width = columns.len();
    let table: Vec<f64> =
        (0..vocab * width).map(|i| f64::from(u8::from(i % width == i / width % width))).collect();
    tensors.push("table", &[vocab, width], Stored::F32, &table);
    let head: Vec<f64> =
        (0..vocab * width).map(|i| f64::from(columns[i % width][i / width])).collect();
    tensors.push("head", &[vocab, width], Stored::F32, &head);
    let (x, linear) = (BufferId(0), Matrix::whole("head", vocab, width).into());
    let table = Matrix::whole("table", vocab, width);
    let plan = Plan {
        hidden: width,
        vocab,
        ops: vec![
            Op::Embed(Embed { table: Some(table), scale: 1.0, output: x }),
            Op::Head(Head { input: x, norm: None, linear, scale: 1.0, soft_cap: None }),
        ],
        buffers: vec![Buffer { name: "x", width, slot: 0 }],
        slots: vec![width],
        states: Vec::new(),
    };
    (plan, tensors)
}

/// The device's choices after each of `tokens`, all in flight together.
fn choose(
    executable: &dyn Executable,
    tokens: &[u32],
    choices: &[TokenChoice],
) -> Vec<Option<u32>> {
    let mut ahead = executable.ahead().expect("the backend chooses");
    let mut state = executable.new_state().unwrap();
    pollster::block_on(async {
        for (&token, &choice) in tokens.iter().zip(choices) {
            assert!(ahead.can(&choice));
            ahead.submit(Some(token), &mut *state, choice).await.unwrap();
        }
        let mut chosen = Vec::new();
        while ahead.under_way() > 0 {
            chosen.push(ahead.next().await.unwrap());
        }
        chosen
    })
}

/// Whether `number` falls on `token`, or so close that rounding decides.
fn falls_on(
    sampler: &mut Sampler,
    logits: &[f32],
    choice: &TokenChoice,
    number: f64,
    token: u32,
) -> bool {
    let mut distribution = sampler.distribution(logits).unwrap();
    let TokenChoice::Drawn(draw) = choice else { return distribution[0].0 == token };
    if !draw.by_rank() {
        distribution.sort_unstable_by_key(|(id, _)| *id);
    }
    let mut sum = 0.0;
    distribution.iter().any(|(id, probability)| {
        let start = sum;
        sum += f64::from(*probability);
        *id == token && number > start - 1e-5 && number < sum + 1e-5
    })
}

fn all_options() -> Vec<SamplingOptions> {
    let plain = SamplingOptions::default();
    let last = StageOrder::TemperatureLast;
    // Fractions that no number of ties adds up to; otherwise rounding would decide.
    vec![
        SamplingOptions::greedy(),
        plain.clone(),
        SamplingOptions { temperature: 0.6, ..plain.clone() },
        SamplingOptions { temperature: 1.7, min_p: 0.05, ..plain.clone() },
        SamplingOptions { min_p: 0.1, temperature: 1.4, order: last, ..plain.clone() },
        SamplingOptions { top_k: 1, ..plain.clone() },
        SamplingOptions { top_k: 40, ..plain.clone() },
        SamplingOptions { top_k: 40, top_p: 0.913, temperature: 0.8, ..plain.clone() },
        SamplingOptions { top_k: 500, top_p: 0.9713, min_p: 0.01, ..plain.clone() },
        SamplingOptions { top_p: 0.503, ..plain.clone() },
        SamplingOptions { top_p: 0.9507, temperature: 0.7, ..plain.clone() },
        SamplingOptions {
            top_p: 0.907,
            min_p: 0.02,
            temperature: 1.3,
            order: last,
            ..plain.clone()
        },
        SamplingOptions { top_k: 20, temperature: 2.0, order: last, ..plain },
    ]
}

#[test]
fn a_seed_gives_the_tokens_that_it_gives_on_the_host() {
    for target in wgpu_targets() {
        for vocab in [3, 37, 1024, 1025, 20_000] {
            let columns: Vec<Vec<f32>> = (0..SHAPES).map(|shape| logits(shape, vocab)).collect();
            let (plan, tensors) = model(vocab, &columns);
            let executable = compile(Arc::new(plan), &tensors.weights(), &target.options).unwrap();
            let (mut equal, mut near, mut left) = (0, 0, 0);
            for options in all_options() {
                let kind = options.choice(vocab).expect("all of it is possible on a device");
                let seeds = 0..12u64;
                let (mut tokens, mut choices, mut expected) = (Vec::new(), Vec::new(), Vec::new());
                for seed in seeds.clone() {
                    let shape = seed as usize % SHAPES % vocab;
                    let mut choice = kind;
                    if let TokenChoice::Drawn(draw) = &mut choice {
                        draw.number = Rng::new(seed).next_f64();
                    }
                    let mut sampler = Sampler::new(options.clone(), seed).unwrap();
                    expected.push(sampler.sample(&columns[shape]).unwrap());
                    tokens.push(shape as u32);
                    choices.push(choice);
                }
                let chosen = choose(&*executable, &tokens, &choices);
                for (i, (chosen, expected)) in chosen.iter().zip(&expected).enumerate() {
                    let what =
                        format!("{} of {vocab}, shape {}, {options:?}", target.name, tokens[i]);
                    let logits = &columns[tokens[i] as usize];
                    let Some(chosen) = chosen else {
                        // Only with more candidates than fit.
                        assert!(options.top_p < 1.0 && options.top_k == 0, "{what}");
                        let mut sampler = Sampler::new(options.clone(), 0).unwrap();
                        let candidates = sampler.distribution(logits).unwrap().len();
                        let equals = tokens[i] == 3;
                        assert!(candidates > 700 || equals && vocab > 1024, "{what}: {candidates}");
                        left += 1;
                        continue;
                    };
                    if chosen == expected {
                        equal += 1;
                        continue;
                    }
                    near += 1;
                    let number = Rng::new(i as u64).next_f64();
                    let mut sampler = Sampler::new(options.clone(), i as u64).unwrap();
                    let right = falls_on(&mut sampler, logits, &choices[i], number, *chosen);
                    assert!(right, "{what}: {chosen}, not {expected}");
                }
            }
            // If a token of many has a probability of 1e-5, rounding sometimes decides.
            assert!(near * 40 <= equal, "{}: {equal} equal, {near} near", target.name);
            assert!(left <= equal / 6, "{}: {equal} equal, {left} left", target.name);
        }
    }
}

#[test]
fn the_lowest_of_equals_is_the_largest_and_broken_logits_are_left_to_the_host() {
    for target in wgpu_targets() {
        for vocab in [5, 2050, 3000] {
            let mut columns = vec![vec![1.0f32; vocab]; 4];
            // Ties within one block and across blocks.
            for at in [vocab - 1, vocab - 2, vocab / 2] {
                columns[1][at] = 2.0;
            }
            columns[2][vocab - 1] = f32::NAN;
            columns[3][vocab / 2] = f32::INFINITY;
            let (plan, tensors) = model(vocab, &columns);
            // Infinity times zero is NaN, so the broken logits have no other columns.
            for (column, expected) in [(0, Some(0)), (1, Some(vocab as u32 / 2))] {
                let sound = model(vocab, &columns[..2]);
                let executable =
                    compile(Arc::new(sound.0), &sound.1.weights(), &target.options).unwrap();
                assert_eq!(choose(&*executable, &[column], &[TokenChoice::Greedy]), [expected]);
                assert_eq!(argmax(&columns[column as usize]), expected.unwrap());
            }
            let executable = compile(Arc::new(plan), &tensors.weights(), &target.options).unwrap();
            for options in all_options() {
                let choice = options.choice(vocab).unwrap();
                let chosen = choose(&*executable, &[2, 3], &[choice; 2]);
                assert_eq!(chosen, [None, None], "{} {options:?}", target.name);
            }
        }
    }
}

#[test]
fn what_needs_the_host_is_not_asked_of_a_device() {
    let plain = SamplingOptions::default();
    let xtc = kinglet::sampling::XtcOptions { probability: 0.5, threshold: 0.1 };
    let dry = kinglet::sampling::DryOptions { multiplier: 0.8, ..Default::default() };
    for options in [
        SamplingOptions { logit_bias: vec![(1, 2.0)], ..plain.clone() },
        SamplingOptions { repetition_penalty: 1.1, temperature: 0.0, ..plain.clone() },
        SamplingOptions { presence_penalty: 0.1, ..plain.clone() },
        SamplingOptions { frequency_penalty: 0.1, ..plain.clone() },
        SamplingOptions { typical_p: 0.9, ..plain.clone() },
        SamplingOptions { dry, ..plain.clone() },
        SamplingOptions { xtc, ..plain },
    ] {
        assert_eq!(options.choice(100), None, "{options:?}");
    }
}
