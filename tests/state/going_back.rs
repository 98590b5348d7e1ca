//! Snapshots, marks and rewinds: after going back, a session equals one that never continued.

use kinglet::plan::StateKind;
use kinglet::{Error, Model, ModelOptions, Retain};
use kinglet_tests::random::Random;

use crate::{alone, assert_near, chosen, everywhere, open, rows_from, tokens};

fn is_recurrent(model: &Model) -> bool {
    model.plan().states.iter().any(|state| matches!(state.kind, StateKind::Tensor { .. }))
}

#[test]
fn a_restored_session_continues_unchanged() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let mut random = Random::named(&case.name);
        for prefix in [0, 1, 63, 64, 130] {
            let start = tokens(&mut random, model.vocab(), prefix);
            let (way, other) =
                (tokens(&mut random, model.vocab(), 40), tokens(&mut random, model.vocab(), 90));
            let mut session = model.session().unwrap();
            if prefix > 0 {
                session.feed(&start).unwrap();
            }
            let logits = session.last_logits().map(<[f32]>::to_vec);
            let snapshot = session.snapshot().unwrap();
            let bytes = session.state_bytes();
            let first = session.feed_all(&way).unwrap().to_vec();
            // Twice, since the first restore must not consume the snapshot; in between the session
            // is far ahead elsewhere.
            for _ in 0..2 {
                session.feed(&other).unwrap();
                session.restore(&snapshot).unwrap();
                assert_eq!((session.tokens(), session.state_bytes()), (&start[..], bytes));
                assert_eq!(session.last_logits(), logits.as_deref(), "{}", case.name);
                assert_eq!(
                    session.feed_all(&way).unwrap(),
                    first,
                    "{}: not bit for bit",
                    case.name
                );
            }
            // And one that outlives it.
            drop(session);
            let mut another = snapshot.session().unwrap();
            drop(snapshot);
            let whole = alone(&model, &[&start[..], &way].concat());
            let got = another.feed_all(&way).unwrap();
            assert_near(got, &rows_from(&model, &whole, prefix), &case.name);
        }
    }
}

#[test]
fn a_snapshot_shares_its_memory_until_the_session_continues() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(1));
        let mut session = model.session().unwrap();
        session.feed(&tokens(&mut Random::named(&case.name), model.vocab(), 319)).unwrap();
        session.feed(&[1]).unwrap();
        session.mark().unwrap();
        let logits = 4 * model.vocab();
        assert_eq!(session.retained_bytes(), logits, "{}: all is shared", case.name);
        session.feed(&[1]).unwrap();
        let (mut tensors, mut page) = (0, 0);
        for state in &model.plan().states {
            match &state.kind {
                StateKind::Tensor { shape } => tensors += 4 * shape.iter().product::<usize>(),
                // 320 is the end of a page: the next one is not shared. A window may have dropped
                // one.
                StateKind::KeyValue { kv_heads, key_dim, value_dim, window: Some(_), .. } => {
                    page += 4 * kv_heads * (key_dim + value_dim) * 64;
                }
                StateKind::KeyValue { .. } => {}
            }
        }
        let retained = session.retained_bytes();
        if on.wgpu {
            // A cache is shared as a whole: the session writes past the mark's end.
            let tensors = model.session().unwrap().state_bytes();
            assert_eq!(retained, logits + tensors, "{} on {}", case.name, on.name);
            continue;
        }
        assert!(
            (logits + tensors..=logits + tensors + page).contains(&retained),
            "{}: {retained} bytes, {tensors} of tensors",
            case.name
        );
    }
}

#[test]
fn rewinding_reaches_what_was_retained_and_nothing_else() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let windowed = model
            .plan()
            .states
            .iter()
            .any(|state| matches!(state.kind, StateKind::KeyValue { window: Some(_), .. }));
        let sequence = tokens(&mut Random::named(&case.name), model.vocab(), 211);
        let whole = alone(&model, &sequence);
        let mut session = model.session().unwrap();
        session.retain(Retain { every: 50, points: 3 });
        session.feed_all(&sequence[..17]).unwrap();
        session.mark().unwrap();
        let before = session.feed_all(&sequence[17..]).unwrap().to_vec();
        assert_near(&before, &rows_from(&model, &whole, 17), &case.name);
        // The mark at 17 and the point at 50 were dropped.
        assert_eq!(session.marks().collect::<Vec<_>>(), [100, 150, 200]);
        let reach = session.reach();
        let reached: Vec<usize> = (0..=220).filter(|&p| reach.contains(p)).collect();
        if is_recurrent(&model) {
            assert_eq!(reached, [0, 100, 150, 200, 211], "{}", case.name);
            let error = session.rewind(130).unwrap_err();
            let expected = |e: &Error| {
                matches!(
                    e,
                    Error::NotReachable {
                        position: 130,
                        held: 211,
                        below: Some(100),
                        above: Some(150)
                    }
                )
            };
            assert!(expected(&error), "{error:?}");
            assert!(error.to_string().contains("100 and 150"), "{error}");
        } else if !windowed {
            assert_eq!(reached, (0..=211).collect::<Vec<_>>(), "{}", case.name);
        }
        let error = session.rewind(212).unwrap_err();
        assert!(matches!(error, Error::NotReachable { position: 212, held: 211, .. }), "{error:?}");
        assert!(error.to_string().contains("holds 211 tokens"), "{error}");
        // From the last to the first, and from each of them on.
        for &target in reached.iter().rev() {
            session.rewind(target).unwrap();
            assert_eq!(session.tokens(), &sequence[..target]);
            if let Some(logits) = session.last_logits() {
                let row = &whole[(target - 1) * model.vocab()..][..model.vocab()];
                assert_near(logits, row, &format!("{} logits at {target}", case.name));
            }
            assert!(session.marks().all(|mark| mark <= target));
            let mut fork = session.fork().unwrap();
            let rest = &sequence[target..(target + 30).min(sequence.len())];
            if !rest.is_empty() {
                let got = fork.feed_all(rest).unwrap();
                let expected = &whole[target * model.vocab()..][..got.len()];
                assert_near(got, expected, &format!("{} rewound to {target}", case.name));
            }
        }
        assert_eq!(session.position(), 0);
    }
}

#[test]
fn replay_reaches_everything_and_computes_no_more_than_it_must() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(2));
        let sequence = tokens(&mut Random::named(&case.name), model.vocab(), 150);
        let whole = alone(&model, &sequence);
        for target in [0, 1, 31, 32, 33, 64, 100, 149, 150] {
            let mut session = model.session().unwrap();
            session.retain(Retain { every: 32, points: 16 });
            session.feed(&sequence).unwrap();
            let computed = session.rewind_and_replay(target).unwrap();
            assert_eq!(session.tokens(), &sequence[..target]);
            let recurrent = is_recurrent(&model);
            let expected = match target {
                0 | 150 => 0,
                // Interval points have no logits if only the last were wanted: the last token is
                // computed again.
                _ if recurrent => target - (target - 1) / 32 * 32,
                _ => computed,
            };
            assert_eq!(computed, expected, "{} to {target}", case.name);
            assert!(computed <= 32, "{} to {target}: {computed}", case.name);
            if target > 0 {
                let row = &whole[(target - 1) * model.vocab()..][..model.vocab()];
                assert_near(session.last_logits().unwrap(), row, &case.name);
            }
            if target < 150 {
                let got = session.feed_all(&sequence[target..]).unwrap();
                let expected = rows_from(&model, &whole, target);
                assert_near(got, &expected, &format!("{} replayed to {target}", case.name));
            }
        }
    }
}

#[test]
fn forks_keep_their_own_marks() {
    for (case, on) in everywhere() {
        let model = open(&case, &on.threads(1));
        let sequence = tokens(&mut Random::named(&case.name), model.vocab(), 90);
        let whole = alone(&model, &sequence);
        let mut session = model.session().unwrap();
        session.feed(&sequence[..40]).unwrap();
        session.mark().unwrap();
        session.feed(&sequence[40..70]).unwrap();
        let mut fork = session.fork().unwrap();
        session.rewind(40).unwrap();
        session.feed(&[1, 2, 3]).unwrap();
        session.mark().unwrap();
        assert_eq!(fork.marks().collect::<Vec<_>>(), [40]);
        fork.rewind(40).unwrap();
        let row = &whole[39 * model.vocab()..][..model.vocab()];
        assert_near(fork.last_logits().unwrap(), row, "the mark's logits");
        let got = fork.feed_all(&sequence[40..]).unwrap();
        assert_near(got, &rows_from(&model, &whole, 40), &case.name);
        // A snapshot of the fork keeps the marks of the common prefix in the session that it is
        // restored to.
        let snapshot = fork.snapshot().unwrap();
        session.restore(&snapshot).unwrap();
        assert_eq!(session.marks().collect::<Vec<_>>(), [40]);
        session.rewind(40).unwrap();
        assert_near(session.feed_all(&sequence[40..]).unwrap(), &rows_from(&model, &whole, 40), "");
    }
}

#[test]
fn snapshots_of_another_model_are_refused() {
    let cases = chosen();
    let models: Vec<Model> = [&cases[0], &cases[1], &cases[0]]
        .map(|case| open(case, &ModelOptions::new().threads(1)))
        .to_vec();
    for other in &models[1..] {
        let mut session = models[0].session().unwrap();
        session.feed(&[1, 2]).unwrap();
        let mut foreign = other.session().unwrap();
        foreign.feed(&[3]).unwrap();
        let error = session.restore(&foreign.snapshot().unwrap()).unwrap_err();
        assert!(matches!(error, Error::ForeignSession), "{error:?}");
        assert_eq!(session.tokens(), [1, 2]);
        session.feed(&[3]).unwrap();
    }
}

#[test]
fn snapshots_can_be_shared_between_threads() {
    fn is<T: Send + Sync>() {}
    is::<kinglet::Snapshot>();
    let case = &chosen()[0];
    let model = open(case, &ModelOptions::new().threads(1));
    let mut session = model.session().unwrap();
    session.feed(&case.tokens[..40]).unwrap();
    let snapshot = session.snapshot().unwrap();
    let expected = session.feed_all(&case.tokens[40..]).unwrap().to_vec();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut session = snapshot.session().unwrap();
                    session.feed_all(&case.tokens[40..]).unwrap().to_vec()
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
}
