//! Drafted tokens: whatever is drafted, the answer and the final state equal those without drafts.

use kinglet::sampling::{Sampler, SamplerState, SamplingOptions};
use kinglet::speculate::{DraftModel, Drafter, PromptLookup, SpeculationStats};
use kinglet::{Error, GenerateOptions, Model, Session};
use kinglet_tests::random::Random;
use kinglet_tests::{case_named, cases, relative_l2};

use crate::{cpu, everywhere, open, tokens};

/// Tokens of an answer.
const ANSWER: usize = 40;

/// Drafts from a known continuation, some of them wrong.
struct Known {
    /// All tokens, with the prompt.
    all: Vec<u32>,
    /// Percentage of right drafts.
    right: usize,
    random: Random,
    vocab: u32,
}

impl Drafter for Known {
    fn draft(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, Error> {
        assert!(self.all.starts_with(tokens), "a drafter is told what was not generated");
        let count = self.random.between(0, most);
        let rest = self.all[tokens.len()..].iter().copied().chain(std::iter::repeat(0)).take(count);
        let mut guess = |id: u32| {
            let right = self.random.between(0, 99) < self.right;
            if right { id } else { (id + 1) % self.vocab }
        };
        Ok(rest.map(&mut guess).collect())
    }
}

/// The final state of an answer.
#[derive(Debug, PartialEq)]
struct Left {
    answer: Vec<u32>,
    tokens: Vec<u32>,
    /// History and random numbers.
    sampler: SamplerState,
}

/// An answer of up to `count` tokens, with its session and the last logits.
fn answer<'a>(
    session: &'a mut Session,
    options: &SamplingOptions,
    count: usize,
    drafter: Option<Box<dyn Drafter + 'a>>,
) -> (Left, Option<SpeculationStats>) {
    let mut sampler = Sampler::new(options.clone(), 7).unwrap();
    sampler.state_mut().accept_all(session.tokens());
    let mut generation = session.generate(&mut sampler, GenerateOptions::new().ahead(0));
    if let Some(drafter) = drafter {
        generation = generation.speculate(drafter, 6);
    }
    let answer = (0..count).map(|_| generation.next_token().unwrap().unwrap()).collect();
    let stats = generation.speculation();
    generation.finish().unwrap();
    let (tokens, sampler) = (session.tokens().to_vec(), sampler.state().clone());
    (Left { answer, tokens, sampler }, stats)
}

fn prompted(model: &Model, prompt: &[u32]) -> Session {
    let mut session = model.session().unwrap();
    session.feed(prompt).unwrap();
    session
}

/// Greedy, and sampled with penalties that depend on the history.
fn ways() -> [SamplingOptions; 2] {
    let drawn = SamplingOptions {
        temperature: 0.9,
        top_p: 0.95,
        repetition_penalty: 1.2,
        ..Default::default()
    };
    [SamplingOptions::greedy(), drawn]
}

#[test]
fn whatever_is_guessed_the_answer_and_what_it_leaves_are_the_same() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(1));
        let vocab = model.vocab();
        let prompt = tokens(&mut Random::named(&case.name), vocab, 9);
        for options in ways() {
            for count in if on.wgpu { vec![17] } else { vec![1, 2, 17, ANSWER] } {
                let mut plain = prompted(&model, &prompt);
                let (expected, _) = answer(&mut plain, &options, count, None);
                let all = [&prompt[..], &expected.answer].concat();
                for right in [0, 50, 80, 100] {
                    let what = format!("{} on {}, {count} tokens, {right} %", case.name, on.name);
                    let random = Random::named(&what);
                    let known = Known { all: all.clone(), right, random, vocab: vocab as u32 };
                    let mut session = prompted(&model, &prompt);
                    let (left, stats) =
                        answer(&mut session, &options, count, Some(Box::new(known)));
                    assert_eq!(left, expected, "{what}");
                    let stats = stats.unwrap();
                    assert!(stats.accepted <= stats.drafted, "{what}: {stats:?}");
                    match right {
                        0 => assert_eq!(stats.accepted, 0, "{what}: {stats:?}"),
                        // The last token is drafted although it is not wanted.
                        100 => {
                            assert!(stats.steps + stats.accepted + 1 >= count, "{what}: {stats:?}")
                        }
                        _ => {}
                    }
                    if right == 100 && count == ANSWER {
                        assert!(2 * stats.steps < count, "{what}: nothing was gained: {stats:?}");
                    }
                    // The sessions are indistinguishable from here on.
                    let logits = |session: &Session| session.last_logits().map(<[f32]>::to_vec);
                    let (a, b) = (logits(&session).unwrap(), logits(&plain).unwrap());
                    assert!(relative_l2(&a, &b) <= 1e-4, "{what}: other logits");
                    let mut fork = plain.fork().unwrap();
                    let error =
                        relative_l2(session.feed(&prompt).unwrap(), fork.feed(&prompt).unwrap());
                    assert!(error <= 1e-4, "{what}: another state, {error:.2e}");
                }
            }
        }
    }
}

#[test]
fn drafters_of_the_library_change_nothing_and_save_steps() {
    let mut looked_up = 0;
    for name in ["granitemoehybrid/mixed", "llama/plain", "mamba2/plain"] {
        let case = case_named(name);
        let model = open(&case, &cpu().threads(1));
        let prompt = [3, 4, 5, 6, 3, 4, 5, 6, 3, 4];
        for options in ways() {
            let (expected, _) = answer(&mut prompted(&model, &prompt), &options, ANSWER, None);
            let lookup = Box::new(PromptLookup::default());
            let (left, stats) =
                answer(&mut prompted(&model, &prompt), &options, ANSWER, Some(lookup));
            assert_eq!(left, expected, "{name}");
            looked_up += stats.unwrap().drafted;
            // A model that drafts for itself is always right if nothing is sampled.
            let own = Box::new(DraftModel::new(&model, &model).unwrap());
            let (left, stats) = answer(&mut prompted(&model, &prompt), &options, ANSWER, Some(own));
            assert_eq!(left, expected, "{name}");
            let stats = stats.unwrap();
            if options.temperature == 0.0 {
                assert!(2 * stats.steps < ANSWER, "{name}: {stats:?}");
            } else {
                assert!(stats.drafted > 0, "{name}: {stats:?}");
            }
        }
    }
    assert!(looked_up > 0, "nothing was looked up");
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let mut cases = cases();
    let first = cases.swap_remove(0);
    let other = cases.into_iter().find(|case| case.vocab() != first.vocab()).unwrap();
    let [a, b] = [first, other].map(|case| open(&case, &cpu().threads(1)));
    let error = DraftModel::new(&a, &b).map(drop).unwrap_err();
    assert!(matches!(error, Error::DraftVocabulary { .. }), "{error}");
    assert!(error.to_string().contains("same tokenizer"), "{error}");
}

/// A drafter that fails, or drafts tokens that no model has.
struct Broken(bool);

impl Drafter for Broken {
    fn draft(&mut self, _: &[u32], most: usize) -> Result<Vec<u32>, Error> {
        if self.0 { Err(Error::EmptyRun) } else { Ok(vec![u32::MAX; most + 3]) }
    }
}

#[test]
fn a_broken_drafter_and_a_full_context_do_no_harm() {
    let case = case_named("granitemoehybrid/mixed");
    let model = open(&case, &cpu().threads(1).context_limit(20));
    let prompt = [3, 4, 5, 3, 4, 5, 3, 4];
    let greedy = SamplingOptions::greedy();
    let (expected, _) = answer(&mut prompted(&model, &prompt), &greedy, 12, None);
    for fails in [true, false] {
        let broken = Some(Box::new(Broken(fails)) as Box<dyn Drafter>);
        let (left, _) = answer(&mut prompted(&model, &prompt), &greedy, 12, broken);
        assert_eq!(left, expected);
    }
    // There is no room for the last token, and nothing was fed beyond the limit.
    let mut session = prompted(&model, &prompt);
    let mut sampler = Sampler::new(greedy, 7).unwrap();
    let mut generation = session
        .generate(&mut sampler, GenerateOptions::new())
        .speculate(Box::new(DraftModel::new(&open(&case, &cpu().threads(1)), &model).unwrap()), 6);
    for expected in &expected.answer {
        assert_eq!(generation.next_token().unwrap(), Some(*expected));
    }
    generation.next_token().unwrap();
    assert!(matches!(generation.next_token(), Err(Error::ContextFull { limit: 20, .. })));
    generation.finish().unwrap();
    assert_eq!(session.position(), 20);
    assert!(!session.is_poisoned());
}
