//! The loop from a prompt to an answer: how it ends, what it leaves in the session, and that nothing depends on how it is driven.

use kinglet::answer::{
    Answer, AnswerDefaults, AnswerEnd, AnswerError, AnswerOptions, AnswerPrompt, Context,
    DEFAULT_MAX_TOKENS, EndReason, Event, Sampling,
};
use kinglet::speculate::DraftModel;
use kinglet::text::{GenerationConfig, StopTokens};
use kinglet::{Cancel, Error, Model, ModelOptions, PrefixCache, PrefixCacheOptions, Session};
use kinglet_tests::case_named;
use kinglet_tests::random::Random;

use crate::{chosen, cpu, device, device_cases, open, tokens};

/// Without a tokenizer, and without anything that would end an answer.
fn ids() -> AnswerDefaults {
    AnswerDefaults::default()
}

fn greedy() -> AnswerOptions {
    AnswerOptions::new().sampling(Sampling::greedy())
}

fn tiny() -> Model {
    open(&case_named("granitemoehybrid/mixed"), &cpu().threads(1))
}

/// All of an answer.
struct Whole {
    events: Vec<Event>,
    end: AnswerEnd,
    text: String,
    tokens: Vec<u32>,
}

fn whole(
    answer: &mut Answer<'_>,
    session: &mut Session,
    cache: Option<&mut PrefixCache>,
) -> Result<Whole, AnswerError> {
    let mut events: Vec<Event> = answer.events(session, cache).collect::<Result<_, _>>()?;
    let Some(Event::End(end)) = events.pop() else { panic!("no end: {events:?}") };
    let pieces = events.iter().filter_map(|event| match event {
        Event::Token { text, .. } => Some(text.as_str()),
        _ => None,
    });
    let text = pieces.chain([end.text.as_str()]).collect::<String>();
    let given = events.iter().filter_map(|event| match event {
        Event::Token { id, .. } => Some(*id),
        _ => None,
    });
    let given: Vec<u32> = given.collect();
    assert_eq!((answer.text(), answer.tokens()), (text.as_str(), &given[..]));
    assert_eq!((answer.reason(), answer.stats()), (Some(&end.reason), end.stats));
    assert_eq!(end.stats.generated, given.len());
    assert_eq!(answer.next(session, None).unwrap(), None, "nothing after the end");
    Ok(Whole { events, end, text, tokens: given })
}

/// An answer to `prompt` in a session of its own, and that session.
fn ask(
    model: &Model,
    defaults: &AnswerDefaults,
    prompt: AnswerPrompt,
    options: &AnswerOptions,
) -> Result<(Whole, Session), AnswerError> {
    let mut session = model.session()?;
    let mut answer = Answer::new(&session, defaults, prompt, options)?;
    let whole = whole(&mut answer, &mut session, None)?;
    assert!(!session.is_poisoned());
    Ok((whole, session))
}

fn demo() -> (Model, AnswerDefaults) {
    let folder = kinglet_tests::fixtures().join("../../models/demo/hybrid");
    let model = Model::open(&folder, &ModelOptions::new().backend(kinglet::Backend::Cpu)).unwrap();
    let defaults = AnswerDefaults::of(&model).unwrap();
    (model, defaults)
}

fn text_prompt(defaults: &AnswerDefaults, text: &str) -> AnswerPrompt {
    let tokenizer = defaults.require_tokenizer().unwrap();
    AnswerPrompt::text(tokenizer.encode(text, Default::default()).unwrap())
}

#[test]
fn the_context_is_full_when_prompt_and_answer_fill_it() {
    let limited = |limit: usize| {
        open(&case_named("granitemoehybrid/mixed"), &cpu().threads(1).context_limit(limit))
    };
    let (free, bounded) = (tiny(), limited(20));
    for prompt in [1, 8, 18, 19] {
        let tokens: Vec<u32> = (0..prompt as u32).collect();
        // The session's own limit, the option's, and both.
        for (model, context) in [
            (&bounded, Context::Unlimited),
            (&free, Context::Tokens(20)),
            (&bounded, Context::Tokens(90)),
        ] {
            for make in [AnswerPrompt::text, AnswerPrompt::after] {
                let options = greedy().context(context);
                let (all, session) = ask(model, &ids(), make(tokens.clone()), &options).unwrap();
                assert_eq!(
                    (all.tokens.len(), all.end.reason),
                    (20 - prompt, EndReason::ContextFull)
                );
                assert_eq!(session.tokens(), [&tokens[..], &all.tokens].concat());
                // The bound that was asked for is told where both are reached.
                let options = options.max_tokens(20 - prompt);
                let (all, _) = ask(model, &ids(), make(tokens.clone()), &options).unwrap();
                assert_eq!((all.tokens.len(), all.end.reason), (20 - prompt, EndReason::MaxTokens));
            }
        }
    }
    for count in [20, 21, 40] {
        for make in [AnswerPrompt::text, AnswerPrompt::after] {
            let error =
                ask(&bounded, &ids(), make(vec![1; count]), &greedy()).map(drop).unwrap_err();
            let is = matches!(error, AnswerError::PromptTooLong { tokens, limit: 20 } if tokens == count);
            assert!(is, "{count}: {error}");
        }
    }
    // What goes on from a session counts what it holds.
    let mut session = bounded.session().unwrap();
    session.feed(&[1; 15]).unwrap();
    let mut answer = Answer::new(&session, &ids(), AnswerPrompt::after([2, 3]), &greedy()).unwrap();
    assert_eq!(whole(&mut answer, &mut session, None).unwrap().tokens.len(), 3);
    let mut answer = Answer::new(&session, &ids(), AnswerPrompt::after([]), &greedy()).unwrap();
    let error = answer.next(&mut session, None).unwrap_err();
    assert!(matches!(error, AnswerError::PromptTooLong { tokens: 20, limit: 20 }), "{error}");
}

#[test]
fn rotary_positions_end_where_the_model_was_made_for() {
    let model = open(&case_named("qwen3/plain"), &cpu().threads(1));
    let options = greedy().max_tokens(300);
    let (all, _) = ask(&model, &ids(), AnswerPrompt::text([1]), &options).unwrap();
    assert_eq!((all.tokens.len(), all.end.reason), (255, EndReason::ContextFull));
    let options = options.context(Context::Unlimited);
    let (all, _) = ask(&model, &ids(), AnswerPrompt::text([1]), &options).unwrap();
    assert_eq!((all.tokens.len(), all.end.reason), (300, EndReason::MaxTokens));
    // Recurrent layers have no end.
    let model = open(&case_named("mamba2/plain"), &cpu().threads(1));
    let options = greedy().max_tokens(300);
    let (all, _) = ask(&model, &ids(), AnswerPrompt::text([1]), &options).unwrap();
    assert_eq!((all.tokens.len(), all.end.reason), (300, EndReason::MaxTokens));
}

#[test]
fn the_longest_answer_is_the_options_the_models_or_the_default() {
    let model = tiny();
    let with = |most: Option<u32>| AnswerDefaults {
        config: GenerationConfig { max_new_tokens: most, ..Default::default() },
        ..Default::default()
    };
    let count = |defaults: &AnswerDefaults, options: AnswerOptions| {
        let (all, _) = ask(&model, defaults, AnswerPrompt::text([1]), &options).unwrap();
        assert_eq!(all.end.reason, EndReason::MaxTokens);
        all.tokens.len()
    };
    let options = greedy().context(Context::Unlimited);
    assert_eq!(count(&with(Some(7)), options.clone()), 7);
    assert_eq!(count(&with(Some(7)), options.clone().max_tokens(9)), 9);
    assert_eq!(count(&with(Some(7)), options.clone().max_tokens(0)), 0);
    assert_eq!(count(&with(None), options.clone()), DEFAULT_MAX_TOKENS);
    assert_eq!(with(Some(0)).max_tokens(None), DEFAULT_MAX_TOKENS);
}

#[test]
fn a_stop_token_ends_it_and_is_not_in_the_session() {
    let model = tiny();
    let prompt = [3, 1, 4, 1, 5];
    let options = greedy().max_tokens(12);
    let (plain, session) = ask(&model, &ids(), AnswerPrompt::text(prompt), &options).unwrap();
    assert_eq!(session.tokens(), [&prompt[..], &plain.tokens].concat());
    let stop = plain.tokens[7];
    let first = plain.tokens.iter().position(|&id| id == stop).unwrap();
    let own = AnswerDefaults { stop_tokens: StopTokens::new([stop]), ..Default::default() };
    for (defaults, options) in [(&own, options.clone()), (&ids(), options.clone().stop_token(stop))]
    {
        let (all, session) = ask(&model, defaults, AnswerPrompt::text(prompt), &options).unwrap();
        assert_eq!(all.tokens, plain.tokens[..=first]);
        assert_eq!(all.end.reason, EndReason::StopToken(stop));
        assert_eq!(session.tokens(), [&prompt[..], &plain.tokens[..first]].concat());
    }
    // The model's own are left out, those that were asked for are not.
    let ignoring = options.clone().ignore_eos(true);
    let (all, _) = ask(&model, &own, AnswerPrompt::text(prompt), &ignoring).unwrap();
    assert_eq!((all.tokens, all.end.reason), (plain.tokens.clone(), EndReason::MaxTokens));
    let ignoring = ignoring.stop_token(stop);
    let (all, _) = ask(&model, &own, AnswerPrompt::text(prompt), &ignoring).unwrap();
    assert_eq!(all.end.reason, EndReason::StopToken(stop));
    // Without its last token where nobody goes on.
    let left = options.keep_last(false);
    let (all, session) = ask(&model, &ids(), AnswerPrompt::text(prompt), &left).unwrap();
    assert_eq!(session.tokens(), [&prompt[..], &all.tokens[..11]].concat());
}

#[test]
fn a_stop_string_ends_it_wherever_tokens_are_cut() {
    let (model, mut defaults) = demo();
    let prompt = text_prompt(&defaults, "Once upon a time");
    let options = greedy().max_tokens(24).ignore_eos(true);
    let (plain, _) = ask(&model, &defaults, prompt.clone(), &options).unwrap();
    assert!(plain.text.starts_with(' '), "it goes on with the prompt: {:?}", plain.text);
    let characters: Vec<usize> = plain.text.char_indices().map(|(at, _)| at).collect();
    let mut across = 0;
    for start in (4..characters.len() - 8).step_by(7) {
        let stop = &plain.text[characters[start]..characters[start + 6]];
        let before = &plain.text[..plain.text.find(stop).unwrap()];
        let (all, session) =
            ask(&model, &defaults, prompt.clone(), &options.clone().stop_string(stop)).unwrap();
        assert_eq!(all.text, before, "{stop:?}");
        assert_eq!(all.end.reason, EndReason::StopString(stop.into()));
        assert_eq!(session.tokens(), [prompt.tokens(), &all.tokens].concat());
        across += usize::from(before.len() < plain.text.len());
        // The same from the model's file.
        let options = greedy().max_tokens(24);
        let config = GenerationConfig { stop_strings: vec![stop.into()], ..Default::default() };
        defaults = AnswerDefaults { config, stop_tokens: StopTokens::default(), ..defaults };
        let (own, _) = ask(&model, &defaults, prompt.clone(), &options).unwrap();
        assert_eq!((own.text, own.end.reason), (all.text, all.end.reason));
        let (ignored, _) =
            ask(&model, &defaults, prompt.clone(), &options.ignore_eos(true)).unwrap();
        assert_eq!((ignored.text, ignored.end.reason), (plain.text.clone(), EndReason::MaxTokens));
    }
    assert!(across > 3);
    // What may still become one is held back, and comes with the last token.
    let end = plain.text.char_indices().nth_back(2).unwrap().0;
    let half = format!("{}\u{1}", &plain.text[end..]);
    let (all, _) =
        ask(&model, &defaults, prompt.clone(), &options.clone().stop_string(half)).unwrap();
    assert_eq!(
        (all.text, all.end.text, all.end.reason),
        (plain.text, "".into(), EndReason::MaxTokens)
    );
    // They are text.
    let error = ask(&model, &ids(), prompt, &options.stop_string("x")).map(drop).unwrap_err();
    assert!(matches!(error, AnswerError::NoTokenizer { .. }), "{error}");
}

#[test]
fn text_held_back_comes_with_the_end_of_an_answer_that_was_stopped() {
    let (model, defaults) = demo();
    let prompt = text_prompt(&defaults, "Once upon a time");
    let (plain, _) = ask(&model, &defaults, prompt.clone(), &greedy().max_tokens(4)).unwrap();
    // Held back from the second token on.
    let options = greedy().stop_string(format!("{}\u{1}", plain.text));
    let mut session = model.session().unwrap();
    let mut answer = Answer::new(&session, &defaults, prompt.clone(), &options).unwrap();
    let mut events = answer.events(&mut session, None);
    while events.answer().tokens().len() < 3 {
        events.next().unwrap().unwrap();
    }
    assert_eq!(events.answer().text(), "");
    events.stop().unwrap();
    let Some(Ok(Event::End(end))) = events.next() else { panic!("no end") };
    assert!(events.next().is_none());
    drop(events);
    assert_eq!(end.reason, EndReason::Stopped);
    assert!(!end.text.is_empty() && plain.text.starts_with(&end.text), "{:?}", end.text);
    assert_eq!(answer.text(), end.text);
    assert_eq!(session.tokens(), [prompt.tokens(), answer.tokens()].concat());
}

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
        // Cut off: the next prompt has all of it, and something behind.
        let second = turn(&mut session, talk(&[&first, &cut.tokens, &new]), &options);
        assert_eq!((second.end.stats.reused, second.end.stats.computed), (81, 9), "{}", case.name);
        // The last token is another one in the next prompt: what was before it is there, in another session too.
        let mut other = model.session().unwrap();
        let mut changed = cut.tokens.clone();
        changed[10] = (changed[10] + 1) % model.vocab() as u32;
        let third = turn(&mut other, talk(&[&first, &changed, &new]), &options);
        assert_eq!(third.end.stats.reused, 80, "{}", case.name);
        // Ended by a stop token: the template may write another one in its place.
        let stop = cut.tokens[6];
        let at = cut.tokens.iter().position(|&id| id == stop).unwrap();
        let options = options.stop_token(stop);
        let ended = turn(&mut session, talk(&[&first]), &options);
        assert_eq!((ended.end.stats.reused, ended.tokens.len()), (70, at + 1), "{}", case.name);
        let eos = (stop + 1) % model.vocab() as u32;
        let next = turn(&mut session, talk(&[&first, &ended.tokens[..at], &[eos], &new]), &options);
        assert_eq!(next.end.stats.reused, 70 + at, "{}", case.name);
        // What it held is what would be computed.
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
    // Off the path: from the beginning.
    let three = turn(talk(&[&[1, 2, 3], &one.tokens]));
    assert_eq!((three.end.stats.reused, three.end.stats.computed), (0, 8));
    // A plain continuation goes on from all of it.
    let four = turn(AnswerPrompt::after([]));
    let (long, _) =
        ask(&model, &ids(), talk(&[&[1, 2, 3], &one.tokens]), &greedy().max_tokens(10)).unwrap();
    assert_eq!([&three.tokens[..], &four.tokens].concat(), long.tokens);
    assert_eq!(session.position(), 18);
}

#[test]
fn it_goes_on_after_a_cancellation_in_the_prompt_and_in_the_answer() {
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
                    // Before each event once.
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
    // The next question goes on from there.
    let options = greedy().max_tokens(1);
    let mut answer = Answer::new(&session, &ids(), AnswerPrompt::text(prompt), &options).unwrap();
    let all = whole(&mut answer, &mut session, Some(&mut cache)).unwrap();
    assert_eq!((all.end.stats.reused, all.end.stats.computed), (64, 636));
}

/// How an answer is driven.
#[derive(Clone, Copy, Debug)]
enum Drive {
    Blocking,
    Async,
    /// Others look at the session after each token.
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
    // The state, by what it makes of a next token.
    let logits = session.feed(&[1]).unwrap().to_vec();
    (answer.tokens().to_vec(), answer.reason().unwrap().clone(), logits)
}

#[test]
fn how_it_is_driven_and_what_guesses_change_nothing() {
    let mut all: Vec<_> = ["granitemoehybrid/mixed", "llama/plain", "xlstm/plain"]
        .map(|name| (case_named(name), cpu()))
        .into();
    if let Some(device) = device() {
        all.extend(device_cases().into_iter().take(2).map(|case| (case, device.clone())));
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
            for how in [Drive::Blocking, Drive::Async, Drive::Paused] {
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
fn random_numbers_go_on_from_answer_to_answer() {
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
fn what_can_t_be_is_told() {
    let model = tiny();
    let vocab = model.vocab();
    let begin = |session: &mut Session, prompt: AnswerPrompt| {
        let mut answer = Answer::new(session, &ids(), prompt, &greedy()).unwrap();
        answer.next(session, None).unwrap_err()
    };
    let mut session = model.session().unwrap();
    let error = begin(&mut session, AnswerPrompt::text([]));
    assert!(matches!(error, AnswerError::EmptyPrompt), "{error}");
    let error = begin(&mut session, AnswerPrompt::after([]));
    assert!(matches!(error, AnswerError::Engine(Error::NoLogits)), "{error}");
    let wrong = [vec![1; 600], vec![vocab as u32]].concat();
    for prompt in [AnswerPrompt::text(wrong.clone()), AnswerPrompt::after(wrong)] {
        let error = begin(&mut session, prompt);
        let is = matches!(error, AnswerError::Engine(Error::TokenOutOfRange { index: 600, .. }));
        assert!(is && session.position() == 0, "{error}: before any of it is computed");
    }
    let options = AnswerOptions::new().sampling(Sampling { top_p: Some(2.0), ..Sampling::new() });
    let prompt = AnswerPrompt::text([1]);
    let error = Answer::new(&session, &ids(), prompt, &options).map(drop).unwrap_err();
    assert!(matches!(error, AnswerError::Sampling(_)), "{error}");
}

#[test]
fn a_session_that_is_used_otherwise_is_noticed() {
    let model = tiny();
    let prompt = [3, 4, 5, 3, 4, 5, 3, 4];
    for lookup in [0, 4] {
        let mut session = model.session().unwrap();
        let options = greedy().max_tokens(9).lookup(lookup);
        let mut answer =
            Answer::new(&session, &ids(), AnswerPrompt::text(prompt), &options).unwrap();
        while answer.tokens().len() < 4 {
            answer.next(&mut session, None).unwrap();
        }
        let before = session.position();
        session.reset().unwrap();
        let error = answer.next(&mut session, None).unwrap_err();
        assert!(matches!(error, AnswerError::SessionUsed), "{error}");
        // Also where it holds as many tokens again, if guesses are on their way.
        session.feed(&vec![1; before]).unwrap();
        if lookup > 0 {
            let error = answer.next(&mut session, None).unwrap_err();
            assert!(matches!(error, AnswerError::SessionUsed), "{error}");
        }
        session.feed(&[1]).unwrap();
        // To end it is possible, and leaves the session to the others.
        answer.stop().unwrap();
        let Some(Event::End(end)) = answer.next(&mut session, None).unwrap() else {
            panic!("no end")
        };
        assert_eq!((end.reason, end.stats.generated), (EndReason::Stopped, 4));
        assert_eq!(session.position(), before + 1);
    }
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
