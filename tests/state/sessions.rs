//! Sessions: the resulting state is the same however a sequence was fed, forks and neighbours do
//! not disturb it, errors do not change it, and it uses the memory that it should.

use kinglet::plan::StateKind;
use kinglet::{Error, Logits, Model, ModelOptions, Run, Session};
use kinglet_tests::random::Random;
use kinglet_tests::{case_named, cases};

use crate::{alone, assert_near, chosen, everywhere, open, rows_from, tokens};

#[test]
fn any_cuts_give_the_logits_of_the_whole() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let mut random = Random::named(&case.name);
        let sequence = tokens(&mut random, model.vocab(), 211);
        let whole = alone(&model, &sequence);
        for _ in 0..6 {
            let (mut session, mut got, mut cuts) = (model.session().unwrap(), Vec::new(), vec![0]);
            while got.len() < whole.len() {
                let at = session.position();
                let most = random.choose(&[2, 9, 66, 200]).min(sequence.len() - at);
                let next = at + random.between(1, most);
                got.extend_from_slice(session.feed_all(&sequence[at..next]).unwrap());
                cuts.push(next);
            }
            assert_near(&got, &whole, &format!("{} cut at {cuts:?}", case.name));
            assert_eq!(session.tokens(), sequence);
        }
    }
}

#[test]
fn forks_go_their_own_ways() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let mut random = Random::named(&case.name);
        // Before the first token, within a page of the cache, at its end, beyond it.
        for prefix in [0, 1, 37, 64, 100] {
            let vocab = model.vocab();
            let start = tokens(&mut random, vocab, prefix);
            let ways: Vec<Vec<u32>> = [50, 3, 90].map(|n| tokens(&mut random, vocab, n)).to_vec();
            let mut trunk = model.session().unwrap();
            if prefix > 0 {
                trunk.feed(&start).unwrap();
            }
            let mut fork = trunk.fork().unwrap();
            assert_eq!((fork.tokens(), fork.logits()), (trunk.tokens(), trunk.logits()));
            let mut second = fork.fork().unwrap();
            // They take turns, so that each would see what another writes to shared memory.
            let mut got = vec![Vec::new(); 3];
            let mut sessions = [&mut trunk, &mut fork, &mut second];
            for at in (0..90).step_by(10) {
                for ((session, way), got) in sessions.iter_mut().zip(&ways).zip(&mut got) {
                    let part = &way[at.min(way.len())..way.len().min(at + 10)];
                    if !part.is_empty() {
                        got.extend_from_slice(session.feed_all(part).unwrap());
                    }
                }
            }
            for (way, got) in ways.iter().zip(&got) {
                let all = alone(&model, &[&start[..], way].concat());
                let expected = rows_from(&model, &all, prefix);
                assert_near(got, &expected, &format!("{} forked at {prefix}", case.name));
            }
        }
    }
}

#[test]
fn a_fork_outlives_what_it_was_forked_from() {
    for (case, on) in everywhere() {
        let (fork, model) = {
            let model = open(&case, &on.threads(1));
            let mut session = model.session().unwrap();
            session.feed(&case.tokens[..50]).unwrap();
            let fork = session.fork().unwrap();
            session.feed(&case.tokens[..20]).unwrap();
            session.reset().unwrap();
            (fork, model.clone())
        };
        let mut fork = fork;
        let got = fork.feed_all(&case.tokens[50..]).unwrap().to_vec();
        let expected = rows_from(&model, &case.logits, 50);
        // The reference computes f16 and bf16 checkpoints from the stored values, so the bound is
        // the same.
        assert_near(&got, &expected, &case.name);
    }
}

#[test]
fn a_reset_session_is_a_new_one() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let mut session = model.session().unwrap();
        let fresh = session.state_bytes();
        session.feed(&tokens(&mut Random::named(&case.name), model.vocab(), 150)).unwrap();
        session.reset().unwrap();
        assert_eq!((session.position(), session.state_bytes()), (0, fresh));
        assert!(session.tokens().is_empty() && session.last_logits().is_none());
        let got = session.feed_all(&case.tokens).unwrap().to_vec();
        let (whole, new) = (alone(&model, &case.tokens), &case.logits);
        assert_eq!(got, whole, "{}: not bit for bit what a new session gives", case.name);
        assert_near(&got, new, &case.name);
    }
}

#[test]
fn sessions_in_one_step_do_not_see_each_other() {
    for (case, on) in everywhere() {
        // With a short chunk the model cuts the steps between and within the sessions' runs.
        for chunk in [512, 23] {
            let model = open(&case, &on.threads(2).chunk(chunk));
            let mut random = Random::named(&case.name);
            for count in [2, 3] {
                let sequences: Vec<Vec<u32>> = (0..count)
                    .map(|_| {
                        let length = random.between(60, 130);
                        tokens(&mut random, model.vocab(), length)
                    })
                    .collect();
                let mut sessions: Vec<Session> =
                    (0..count).map(|_| model.session().unwrap()).collect();
                let mut got = vec![Vec::new(); count];
                while sessions.iter().zip(&sequences).any(|(s, t)| s.position() < t.len()) {
                    let mut runs: Vec<Run<'_>> = Vec::new();
                    let mut took_part = vec![false; count];
                    for (i, session) in sessions.iter_mut().enumerate() {
                        let left = &sequences[i][session.position()..];
                        let take = random.choose(&[0, 1, 1, 5, 33, 70]).min(left.len());
                        if take > 0 {
                            took_part[i] = true;
                            runs.push(Run { session, tokens: &left[..take], logits: Logits::All });
                        }
                    }
                    random.shuffle(&mut runs);
                    model.step(&mut runs).unwrap();
                    drop(runs);
                    for i in (0..count).filter(|&i| took_part[i]) {
                        got[i].extend_from_slice(sessions[i].logits());
                    }
                }
                for (sequence, got) in sequences.iter().zip(&got) {
                    let expected = alone(&model, sequence);
                    assert_near(got, &expected, &format!("{} of {count}", case.name));
                }
            }
        }
    }
}

#[test]
fn each_run_gets_the_logits_that_it_asked_for() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2).chunk(19));
        let whole = alone(&model, &case.tokens);
        let mut sessions: Vec<Session> = (0..3).map(|_| model.session().unwrap()).collect();
        let wishes = [Logits::None, Logits::Last, Logits::All];
        let mut runs: Vec<Run<'_>> = sessions
            .iter_mut()
            .zip(wishes)
            .map(|(session, logits)| Run { session, tokens: &case.tokens, logits })
            .collect();
        model.step(&mut runs).unwrap();
        drop(runs);
        assert!(sessions[0].logits().is_empty() && sessions[0].last_logits().is_none());
        let last = rows_from(&model, &whole, case.tokens.len() - 1);
        assert_near(sessions[1].logits(), &last, &case.name);
        assert_near(sessions[2].logits(), &whole, &case.name);
        assert_near(sessions[2].last_logits().unwrap(), &last, &case.name);
    }
}

/// The observable state of a session.
fn shown(session: &Session) -> (Vec<u32>, Vec<f32>, usize) {
    (session.tokens().to_vec(), session.logits().to_vec(), session.state_bytes())
}

#[test]
fn refused_steps_change_nothing() {
    for (case, on) in everywhere() {
        let limit = 60;
        let model = open(&case, &on.threads(2).context_limit(limit));
        let vocab = model.vocab() as u32;
        let (start, rest) = case.tokens[..limit].split_at(40);
        let whole = alone(&model, &case.tokens[..limit]);
        let (mut one, mut two) = (model.session().unwrap(), model.session().unwrap());
        one.feed(start).unwrap();
        two.feed(start).unwrap();
        let before = (shown(&one), shown(&two));

        let mut refused = |tokens: &[u32], expected: fn(&Error) -> bool, message: &str| {
            // The faulty run comes second: the valid one before it must not have been fed either.
            let runs = &mut [
                Run { session: &mut one, tokens: &rest[..5], logits: Logits::All },
                Run { session: &mut two, tokens, logits: Logits::Last },
            ];
            let error = model.step(runs).unwrap_err();
            assert!(expected(&error), "{}: {error:?}", case.name);
            assert!(error.to_string().contains(message), "{error}");
            assert_eq!((shown(&one), shown(&two)), before, "{}: {error}", case.name);
        };
        refused(&[], |e| matches!(e, Error::EmptyRun), "at least one token");
        let ids = [1, vocab, 2];
        let out_of_range = |e: &Error| matches!(e, Error::TokenOutOfRange { index: 1, id, vocab } if *id as usize == *vocab);
        refused(&ids, out_of_range, &format!("token {vocab}"));
        refused(
            &[u32::MAX],
            |e| matches!(e, Error::TokenOutOfRange { index: 0, .. }),
            "4294967295",
        );
        let long = vec![1; limit - start.len() + 1];
        let full = |e: &Error| matches!(e, Error::ContextFull { held: 40, more: 21, limit: 60 });
        refused(&long, full, "limit of 60");

        // And they continue as if nothing had happened.
        let expected = rows_from(&model, &whole, 40);
        assert_near(one.feed_all(rest).unwrap(), &expected, &case.name);
        assert_near(two.feed_all(rest).unwrap(), &expected, &case.name);
        assert!(matches!(one.feed(&[1]), Err(Error::ContextFull { held: 60, more: 1, limit: 60 })));
    }
}

/// A learned table of positions ends, and the error names the field with its length.
#[test]
fn positions_past_a_learned_table_are_refused() {
    let case = case_named("kinglet_hybrid/learned");
    for options in [ModelOptions::new(), ModelOptions::new().context_limit(1000)] {
        let model = open(&case, &options.backend(kinglet::Backend::Cpu));
        let mut session = model.session().unwrap();
        assert_eq!(session.context_limit(), Some(96));
        let refused = |error: Error| {
            assert!(matches!(error, Error::PositionsFull { positions: 96, .. }), "{error:?}");
            assert!(error.to_string().contains("`max_position_embeddings`"), "{error}");
        };
        refused(session.feed(&[1; 97]).unwrap_err());
        session.feed(&[1; 95]).unwrap();
        refused(session.feed(&[1; 2]).unwrap_err());
        session.feed(&[1]).unwrap();
        refused(session.feed(&[1]).unwrap_err());
    }
    let limited = open(&case, &ModelOptions::new().backend(kinglet::Backend::Cpu).context_limit(9));
    let error = limited.session().unwrap().feed(&[1; 10]).unwrap_err();
    assert!(matches!(error, Error::ContextFull { limit: 9, .. }), "{error:?}");
}

#[test]
fn sessions_of_another_model_are_refused() {
    let cases = chosen();
    // Another family, and the same checkpoint opened again: neither is the model that made the
    // session.
    for pair in cases.windows(2) {
        let models: Vec<Model> = pair
            .iter()
            .chain(&pair[..1])
            .map(|case| open(case, &ModelOptions::new().threads(1)))
            .collect();
        for other in &models[1..] {
            let mut session = other.session().unwrap();
            session.feed(&[1, 2]).unwrap();
            let before = shown(&session);
            let run = Run { session: &mut session, tokens: &[3], logits: Logits::Last };
            let error = models[0].step(&mut [run]).unwrap_err();
            assert!(matches!(error, Error::ForeignSession), "{error:?}");
            assert_eq!(shown(&session), before);
            session.feed(&[3]).unwrap();
        }
        // A clone is the same model.
        let mut session = models[0].session().unwrap();
        let run = Run { session: &mut session, tokens: &[3], logits: Logits::Last };
        models[0].clone().step(&mut [run]).unwrap();
    }
}

/// `(bytes of recurrent state, (bytes of keys and values of a position, window) for each cache)`.
fn state_sizes(model: &Model) -> (usize, Vec<(usize, Option<usize>)>) {
    let (mut recurrent, mut caches) = (0, Vec::new());
    for state in &model.plan().states {
        match &state.kind {
            StateKind::Tensor { shape } => recurrent += 4 * shape.iter().product::<usize>(),
            StateKind::KeyValue { kv_heads, key_dim, value_dim, window, .. } => {
                caches.push((4 * kv_heads * (key_dim + value_dim), *window));
            }
        }
    }
    (recurrent, caches)
}

#[test]
fn recurrent_state_is_constant_to_the_byte() {
    let mut seen = Vec::new();
    for case in cases() {
        let model = open(&case, &ModelOptions::new().threads(1));
        let (recurrent, caches) = state_sizes(&model);
        let mut session = model.session().unwrap();
        assert_eq!(session.state_bytes(), recurrent, "{}: without tokens", case.name);
        if !caches.is_empty() || recurrent == 0 {
            continue;
        }
        seen.push(case.name.clone());
        for run in [1, 7, 200, 1, 64] {
            session.feed(&tokens(&mut Random::new(1), model.vocab(), run)).unwrap();
            assert_eq!(session.state_bytes(), recurrent, "{}", case.name);
            assert_eq!(session.fork().unwrap().state_bytes(), recurrent, "{}", case.name);
            assert_eq!(model.plan().state_bytes(session.position()), recurrent, "{}", case.name);
        }
    }
    for family in ["mamba/", "mamba2/", "falcon_mamba/", "xlstm/", "granitemoehybrid/mamba_only"] {
        assert!(seen.iter().any(|name| name.starts_with(family)), "no recurrent case of {family}");
    }
}

/// Positions that a cache may round up to.
const PAGE: usize = 64;

#[test]
fn a_window_bounds_the_memory_of_its_cache() {
    let mut windows = 0;
    for case in cases() {
        let model = open(&case, &ModelOptions::new().threads(2));
        let (recurrent, caches) = state_sizes(&model);
        if !caches.iter().any(|(_, window)| window.is_some()) {
            continue;
        }
        windows += 1;
        let bound = |held: usize, run: usize| {
            // What the last run's first token saw, the run itself, and a page on either side.
            let positions = |window: &Option<usize>| match window {
                Some(window) => held.min(window + run) + 2 * PAGE,
                None => held + PAGE,
            };
            recurrent + caches.iter().map(|(bytes, w)| bytes * positions(w)).sum::<usize>()
        };
        let mut session = model.session().unwrap();
        let mut random = Random::named(&case.name);
        for run in [1, 300, 1, 40, 1, 900, 1] {
            session.feed(&tokens(&mut random, model.vocab(), run)).unwrap();
            let (bytes, held) = (session.state_bytes(), session.position());
            assert!(bytes <= bound(held, run), "{}: {bytes} bytes at {held} tokens", case.name);
        }
        // Token by token: memory must not grow.
        for _ in 0..3 * PAGE {
            session.feed(&tokens(&mut random, model.vocab(), 1)).unwrap();
        }
        assert!(session.state_bytes() <= bound(session.position(), 1), "{}", case.name);
    }
    assert!(windows >= 4, "only {windows} cases with a window");
}

#[test]
fn a_cache_without_a_window_grows_with_the_context_and_no_faster() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(1));
        let (recurrent, caches) = state_sizes(&model);
        if caches.is_empty() || caches.iter().any(|(_, window)| window.is_some()) {
            continue;
        }
        let position: usize = caches.iter().map(|(bytes, _)| bytes).sum();
        let mut session = model.session().unwrap();
        // A device aligns tensors, double-buffers some of them, and has room for twice the
        // positions.
        let (recurrent, times) = if on.wgpu { (session.state_bytes(), 2) } else { (recurrent, 1) };
        for run in [1, 62, 1, 1, 200] {
            session.feed(&tokens(&mut Random::new(2), model.vocab(), run)).unwrap();
            let (held, bytes) = (session.position(), session.state_bytes() - recurrent);
            assert!(bytes >= held * position, "{}: {bytes} bytes at {held}", case.name);
            let most = times * (held + PAGE) * position;
            assert!(bytes <= most, "{}: {bytes} bytes at {held}", case.name);
        }
    }
}
