//! Heads that predict the token after the next one: their logits equal the reference, their drafts
//! change no answer and save steps, and their caches follow the sessions.

use std::io::Cursor;
use std::sync::Arc;

use kinglet::backend::{BackendRun, Executable, Logits, compile};
use kinglet::plan::Plan;
use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::speculate::SpeculationStats;
use kinglet::weights::CheckOptions;
use kinglet::{Activations, Checkpoint, Error, GenerateOptions, Model, ModelOptions, Session};
use kinglet_tests::{PredictionCase, case_named, prediction_cases, relative_l2};

use crate::{BOUND, On, cpu, device};

/// Bound on the relative L2 error of logits on a device.
const DEVICE_BOUND: f64 = 1e-4;

/// Where the heads run, with the bound there.
fn places() -> Vec<(On, f64)> {
    let device = device().map(|on| (on, DEVICE_BOUND));
    [(cpu(), BOUND)].into_iter().chain(device).collect()
}

fn exact(on: &On) -> ModelOptions {
    on.threads(2).activations(Activations::F32)
}

fn open(case: &PredictionCase, options: &ModelOptions) -> Model {
    Model::open(case.folder.path(), &options.clone().prediction_head(true))
        .unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// Runs `chunk` rows at a time. Returns the logits and the residual stream of all.
fn run(
    executable: &dyn Executable,
    tokens: &[u32],
    vectors: Option<&[f32]>,
    chunk: usize,
) -> (Vec<f32>, Vec<f32>) {
    let mut state = executable.new_state().unwrap();
    let (mut logits, mut stream) = (Vec::new(), Vec::new());
    let width = vectors.map_or(0, |vectors| vectors.len() / tokens.len());
    for (index, tokens) in tokens.chunks(chunk).enumerate() {
        let first = index * chunk * width;
        let vectors = vectors.map(|all| &all[first..first + tokens.len() * width]);
        let (state, wanted, stream) = (&mut *state, Logits::All, Some(&mut stream));
        let run = BackendRun { tokens, vectors, state, wanted, logits: &mut logits, stream };
        pollster::block_on(executable.step(vec![run])).unwrap();
    }
    (logits, stream)
}

/// `x / sqrt(mean(x^2) + eps) * weight`, in f64.
fn norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
    let factor = (mean + f64::from(eps)).sqrt().recip();
    x.iter().zip(weight).map(|(&x, &w)| (f64::from(x) * factor * f64::from(w)) as f32).collect()
}

#[test]
fn logits_of_the_head_equal_the_reference() {
    for case in prediction_cases() {
        let options = CheckOptions::default();
        let Checkpoint { spec, mut weights, prediction_head, .. } =
            Checkpoint::open_with_prediction_head(case.folder.path(), options).unwrap();
        weights.make_resident().unwrap();
        let head = prediction_head.unwrap();
        let of = |x: &[f32], norm: &kinglet::models::Norm| {
            self::norm(x, &weights.norm_weight(norm).unwrap(), norm.eps)
        };
        let table = weights.matrix(&spec.embedding.table).unwrap();
        for (on, bound) in places() {
            let options = exact(&on);
            let model = compile(Arc::new(Plan::new(&spec)), &weights, &options).unwrap();
            let own = Arc::new(Plan::of_prediction_head(&head));
            let own = compile(own, &weights, &options).unwrap();
            for chunk in if on.wgpu { vec![64, 3] } else { vec![64, 7, 1] } {
                let (_, stream) = run(&*model, &case.tokens, None, chunk);
                let rows = stream.chunks_exact(spec.hidden).zip(&case.tokens[1..]);
                let vectors: Vec<f32> = rows
                    .flat_map(|(stream, &next)| {
                        let mut embedding = vec![0.0; spec.hidden];
                        table.decode_row(next as usize, &mut embedding).unwrap();
                        let output = of(stream, &spec.head.norm);
                        [of(&embedding, &head.embedding_norm), of(&output, &head.hidden_norm)]
                    })
                    .flatten()
                    .collect();
                let (logits, _) = run(&*own, &case.tokens[1..], Some(&vectors), chunk);
                let error = relative_l2(&logits, &case.logits);
                assert!(error <= bound, "{} on {}, chunk {chunk}: {error:.2e}", case.name, on.name);
            }
        }
    }
}

/// The drafts after all tokens of the case, however the session came to hold all but the last.
#[test]
fn drafts_equal_the_reference_however_the_tokens_were_fed() {
    for case in prediction_cases() {
        for (on, _) in places() {
            let what = format!("{} on {}", case.name, on.name);
            let model = open(&case, &exact(&on));
            assert!(model.has_prediction_head());
            let (last, tokens) = case.tokens.split_last().unwrap();
            let expect = |session: &Session, how: &str| {
                let drafts = session.predict(*last, case.drafts.len()).unwrap();
                assert_eq!(drafts, case.drafts, "{what}, {how}");
            };
            for chunk in [tokens.len(), 5] {
                let mut session = model.session().unwrap();
                for chunk in tokens.chunks(chunk) {
                    session.feed(chunk).unwrap();
                }
                expect(&session, "fed");
                expect(&session, "asked again");
                assert_eq!(session.predict(*last, 1).unwrap(), case.drafts[..1]);
                assert!(session.predict(*last, 0).unwrap().is_empty());
                // Other tokens, then back.
                let snapshot = session.snapshot().unwrap();
                let mut fork = session.fork().unwrap();
                session.feed(&[1, 2, 3, 4, 5]).unwrap();
                expect(&fork, "forked");
                session.restore(&snapshot).unwrap();
                expect(&session, "restored");
                fork.rewind_and_replay(9).unwrap();
                fork.feed(&tokens[9..]).unwrap();
                expect(&fork, "rewound");
            }
            // A loaded session lacks what the model computed before: the head starts with what follows.
            let mut session = model.session().unwrap();
            session.feed(&tokens[..30]).unwrap();
            let mut saved = Vec::new();
            session.write_to(&mut saved, None).unwrap();
            let mut session = model.read_session(Cursor::new(saved)).unwrap().session;
            assert!(session.predict(*last, 3).unwrap().is_empty(), "{what}");
            session.feed(&tokens[30..]).unwrap();
            assert_eq!(session.predict(*last, 3).unwrap().len(), 3, "{what}");
        }
    }
}

#[test]
fn a_long_prompt_does_not_wait_for_the_head() {
    let case = &prediction_cases()[0];
    let model = open(case, &exact(&cpu()).chunk(64));
    let (last, tokens) = case.tokens.split_last().unwrap();
    // Rows that wait are computed in between, in several pieces.
    let long: Vec<u32> = (0..700).map(|i| i % 90).chain(tokens.iter().copied()).collect();
    let mut at_once = model.session().unwrap();
    at_once.feed(&long).unwrap();
    let mut by_one = model.session().unwrap();
    for token in &long {
        by_one.feed(&[*token]).unwrap();
    }
    let drafts = at_once.predict(*last, 4).unwrap();
    assert_eq!(drafts.len(), 4);
    assert_eq!(drafts, by_one.predict(*last, 4).unwrap());
}

fn answer(
    session: &mut Session,
    options: &SamplingOptions,
    count: usize,
    most: Option<usize>,
) -> (Vec<u32>, SpeculationStats) {
    let mut sampler = Sampler::new(options.clone(), 7).unwrap();
    let mut generation = session.generate(&mut sampler, GenerateOptions::new().ahead(0));
    if let Some(most) = most {
        generation = generation.speculate_with_head(most);
    }
    let answer = (0..count).map(|_| generation.next_token().unwrap().unwrap()).collect();
    let stats = generation.speculation().unwrap_or_default();
    generation.finish().unwrap();
    (answer, stats)
}

#[test]
fn drafts_of_the_head_change_no_answer_and_save_steps() {
    for case in prediction_cases() {
        for (on, _) in places() {
            let without = Model::open(case.folder.path(), &exact(&on)).unwrap();
            let with = open(&case, &exact(&on));
            assert!(!without.has_prediction_head());
            let prompted = |model: &Model| {
                let mut session = model.session().unwrap();
                session.feed(&case.tokens[..case.prompt]).unwrap();
                session
            };
            // The head was trained on the tokens up to there; what follows it mostly gets wrong.
            let trained = case.tokens.len() - case.prompt;
            let drawn = SamplingOptions { temperature: 0.9, top_p: 0.95, ..Default::default() };
            for (options, count) in [
                (SamplingOptions::greedy(), trained),
                (SamplingOptions::greedy(), trained + 40),
                (drawn, 60),
            ] {
                let mut plain = prompted(&without);
                let (expected, _) = answer(&mut plain, &options, count, None);
                for most in [1, 2, 4] {
                    let what = format!("{} on {}, {count}, {most}", case.name, on.name);
                    let mut session = prompted(&with);
                    let (answer, stats) = answer(&mut session, &options, count, Some(most));
                    assert_eq!(answer, expected, "{what}");
                    if count == trained {
                        assert_eq!(answer, case.tokens[case.prompt..], "{what}");
                        // It was trained to be right about one token.
                        assert!(stats.drafted > 0, "{what}");
                        let share = stats.accepted as f64 / stats.drafted as f64;
                        if most == 1 {
                            assert!(share >= 0.9, "{what}: {stats:?}");
                            assert!(10 * stats.steps < 6 * count, "{what}: {stats:?}");
                        }
                    } else {
                        assert!(stats.accepted < stats.drafted, "{what}: {stats:?}");
                    }
                    // The states are equal, and so is what the heads have seen.
                    let next = [5, 6, 7];
                    let logits = session.feed(&next).unwrap().to_vec();
                    let mut fork = plain.fork().unwrap();
                    let error = relative_l2(&logits, fork.feed(&next).unwrap());
                    assert!(error <= 1e-4, "{what}: {error:.2e}");
                    let mut fresh = with.session().unwrap();
                    fresh.feed(session.tokens()).unwrap();
                    let [a, b] = [&session, &fresh].map(|s| s.predict(8, 3).unwrap());
                    assert_eq!(a, b, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_model_without_a_head_says_so() {
    let refused = |name: &str, words: &[&str]| {
        let options = cpu().threads(1).prediction_head(true);
        let error = Model::open(&case_named(name).folder, &options).map(drop).unwrap_err();
        assert!(matches!(error, Error::NoPredictionHead { .. }), "{error}");
        let said = error.to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    refused("qwen3_next/plain", &["multi-token prediction", "no tensors mtp.*"]);
    refused("mamba2/plain", &["multi-token prediction", "mamba2 models have none"]);
    let case = &prediction_cases()[0];
    let model = Model::open(case.folder.path(), &cpu().threads(1)).unwrap();
    let mut session = model.session().unwrap();
    session.feed(&case.tokens[..5]).unwrap();
    assert!(matches!(session.predict(1, 1), Err(Error::Unsupported { .. })));
    // Nothing is drafted, and the answer is the same.
    let greedy = SamplingOptions::greedy();
    let (expected, _) = answer(&mut session.fork().unwrap(), &greedy, 9, None);
    let (answer, stats) = answer(&mut session, &greedy, 9, Some(2));
    assert_eq!((answer, stats.drafted), (expected, 0));
}
