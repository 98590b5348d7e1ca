//! Consecutive answers: what the next turn finds in session and cache; the result must not depend
//! on how an answer is driven.

use kinglet::answer::{Answer, AnswerOptions, AnswerPrompt, Context, EndReason, Event, Sampling};
use kinglet::speculate::DraftModel;
use kinglet::{Cancel, Model, PrefixCache, PrefixCacheOptions, Session};
use kinglet_tests::case_named;
use kinglet_tests::random::Random;

use crate::answer::{ask, demo, greedy, ids, tiny, whole};
use crate::{chosen, cpu, device, device_cases, open, tokens};

/// The tokens of a conversation so far.
fn talk(parts: &[&[u32]]) -> AnswerPrompt {
    AnswerPrompt::text(parts.concat())
}

#[test]
fn the_next_turn_computes_what_is_new() {
    for case in chosen() {
        let model = open(&case, &cpu().threads(1));
        let mut random = Random::named(&case.name);
        let first = tokens(&mut random, model.vocab(), 70);
        let new = tokens(&mut random, model.vocab(), 9);
        let mut cache = PrefixCache::new(&model, PrefixCacheOptions::new().every(0)).unwrap();
        let mut session = model.session().unwrap();
        let mut turn = |session: &mut Session, prompt: AnswerPrompt, options: &AnswerOptions| {
            let mut answer = Answer::new(session, &ids(), prompt, options).unwrap();
            whole(&mut answer, session, Some(&mut cache)).unwrap()
        };
        let options = greedy().max_tokens(11).context(Context::Unlimited);
        let cut = turn(&mut session, talk(&[&first]), &options);
        let stats = cut.end.stats;
        assert_eq!((stats.prompt, stats.reused, stats.computed), (70, 0, 70), "{}", case.name);
        // Cut off: the next prompt contains all of it, and more.
        let second = turn(&mut session, talk(&[&first, &cut.tokens, &new]), &options);
        assert_eq!((second.end.stats.reused, second.end.stats.computed), (81, 9), "{}", case.name);
        // The last token differs in the next prompt: the state before it is reused, in another
        // session too.
        let mut other = model.session().unwrap();
        let mut changed = cut.tokens.clone();
        changed[10] = (changed[10] + 1) % model.vocab() as u32;
        let third = turn(&mut other, talk(&[&first, &changed, &new]), &options);
        assert_eq!(third.end.stats.reused, 80, "{}", case.name);
        // Ended by a stop token, which the template may replace.
        let stop = cut.tokens[6];
        let at = cut.tokens.iter().position(|&id| id == stop).unwrap();
        let options = options.stop_token(stop);
        let ended = turn(&mut session, talk(&[&first]), &options);
        assert_eq!((ended.end.stats.reused, ended.tokens.len()), (70, at + 1), "{}", case.name);
        let eos = (stop + 1) % model.vocab() as u32;
        let next = turn(&mut session, talk(&[&first, &ended.tokens[..at], &[eos], &new]), &options);
        assert_eq!(next.end.stats.reused, 70 + at, "{}", case.name);
        // The session's state equals a computed one.
        let prompt = [&first[..], &ended.tokens[..at], &[eos], &new].concat();
        let (fresh, _) = ask(&model, &ids(), AnswerPrompt::text(prompt), &options).unwrap();
        assert_eq!(next.tokens, fresh.tokens, "{}", case.name);
    }
}

#[test]
fn without_a_cache_the_session_itself_is_gone_on_from() {
    let model = tiny();
    let mut session = model.session().unwrap();
    let options = greedy().max_tokens(5);
    let mut turn = |prompt: AnswerPrompt| {
        let mut answer = Answer::new(&session, &ids(), prompt, &options).unwrap();
        whole(&mut answer, &mut session, None).unwrap()
    };
    let one = turn(talk(&[&[1, 2, 3]]));
    let two = turn(talk(&[&[1, 2, 3], &one.tokens, &[4]]));
    assert_eq!((two.end.stats.reused, two.end.stats.computed), (8, 1));
    // A different beginning: computed from the start.
    let three = turn(talk(&[&[1, 2, 3], &one.tokens]));
    assert_eq!((three.end.stats.reused, three.end.stats.computed), (0, 8));
    // A plain continuation reuses everything.
    let four = turn(AnswerPrompt::after([]));
    let (long, _) =
        ask(&model, &ids(), talk(&[&[1, 2, 3], &one.tokens]), &greedy().max_tokens(10)).unwrap();
    assert_eq!([&three.tokens[..], &four.tokens].concat(), long.tokens);
    assert_eq!(session.position(), 18);
}

#[test]
fn a_session_continues_after_a_cancellation_in_the_prompt_or_the_answer() {
    let options = cpu().threads(1).chunk(64);
    let model = open(&case_named("granitemoehybrid/mixed"), &options);
    let prompt = tokens(&mut Random::named("cancel"), model.vocab(), 700);
    let options = greedy().max_tokens(9);
    let (plain, _) = ask(&model, &ids(), AnswerPrompt::text(prompt.clone()), &options).unwrap();
    let pieces = plain.events.len() - 9;
    assert!(pieces > 5, "{pieces}");
    for make in [AnswerPrompt::text, AnswerPrompt::after] {
        for cached in [false, true] {
            for lookup in [0, 4] {
                let cancel = Cancel::new();
                let options = options.clone().cancel(cancel.clone()).lookup(lookup);
                let mut cache = PrefixCache::new(&model, PrefixCacheOptions::default()).unwrap();
                let mut session = model.session().unwrap();
                let mut answer =
                    Answer::new(&session, &ids(), make(prompt.clone()), &options).unwrap();
                let mut events = Vec::new();
                loop {
                    let mut next =
                        |session: &mut Session| answer.next(session, cached.then_some(&mut cache));
                    // Once before each event.
                    cancel.set();
                    let stopped = next(&mut session);
                    cancel.clear();
                    match stopped {
                        Err(error) => assert!(error.is_cancelled(), "{error}"),
                        // Nothing was left to compute.
                        Ok(Some(Event::End(_))) => break,
                        other => panic!("{other:?}"),
                    }
                    assert!(!session.is_poisoned());
                    match next(&mut session).unwrap() {
                        Some(Event::End(_)) | None => break,
                        Some(event) => events.push(event),
                    }
                }
                assert_eq!(events, plain.events, "cached: {cached}, {lookup} guesses");
                assert_eq!(session.tokens(), [&prompt[..], &plain.tokens].concat());
            }
        }
    }
}

#[test]
fn a_prompt_that_is_stopped_leaves_what_it_has_got_to() {
    let model = open(&case_named("granitemoehybrid/mixed"), &cpu().threads(1).chunk(64));
    let prompt = tokens(&mut Random::named("stop"), model.vocab(), 700);
    let mut cache = PrefixCache::new(&model, PrefixCacheOptions::default()).unwrap();
    let mut session = model.session().unwrap();
    let mut answer =
        Answer::new(&session, &ids(), AnswerPrompt::text(prompt.clone()), &greedy()).unwrap();
    let mut events = answer.events(&mut session, Some(&mut cache));
    assert_eq!(events.next().unwrap().unwrap(), Event::Prompt { done: 0, total: 700 });
    assert_eq!(events.next().unwrap().unwrap(), Event::Prompt { done: 64, total: 700 });
    events.stop().unwrap();
    let Some(Ok(Event::End(end))) = events.next() else { panic!("no end") };
    drop(events);
    assert_eq!((end.reason, end.stats.computed), (EndReason::Stopped, 64));
    assert_eq!((session.position(), cache.stats().computed), (64, 64));
    // The next question continues from there.
    let options = greedy().max_tokens(1);
    let mut answer = Answer::new(&session, &ids(), AnswerPrompt::text(prompt), &options).unwrap();
    let all = whole(&mut answer, &mut session, Some(&mut cache)).unwrap();
    assert_eq!((all.end.stats.reused, all.end.stats.computed), (64, 636));
}

/// A way to drive an answer.
#[derive(Clone, Copy, Debug)]
enum Drive {
    Blocking,
    Async,
    /// The session is inspected after each token.
    Paused,
}

fn drive(
    model: &Model,
    prompt: &[u32],
    options: &AnswerOptions,
    draft: Option<&Model>,
    how: Drive,
) -> (Vec<u32>, EndReason, Vec<f32>) {
    let mut session = model.session().unwrap();
    let prompt = AnswerPrompt::text(prompt);
    let mut answer = Answer::new(&session, &ids(), prompt, options).unwrap();
    if let Some(draft) = draft {
        answer = answer.speculate(DraftModel::new(draft, model).unwrap(), 5);
    }
    loop {
        let event = match how {
            Drive::Async => pollster::block_on(answer.next_async(&mut session, None)),
            _ => answer.next(&mut session, None),
        };
        match event.unwrap() {
            Some(Event::End(end)) => {
                assert_eq!(end.stats.speculation.is_some(), options.lookup > 0 || draft.is_some());
                break;
            }
            None => panic!("no end"),
            Some(_) if matches!(how, Drive::Paused) => {
                answer.pause(&mut session).unwrap();
                session.snapshot().unwrap();
            }
            Some(_) => {}
        }
    }
    assert!(!session.is_poisoned());
    let held = [answer.tokens()[..].to_vec()].concat();
    assert!(session.tokens().ends_with(&held));
    // The state, compared by its logits for a next token.
    let logits = session.feed(&[1]).unwrap().to_vec();
    (answer.tokens().to_vec(), answer.reason().unwrap().clone(), logits)
}

#[test]
fn how_it_is_driven_and_what_guesses_change_nothing() {
    let mut all: Vec<_> = ["granitemoehybrid/mixed", "llama/plain", "xlstm/plain"]
        .map(|name| (case_named(name), cpu()))
        .into();
    if let Some(device) = device() {
        all.extend(device_cases().into_iter().take(1).map(|case| (case, device.clone())));
    }
    let drawn =
        Sampling { temperature: Some(0.9), repetition_penalty: Some(1.2), ..Sampling::new() };
    for (case, on) in all {
        let model = open(&case, &on.threads(1));
        let prompt = [3, 4, 5, 6, 3, 4, 5, 6, 3, 4];
        for sampling in [Sampling::greedy(), drawn.clone()] {
            let options = AnswerOptions::new().sampling(sampling).seed(7).max_tokens(23);
            let options = options.context(Context::Unlimited);
            let single = options.clone().ahead(0);
            let expected = drive(&model, &prompt, &single, None, Drive::Blocking);
            assert_eq!((expected.0.len(), &expected.1), (23, &EndReason::MaxTokens));
            // The software adapter is slow.
            let ways = if on.wgpu { 1 } else { 3 };
            for how in [Drive::Async, Drive::Blocking, Drive::Paused].into_iter().take(ways) {
                for (options, draft) in [
                    (options.clone(), None),
                    (options.clone().lookup(6), None),
                    (options.clone(), Some(&model)),
                ] {
                    let what = format!("{} on {}: {how:?}, {options:?}", case.name, on.name);
                    let got = drive(&model, &prompt, &options, draft, how);
                    assert_eq!((&got.0, &got.1), (&expected.0, &expected.1), "{what}");
                    let error = kinglet_tests::relative_l2(&got.2, &expected.2);
                    assert!(error <= 1e-4, "{what}: another state, {error:.2e}");
                }
            }
        }
    }
}

#[test]
fn random_numbers_continue_from_answer_to_answer() {
    let model = tiny();
    let sampling = Sampling { temperature: Some(1.0), ..Sampling::new() };
    let options = AnswerOptions::new().sampling(sampling).seed(5);
    let mut session = model.session().unwrap();
    let mut turn = |options: &AnswerOptions, random: Option<&kinglet::sampling::SamplerState>| {
        let mut answer = Answer::new(&session, &ids(), AnswerPrompt::after([1]), options).unwrap();
        if let Some(random) = random {
            answer = answer.go_on_from(random);
        }
        let all = whole(&mut answer, &mut session, None).unwrap();
        let state = answer.sampler_state().clone();
        session.reset().unwrap();
        (all.tokens, state, answer.seed())
    };
    let (long, _, seed) = turn(&options.clone().max_tokens(12), None);
    assert_eq!(seed, 5);
    let (first, random, _) = turn(&options.clone().max_tokens(6), None);
    assert_eq!(first, long[..6]);
    let (again, _, _) = turn(&options.clone().max_tokens(6), Some(&random));
    assert_ne!(again, first, "other random numbers");
    let mut unseeded = options.max_tokens(6);
    unseeded.seed = None;
    let seeds: Vec<u64> = (0..4).map(|_| turn(&unseeded, None).2).collect();
    assert!(seeds.iter().all(|seed| *seed < 1 << 53) && seeds[0] != seeds[1], "{seeds:?}");
}

#[test]
fn a_chat_ends_by_itself_and_its_next_turn_begins_at_its_end() {
    use kinglet::text::{ChatTemplate, Conversation, Message};
    let (model, defaults) = demo();
    let template = ChatTemplate::from_folder(model.folder()).unwrap();
    let tokenizer = defaults.require_tokenizer().unwrap();
    let mut cache = PrefixCache::new(&model, PrefixCacheOptions::default()).unwrap();
    let mut session = model.session().unwrap();
    let mut chat = Conversation::default();
    let mut held = 0;
    for text in ["Tell me a story about a dog.", "Tell me another one."] {
        chat.messages.push(Message::user(text));
        let prompt = chat.prompt(&template, tokenizer).unwrap();
        let options = AnswerOptions::new().seed(1);
        let prompt = AnswerPrompt::chat(prompt);
        let mut answer = Answer::new(&session, &defaults, prompt, &options).unwrap();
        let all = whole(&mut answer, &mut session, Some(&mut cache)).unwrap();
        assert!(matches!(all.end.reason, EndReason::StopToken(_)), "{:?}", all.end);
        assert_eq!(all.end.stats.reused, held);
        assert_eq!(session.position(), all.end.stats.prompt + all.tokens.len() - 1);
        held = session.position();
        chat.messages.push(Message::assistant(all.text));
    }
}
