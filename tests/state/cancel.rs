//! Cancelling a step from another thread: it ends early, and leaves the session as it was.

use std::time::Duration;

use kinglet::plan::StateKind;
use kinglet::{Backend, Cancel, Error, Model, ModelOptions, estimate};
use kinglet_tests::cases;

#[test]
fn a_flag_that_is_set_stops_the_next_step_and_no_other_session() {
    let case = &cases()[0];
    let model = Model::open(&case.folder, &ModelOptions::new().backend(Backend::Cpu)).unwrap();
    let mut session = model.session().unwrap();
    let cancel = Cancel::new();
    session.set_cancel(Some(cancel.clone()));
    session.feed(&case.tokens[..2]).unwrap();
    let before = session.last_logits().unwrap().to_vec();
    cancel.set();
    for tokens in [&case.tokens[..1], &case.tokens[..3]] {
        assert!(matches!(session.feed(tokens), Err(Error::Cancelled)));
        assert_eq!((session.position(), session.is_poisoned()), (2, false));
        assert_eq!(session.last_logits().unwrap(), before);
    }
    let mut fork = session.fork().unwrap();
    fork.feed(&case.tokens[2..4]).unwrap();
    cancel.clear();
    let went_on = session.feed(&case.tokens[2..4]).unwrap();
    assert_eq!(went_on, fork.logits());
}

#[test]
fn a_step_that_is_stopped_on_its_way_never_happened() {
    for case in cases().iter().filter(|case| case.name.ends_with("/plain")) {
        let options = ModelOptions::new().backend(Backend::Cpu).chunk(64);
        let model = Model::open(&case.folder, &options).unwrap();
        let tokens: Vec<u32> = case.tokens.iter().copied().cycle().take(3000).collect();
        let (mut session, mut expected) = (model.session().unwrap(), model.session().unwrap());
        session.feed(&tokens[..7]).unwrap();
        expected.feed(&tokens[..7]).unwrap();
        let cancel = Cancel::new();
        session.set_cancel(Some(cancel.clone()));
        let (mut stopped, mut delay) = (0, Duration::from_micros(500));
        let mut tries = 0;
        // Later each time, until the flag comes too late.
        loop {
            let setter = {
                let cancel = cancel.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(delay);
                    cancel.set();
                })
            };
            let result = session.feed(&tokens).map(|_| ());
            setter.join().unwrap();
            cancel.clear();
            match result {
                Err(Error::Cancelled) => {
                    stopped += 1;
                    assert_eq!(session.tokens(), &tokens[..7], "{}", case.name);
                    assert_eq!(session.logits(), expected.logits(), "{}", case.name);
                }
                other => {
                    other.unwrap();
                    tries += 1;
                    if stopped > 0 || tries == 50 {
                        break;
                    }
                    // On a busy machine, the thread may have come too late.
                    session = expected.fork().unwrap();
                    session.set_cancel(Some(cancel.clone()));
                    continue;
                }
            }
            delay *= 2;
        }
        assert!(stopped > 0, "{}: never in time", case.name);
        assert_eq!(session.logits(), expected.feed(&tokens).unwrap(), "{}", case.name);
    }
}

#[test]
fn memory_is_what_was_estimated() {
    for case in cases() {
        let length = case.tokens.len();
        let told =
            estimate(&case.folder, &ModelOptions::new().backend(Backend::Cpu), length).unwrap();
        let model = Model::open(&case.folder, &ModelOptions::new().backend(Backend::Cpu)).unwrap();
        assert_eq!(told.weights, model.weights().total_bytes(), "{}", case.name);
        let mut session = model.session().unwrap();
        session.feed(&case.tokens).unwrap();
        // Caches grow by pages, so they may hold more than the tokens need, but never less than
        // reported.
        let held = session.state_bytes() as u64;
        assert!(held >= told.state, "{}: {held} for {}", case.name, told.state);
        let more = estimate(&case.folder, &ModelOptions::new().backend(Backend::Cpu), length + 64)
            .unwrap();
        // A window starts within a page and ends within one.
        let spare = model.plan().states.iter().map(|state| match state.kind {
            StateKind::KeyValue { kv_heads, key_dim, value_dim, window: Some(_), .. } => {
                (2 * 64 * kv_heads * (key_dim + value_dim) * 4) as u64
            }
            _ => 0,
        });
        let most = more.state + spare.sum::<u64>();
        assert!(held <= most, "{}: {held} for at most {most}", case.name);
    }
}
