//! Sessions that generate together, join and leave: each gets the answer that it would get alone,
//! and the same final state.

use kinglet::sampling::{Sampler, SamplerState, SamplingOptions};
use kinglet::{
    Batch, BatchOptions, Cancel, Error, GenerateOptions, Model, Outcome, SequenceId, Session,
};
use kinglet_tests::random::Random;
use kinglet_tests::{case_named, relative_l2};

use crate::{cpu, everywhere, open, tokens};

/// The task of a sequence.
struct Wish {
    prompt: Vec<u32>,
    options: SamplingOptions,
    tokens: usize,
    /// The step before which it joins.
    joins: usize,
}

/// Sequences that join at different times, with different prompt and answer lengths, greedy or
/// sampled.
fn wishes(vocab: usize, random: &mut Random, count: usize) -> Vec<Wish> {
    let drawn = || SamplingOptions {
        temperature: 0.9,
        top_p: 0.95,
        repetition_penalty: 1.2,
        ..Default::default()
    };
    let wish = |index: usize| {
        let length = random.between(1, 30);
        Wish {
            prompt: tokens(random, vocab, length),
            options: if index.is_multiple_of(2) { SamplingOptions::greedy() } else { drawn() },
            tokens: random.between(1, 12),
            joins: index * random.between(0, 3),
        }
    };
    (0..count).map(wish).collect()
}

/// The answer alone, and its final state.
fn alone(model: &Model, wish: &Wish, seed: u64) -> (Vec<u32>, Session, SamplerState) {
    let mut session = model.session().unwrap();
    session.feed(&wish.prompt).unwrap();
    let mut sampler = Sampler::new(wish.options.clone(), seed).unwrap();
    let mut generation = session.generate(&mut sampler, GenerateOptions::new().ahead(0));
    let answer = (0..wish.tokens).map(|_| generation.next_token().unwrap().unwrap()).collect();
    generation.finish().unwrap();
    let state = sampler.state().clone();
    (answer, session, state)
}

#[test]
fn each_has_the_answer_that_it_would_have_alone() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let mut random = Random::named(&case.name);
        let wishes = wishes(model.vocab(), &mut random, if on.wgpu { 3 } else { 6 });
        // Fewer places than sequences, and prompts cut to fit a step.
        let mut batch = Batch::new(&model, BatchOptions::new().sequences(4).step_tokens(13));
        let mut of_id: Vec<(SequenceId, usize)> = Vec::new();
        let mut answers = vec![Vec::new(); wishes.len()];
        let mut left = 0;
        for step in 0.. {
            for (index, wish) in wishes.iter().enumerate().filter(|(_, wish)| wish.joins == step) {
                let sampler = Sampler::new(wish.options.clone(), index as u64).unwrap();
                let options = GenerateOptions::new().max_tokens(wish.tokens);
                let session = model.session().unwrap();
                of_id.push((batch.join(session, &wish.prompt, sampler, options).unwrap(), index));
            }
            for event in batch.step().unwrap() {
                let index = of_id.iter().find(|(id, _)| *id == event.id).unwrap().1;
                match event.outcome {
                    Outcome::Token(token) => answers[index].push(token),
                    Outcome::Finished => {
                        let what = format!("{} on {}, sequence {index}", case.name, on.name);
                        let (answer, mut session, sampler) =
                            alone(&model, &wishes[index], index as u64);
                        assert_eq!(answers[index], answer, "{what}");
                        let mut gone = batch.leave(event.id).unwrap();
                        assert!(gone.rest.is_empty());
                        assert_eq!(gone.sampler.state(), &sampler, "{what}");
                        assert_eq!(gone.session.tokens(), session.tokens(), "{what}");
                        let next = [answer.last().copied().unwrap(), 1, 2];
                        let error = relative_l2(
                            gone.session.feed(&next).unwrap(),
                            session.feed(&next).unwrap(),
                        );
                        assert!(error <= 1e-4, "{what}: another state, {error:.2e}");
                        left += 1;
                    }
                    Outcome::Failed(error) => panic!("{}: {error}", case.name),
                    other => panic!("{other:?}"),
                }
            }
            assert!(step < 1000, "it doesn't end");
            if left == wishes.len() {
                break;
            }
        }
        assert!(!batch.is_busy() && batch.ids().count() == 0);
        assert!(batch.step().unwrap().is_empty());
    }
}

fn greedy() -> Sampler {
    Sampler::new(SamplingOptions::greedy(), 0).unwrap()
}

#[test]
fn one_that_ends_doesnt_disturb_the_others() {
    let case = case_named("granitemoehybrid/mixed");
    let model = open(&case, &cpu().threads(1).context_limit(20));
    let mut batch = Batch::new(&model, BatchOptions::new().step_tokens(4));
    let cancel = Cancel::new();
    let mut stopped = model.session().unwrap();
    stopped.set_cancel(Some(cancel.clone()));
    let unlimited = GenerateOptions::new();
    let stopped = batch.join(stopped, &[1, 2, 3, 4, 5, 6, 7], greedy(), unlimited).unwrap();
    let full = batch.join(model.session().unwrap(), &[5, 6, 7], greedy(), unlimited).unwrap();
    let options = GenerateOptions::new().max_tokens(12);
    let other = batch.join(model.session().unwrap(), &[8, 9], greedy(), options).unwrap();
    let mut answer = Vec::new();
    let mut ends = Vec::new();
    for step in 0.. {
        if step == 1 {
            cancel.set();
        }
        if !batch.is_busy() {
            break;
        }
        for event in batch.step().unwrap() {
            match event.outcome {
                Outcome::Token(token) if event.id == other => answer.push(token),
                Outcome::Token(_) => {}
                Outcome::Failed(error) => ends.push((event.id, error.to_string())),
                _ => ends.push((event.id, "finished".into())),
            }
        }
    }
    let wish =
        Wish { prompt: vec![8, 9], options: SamplingOptions::greedy(), tokens: 12, joins: 0 };
    assert_eq!(answer, alone(&model, &wish, 0).0);
    assert_eq!(ends.len(), 3, "{ends:?}");
    assert_eq!(ends[0], (stopped, Error::Cancelled.to_string()));
    assert_eq!(ends[1], (other, "finished".into()));
    assert_eq!(ends[2].0, full);
    assert!(ends[2].1.contains("20"), "{ends:?}");
    // A stopped sequence loses nothing: four tokens of its prompt were fed, three were not.
    let mut gone = batch.leave(stopped).unwrap();
    assert_eq!((gone.session.tokens(), &gone.rest[..]), (&[1, 2, 3, 4][..], &[5, 6, 7][..]));
    cancel.clear();
    let mut fresh = model.session().unwrap();
    let expected = fresh.feed(&[1, 2, 3, 4, 5, 6, 7]).unwrap();
    assert!(relative_l2(gone.session.feed(&gone.rest).unwrap(), expected) <= crate::BOUND);
    assert!(batch.leave(stopped).is_none());
}

#[test]
fn what_cant_join_is_refused() {
    let (a, b) = (case_named("mamba2/plain"), case_named("llama/plain"));
    let [a, b] = [a, b].map(|case| open(&case, &cpu().threads(1).context_limit(9)));
    let mut batch = Batch::new(&a, BatchOptions::new());
    let options = GenerateOptions::new();
    let mut join =
        |session: Session, prompt: &[u32]| batch.join(session, prompt, greedy(), options).map(drop);
    let new = || a.session().unwrap();
    let other = || b.session().unwrap();
    assert!(matches!(join(other(), &[1]), Err(Error::ForeignSession)));
    assert!(matches!(join(other(), &[]), Err(Error::ForeignSession)));
    assert!(matches!(join(new(), &[]), Err(Error::NoLogits)));
    assert!(matches!(join(new(), &[1, u32::MAX]), Err(Error::TokenOutOfRange { .. })));
    assert!(matches!(join(new(), &[1; 10]), Err(Error::ContextFull { .. })));
    // With logits, no prompt and no tokens are needed.
    let mut fed = new();
    fed.feed(&[1, 2]).unwrap();
    let expected = {
        let logits = fed.last_logits().unwrap();
        greedy().sample(logits).unwrap()
    };
    let first = batch.join(fed, &[], greedy(), options.max_tokens(1)).unwrap();
    let none = batch.join(new(), &[1], greedy(), options.max_tokens(0)).unwrap();
    let events = batch.step().unwrap();
    let seen: Vec<_> = events.iter().map(|event| (event.id, &event.outcome)).collect();
    assert!(
        matches!(seen[..], [(a, Outcome::Token(token)), (b, Outcome::Finished), (c, Outcome::Finished)]
            if a == first && b == first && c == none && *token == expected),
        "{seen:?}"
    );
    assert_eq!(batch.session(none).unwrap().tokens(), [1]);
}
