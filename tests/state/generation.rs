//! Generating equals sampling and feeding one token after another, however far a device runs ahead
//! and wherever the answer ends.

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::{Cancel, Error, GenerateOptions, Generation, Logits, Model, Retain, Run, Session};
use kinglet_tests::Case;
use kinglet_tests::random::Random;
use kinglet_tests::temp::TempDir;
use kinglet_tests::tensors::Tensors;
use safetensors::SafeTensors;

use crate::{device, everywhere, open, runs_on_device, tokens};

/// A prompt length that is neither a multiple of the step size nor of the interval of kept states.
const PROMPT: usize = 5;

/// Ends of answers around the number of steps in flight, and around the positions of kept states.
const ENDS: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 15, 16, 17, 18, 19, 32, 34];

fn ways() -> Vec<SamplingOptions> {
    let drawn = SamplingOptions { temperature: 0.9, ..Default::default() };
    let few = SamplingOptions { top_k: 12, top_p: 0.9, min_p: 0.01, ..drawn.clone() };
    vec![SamplingOptions::greedy(), drawn, few]
}

/// An answer, token by token.
struct Reference {
    sampler: SamplingOptions,
    tokens: Vec<u32>,
    /// The logits that each token was sampled from, and those after the last.
    logits: Vec<Vec<f32>>,
    samplers: Vec<Sampler>,
}

fn prompt(model: &Model, case: &Case) -> (Session, Vec<u32>) {
    let prompt = tokens(&mut Random::named(&case.name), model.vocab(), PROMPT);
    let mut session = model.session().unwrap();
    session.feed(&prompt).unwrap();
    (session, prompt)
}

fn reference(model: &Model, case: &Case, options: &SamplingOptions, count: usize) -> Reference {
    let (mut session, _) = prompt(model, case);
    let mut sampler = Sampler::new(options.clone(), 11).unwrap();
    let (mut tokens, mut logits, mut samplers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        logits.push(session.last_logits().unwrap().to_vec());
        samplers.push(sampler.clone());
        let token = sampler.sample(session.last_logits().unwrap()).unwrap();
        sampler.accept(token);
        tokens.push(token);
        session.feed(&[token]).unwrap();
    }
    logits.push(session.last_logits().unwrap().to_vec());
    samplers.push(sampler);
    Reference { sampler: options.clone(), tokens, logits, samplers }
}

/// Checks that a session and the sampler are in the state after `count` tokens of the answer.
fn check(
    session: &mut Session,
    sampler: &Sampler,
    prompt: &[u32],
    at: usize,
    all: &Reference,
    what: &str,
) {
    let held = at.saturating_sub(1);
    let expected = [prompt, &all.tokens[..held]].concat();
    assert_eq!(session.tokens(), expected, "{what}");
    assert!(!session.is_poisoned(), "{what}");
    assert_eq!(session.last_logits(), Some(&all.logits[held][..]), "{what}: last logits");
    assert_eq!(sampler.state(), all.samplers[at].state(), "{what}: the sampler");
    // The state, compared by its logits for the next tokens.
    for next in held..(held + 2).min(all.tokens.len()) {
        let logits = session.feed(&[all.tokens[next]]).unwrap();
        assert_eq!(logits, all.logits[next + 1], "{what}: the state");
    }
}

fn take(generation: &mut Generation<'_>, count: usize) -> Vec<u32> {
    (0..count).map(|_| generation.next_token().unwrap().expect("there is no limit")).collect()
}

#[test]
fn an_answer_can_end_anywhere() {
    for (case, on) in everywhere() {
        if !runs_on_device(&case) {
            continue;
        }
        let model = open(&case, &on.threads(1));
        assert_eq!(model.decodes_ahead(), on.wgpu);
        for (way, options) in ways().into_iter().enumerate() {
            let all = reference(&model, &case, &options, 37);
            for (index, &end) in ENDS.iter().enumerate() {
                // Each way with a third of the ends, and with other numbers of steps in flight.
                if on.wgpu && (index + way) % 3 != 0 {
                    continue;
                }
                let ahead = [4, 1, 7, 3, 20][(index / 3 + way) % 5];
                let what = format!(
                    "{} on {}, {end} tokens, {ahead} ahead, {options:?}",
                    case.name, on.name
                );
                let (mut session, prompt) = prompt(&model, &case);
                let mut sampler = Sampler::new(options.clone(), 11).unwrap();
                let mut generation =
                    session.generate(&mut sampler, GenerateOptions::new().ahead(ahead));
                assert_eq!(take(&mut generation, end), all.tokens[..end], "{what}");
                assert_eq!(generation.is_ahead(), on.wgpu && end > 1, "{what}");
                assert_eq!(generation.position(), PROMPT + end.saturating_sub(1));
                generation.finish().unwrap();
                check(&mut session, &sampler, &prompt, end, &all, &what);
            }
        }
    }
}

#[test]
fn a_limit_of_tokens_ends_it_without_more_steps() {
    for (case, on) in everywhere() {
        if !runs_on_device(&case) {
            continue;
        }
        let model = open(&case, &on.threads(1));
        let all = reference(&model, &case, &ways()[2], 21);
        for most in [0, 1, 2, 3, 5, 6, 18] {
            let what = format!("{} on {}, at most {most}", case.name, on.name);
            let (mut session, prompt) = prompt(&model, &case);
            let mut sampler = Sampler::new(all.sampler.clone(), 11).unwrap();
            let options = GenerateOptions::new().max_tokens(most);
            let mut generation = session.generate(&mut sampler, options);
            assert_eq!(take(&mut generation, most), all.tokens[..most], "{what}");
            for _ in 0..2 {
                assert_eq!(generation.next_token().unwrap(), None, "{what}");
            }
            drop(generation);
            check(&mut session, &sampler, &prompt, most, &all, &what);
        }
    }
}

#[test]
fn a_full_context_and_a_flag_stop_where_single_steps_would() {
    for (case, on) in everywhere() {
        if !runs_on_device(&case) {
            continue;
        }
        let model = open(&case, &on.threads(1).context_limit(PROMPT + 8));
        let all = {
            let unlimited = open(&case, &on.threads(1));
            reference(&unlimited, &case, &ways()[0], 12)
        };
        let (mut session, prompt) = prompt(&model, &case);
        let mut sampler = Sampler::new(all.sampler.clone(), 11).unwrap();
        let mut generation = session.generate(&mut sampler, GenerateOptions::new());
        assert_eq!(take(&mut generation, 9), all.tokens[..9]);
        for _ in 0..2 {
            let error = generation.next_token().unwrap_err();
            assert!(
                matches!(error, Error::ContextFull { held: 13, more: 1, limit: 13 }),
                "{error}"
            );
        }
        drop(generation);
        let what = format!("{} on {}, full", case.name, on.name);
        assert_eq!(session.tokens(), [&prompt[..], &all.tokens[..8]].concat(), "{what}");
        assert_eq!(session.last_logits().unwrap(), all.logits[8], "{what}");

        for stop in 0..7 {
            let what = format!("{} on {}, stopped after {stop}", case.name, on.name);
            let (mut session, prompt) = self::prompt(&model, &case);
            let cancel = Cancel::new();
            session.set_cancel(Some(cancel.clone()));
            let mut sampler = Sampler::new(all.sampler.clone(), 11).unwrap();
            let mut generation = session.generate(&mut sampler, GenerateOptions::new().ahead(3));
            assert_eq!(take(&mut generation, stop), all.tokens[..stop], "{what}");
            cancel.set();
            for _ in 0..2 {
                assert!(matches!(generation.next_token(), Err(Error::Cancelled)), "{what}");
            }
            if stop % 2 == 0 {
                // It can continue.
                cancel.clear();
                assert_eq!(take(&mut generation, 1), all.tokens[stop..stop + 1], "{what}");
                generation.finish().unwrap();
                session.set_cancel(None);
                let Reference { tokens, .. } = &all;
                assert_eq!(session.tokens(), [&prompt[..], &tokens[..stop]].concat(), "{what}");
                assert_eq!(session.last_logits().unwrap(), all.logits[stop], "{what}");
            } else {
                generation.finish().unwrap();
                session.set_cancel(None);
                assert_eq!(session.position(), PROMPT + stop - 1);
                assert_eq!(session.last_logits().unwrap(), all.logits[stop - 1], "{what}");
            }
        }
    }
}

#[test]
fn sessions_take_turns_while_a_device_is_ahead() {
    for (case, on) in everywhere() {
        if !runs_on_device(&case) {
            continue;
        }
        let model = open(&case, &on.threads(1));
        let all: Vec<Reference> =
            ways().iter().take(2).map(|way| reference(&model, &case, way, 12)).collect();
        let mut sessions: Vec<Session> = (0..3).map(|_| prompt(&model, &case).0).collect();
        let mut samplers: Vec<Sampler> =
            all.iter().map(|all| Sampler::new(all.sampler.clone(), 11).unwrap()).collect();
        let (two, third) = sessions.split_at_mut(2);
        let mut generations: Vec<Generation<'_>> = two
            .iter_mut()
            .zip(&mut samplers)
            .map(|(session, sampler)| session.generate(sampler, GenerateOptions::new()))
            .collect();
        let mut third = model.session().unwrap_or_else(|_| third[0].fork().unwrap());
        let mut got = [Vec::new(), Vec::new()];
        for (turn, which) in [0, 1, 0, 0, 1, 2, 1, 1, 2, 0, 0, 0, 2, 1, 0].into_iter().enumerate() {
            if which == 2 {
                let ids = [turn as u32, 2, 3];
                let run = Run { session: &mut third, tokens: &ids, logits: Logits::Last };
                model.step(&mut [run]).unwrap();
                continue;
            }
            got[which].extend(take(&mut generations[which], 1));
        }
        drop(generations);
        for (got, all) in got.iter().zip(&all) {
            assert_eq!(*got, all.tokens[..got.len()], "{} on {}", case.name, on.name);
        }
    }
}

#[test]
fn what_needs_logits_on_the_host_is_not_decoded_ahead() {
    let Some(on) = device() else { return };
    let case = kinglet_tests::case_named("mamba2/plain");
    let model = open(&case, &on.threads(1));
    // Penalties, and states that are retained with their logits.
    let penalty = SamplingOptions { repetition_penalty: 1.2, ..SamplingOptions::greedy() };
    for (options, retain) in [(penalty, 0), (SamplingOptions::greedy(), 4)] {
        let all = reference(&model, &case, &options, 12);
        let (mut session, prompt) = prompt(&model, &case);
        session.retain(Retain { every: retain, points: 8 });
        let mut sampler = Sampler::new(options, 11).unwrap();
        let mut generation = session.generate(&mut sampler, GenerateOptions::new());
        assert_eq!(take(&mut generation, 9), all.tokens[..9]);
        assert!(!generation.is_ahead());
        generation.finish().unwrap();
        if retain > 0 {
            assert_eq!(session.marks().collect::<Vec<_>>(), [8, 12]);
        }
        check(&mut session, &sampler, &prompt, 9, &all, "on the host");
    }
}

#[test]
fn without_logits_there_is_nothing_to_begin_with() {
    for (case, on) in everywhere().into_iter().filter(|(case, _)| runs_on_device(case)) {
        let model = open(&case, &on.threads(1));
        let mut session = model.session().unwrap();
        let mut sampler = Sampler::new(SamplingOptions::greedy(), 0).unwrap();
        let error = session.generate(&mut sampler, GenerateOptions::new()).next_token();
        assert!(matches!(error, Err(Error::NoLogits)), "{error:?}");
        session.feed(&[1, 2]).unwrap();
        assert!(session.generate(&mut sampler, GenerateOptions::new()).next_token().is_ok());
    }
}

#[test]
fn going_back_copies_no_keys_and_values() {
    let Some(on) = device() else { return };
    let case = kinglet_tests::case_named("llama/plain");
    let model = open(&case, &on.threads(1));
    let (mut session, prompt) = prompt(&model, &case);
    // Something else holds the prompt too, such as a prefix cache.
    session.mark().unwrap();
    let fork = session.fork().unwrap();
    let mut sampler = Sampler::new(SamplingOptions::greedy(), 0).unwrap();
    let mut generation = session.generate(&mut sampler, GenerateOptions::new());
    let first = take(&mut generation, 8);
    generation.finish().unwrap();
    let logits = 4 * model.vocab();
    assert_eq!(session.retained_bytes(), logits, "the mark shares the session's cache");
    session.feed(&[1, 2, 3]).unwrap();
    assert_eq!(session.retained_bytes(), logits, "and still does");
    // The fork must diverge, and the mark's position must remain.
    let mut fork = fork;
    let mut sampler = Sampler::new(SamplingOptions::greedy(), 0).unwrap();
    let mut generation = fork.generate(&mut sampler, GenerateOptions::new());
    assert_eq!(take(&mut generation, 8), first);
    drop(generation);
    session.rewind(PROMPT).unwrap();
    assert_eq!(session.tokens(), prompt);
    let mut sampler = Sampler::new(SamplingOptions::greedy(), 0).unwrap();
    let mut generation = session.generate(&mut sampler, GenerateOptions::new());
    assert_eq!(take(&mut generation, 8), first);
}

/// The case `name` with its vocabulary repeated `times`, so that every token has as many equals.
fn repeated(name: &str, times: usize) -> (TempDir, Case) {
    let case = kinglet_tests::case_named(name);
    let vocab = case.vocab();
    let folder = TempDir::new();
    let bytes = std::fs::read(case.folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = Tensors::default();
    for (name, view) in file.tensors() {
        let rows = view.shape()[0] == vocab && view.shape().len() == 2;
        let mut shape = view.shape().to_vec();
        shape[0] *= if rows { times } else { 1 };
        let data = view.data().repeat(if rows { times } else { 1 });
        tensors.push_bytes(&name, &shape, &format!("{:?}", view.dtype()), &data);
    }
    std::fs::write(folder.path().join("model.safetensors"), tensors.file()).unwrap();
    let config = std::fs::read_to_string(case.folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["vocab_size"] = (vocab * times).into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let case = Case { folder: folder.path().into(), ..case };
    (folder, case)
}

#[test]
fn what_a_device_leaves_to_the_host_is_chosen_there() {
    let Some(on) = device() else { return };
    let (_folder, case) = repeated("mamba2/plain", 40);
    let model = open(&case, &on.threads(1));
    assert!(model.vocab() > 3000);
    // Nearly all tokens are candidates: more than a device sorts.
    let options = SamplingOptions { temperature: 3.0, top_p: 0.99, ..Default::default() };
    let all = reference(&model, &case, &options, 24);
    for end in [1, 2, 3, 5, 8, 20] {
        let (mut session, prompt) = prompt(&model, &case);
        let mut sampler = Sampler::new(options.clone(), 11).unwrap();
        let mut generation = session.generate(&mut sampler, GenerateOptions::new().ahead(3));
        assert_eq!(take(&mut generation, end), all.tokens[..end], "{end} tokens");
        assert!(!generation.is_ahead(), "it was left to the host");
        generation.finish().unwrap();
        check(&mut session, &sampler, &prompt, end, &all, &format!("{end} tokens"));
    }
    // More candidates than fit are not even tried.
    let options = SamplingOptions { top_k: 1025, ..Default::default() };
    let all = reference(&model, &case, &options, 6);
    let (mut session, _) = prompt(&model, &case);
    let mut sampler = Sampler::new(options, 11).unwrap();
    let mut generation = session.generate(&mut sampler, GenerateOptions::new());
    assert_eq!(take(&mut generation, 4), all.tokens[..4]);
    assert!(!generation.is_ahead());
}
