//! The loop from a prompt to an answer: how it ends, and what it refuses.

use kinglet::answer::{
    Answer, AnswerDefaults, AnswerEnd, AnswerError, AnswerOptions, AnswerPrompt, Context,
    DEFAULT_MAX_TOKENS, EndReason, Event, Sampling,
};
use kinglet::text::{GenerationConfig, StopTokens};
use kinglet::{Error, Model, ModelOptions, PrefixCache, Session};
use kinglet_tests::case_named;

use crate::{cpu, open};

/// Defaults without a tokenizer and without any stop condition.
pub(crate) fn ids() -> AnswerDefaults {
    AnswerDefaults::default()
}

pub(crate) fn greedy() -> AnswerOptions {
    AnswerOptions::new().sampling(Sampling::greedy())
}

pub(crate) fn tiny() -> Model {
    open(&case_named("granitemoehybrid/mixed"), &cpu().threads(1))
}

/// A complete answer.
pub(crate) struct Whole {
    pub(crate) events: Vec<Event>,
    pub(crate) end: AnswerEnd,
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
}

pub(crate) fn whole(
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

/// An answer to `prompt` in a new session, and that session.
pub(crate) fn ask(
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

pub(crate) fn demo() -> (Model, AnswerDefaults) {
    let folder = kinglet_tests::fixtures().join("../../models/demo/hybrid");
    let model = Model::open(&folder, &ModelOptions::new().backend(kinglet::Backend::Cpu)).unwrap();
    let defaults = AnswerDefaults::of(&model).unwrap();
    (model, defaults)
}

pub(crate) fn text_prompt(defaults: &AnswerDefaults, text: &str) -> AnswerPrompt {
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
                // If both bounds are reached, the requested one is reported.
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
    // A continuation counts the tokens that the session holds.
    let mut session = bounded.session().unwrap();
    session.feed(&[1; 15]).unwrap();
    let mut answer = Answer::new(&session, &ids(), AnswerPrompt::after([2, 3]), &greedy()).unwrap();
    assert_eq!(whole(&mut answer, &mut session, None).unwrap().tokens.len(), 3);
    let mut answer = Answer::new(&session, &ids(), AnswerPrompt::after([]), &greedy()).unwrap();
    let error = answer.next(&mut session, None).unwrap_err();
    assert!(matches!(error, AnswerError::PromptTooLong { tokens: 20, limit: 20 }), "{error}");
}

#[test]
fn rotary_models_stop_at_their_context() {
    let model = open(&case_named("qwen3/plain"), &cpu().threads(1));
    let options = greedy().max_tokens(300);
    let (all, _) = ask(&model, &ids(), AnswerPrompt::text([1]), &options).unwrap();
    assert_eq!((all.tokens.len(), all.end.reason), (255, EndReason::ContextFull));
    let options = options.context(Context::Unlimited);
    let (all, _) = ask(&model, &ids(), AnswerPrompt::text([1]), &options).unwrap();
    assert_eq!((all.tokens.len(), all.end.reason), (300, EndReason::MaxTokens));
    // Recurrent layers have no limit.
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
    // The model's own stops are ignored, requested ones are not.
    let ignoring = options.clone().ignore_eos(true);
    let (all, _) = ask(&model, &own, AnswerPrompt::text(prompt), &ignoring).unwrap();
    assert_eq!((all.tokens, all.end.reason), (plain.tokens.clone(), EndReason::MaxTokens));
    let ignoring = ignoring.stop_token(stop);
    let (all, _) = ask(&model, &own, AnswerPrompt::text(prompt), &ignoring).unwrap();
    assert_eq!(all.end.reason, EndReason::StopToken(stop));
    // Without its last token, if nothing continues.
    let left = options.keep_last(false);
    let (all, session) = ask(&model, &ids(), AnswerPrompt::text(prompt), &left).unwrap();
    assert_eq!(session.tokens(), [&prompt[..], &all.tokens[..11]].concat());
}

#[test]
fn a_stop_string_ends_it_wherever_tokens_are_cut() {
    let (model, mut defaults) = demo();
    let prompt = text_prompt(&defaults, "Once upon a");
    let options = greedy().max_tokens(24).ignore_eos(true);
    let (plain, _) = ask(&model, &defaults, prompt.clone(), &options).unwrap();
    assert!(plain.text.starts_with(' '), "it continues the prompt: {:?}", plain.text);
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
        across += usize::from(stop.trim().contains(' '));
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
    // Text that may still become a stop string is held back, and comes with the last token.
    let end = plain.text.char_indices().nth_back(2).unwrap().0;
    let half = format!("{}\u{1}", &plain.text[end..]);
    let (all, _) =
        ask(&model, &defaults, prompt.clone(), &options.clone().stop_string(half)).unwrap();
    assert_eq!(
        (all.text, all.end.text, all.end.reason),
        (plain.text, "".into(), EndReason::MaxTokens)
    );
    // Stop strings are text.
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

#[test]
fn impossible_requests_are_errors() {
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
        // Also if it holds as many tokens again, with guesses in flight.
        session.feed(&vec![1; before]).unwrap();
        if lookup > 0 {
            let error = answer.next(&mut session, None).unwrap_err();
            assert!(matches!(error, AnswerError::SessionUsed), "{error}");
        }
        session.feed(&[1]).unwrap();
        // Stopping it is possible, and leaves the session usable.
        answer.stop().unwrap();
        let Some(Event::End(end)) = answer.next(&mut session, None).unwrap() else {
            panic!("no end")
        };
        assert_eq!((end.reason, end.stats.generated), (EndReason::Stopped, 4));
        assert_eq!(session.position(), before + 1);
    }
}
