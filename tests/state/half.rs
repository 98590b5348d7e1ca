//! Recurrent tensors in half precision: half the memory, a bounded error, and all else as it is.

use std::io::Cursor;

use kinglet::{Model, ModelOptions, StateType};
use kinglet_tests::random::Random;
use kinglet_tests::relative_l2;

use crate::{alone, chosen, open, rows_from, tokens};

/// The bound on the relative L2 error of the logits after 200 tokens. xlstm/plain is the worst of the fixtures with 1.6e-3.
const BOUND: f64 = 5e-3;

fn half() -> ModelOptions {
    ModelOptions::new().threads(2).state_type(StateType::F16)
}

fn recurrent_bytes(model: &Model) -> usize {
    model.session().unwrap().state_bytes()
}

#[test]
fn takes_half_the_memory_and_keeps_to_its_bound() {
    let mut worst = (0.0, String::new());
    for case in chosen() {
        let (whole, half) = (open(&case, &ModelOptions::new().threads(2)), open(&case, &half()));
        assert_eq!(2 * recurrent_bytes(&half), recurrent_bytes(&whole), "{}", case.name);
        let sequence = tokens(&mut Random::named(&case.name), whole.vocab(), 200);
        let expected = alone(&whole, &sequence);
        // Token by token, so that every one of them rounds the state.
        let mut session = half.session().unwrap();
        let mut got = Vec::new();
        for token in &sequence {
            got.extend_from_slice(session.feed(&[*token]).unwrap());
        }
        let error = relative_l2(&got, &expected);
        assert!(error <= BOUND, "{}: {error:.2e}", case.name);
        if recurrent_bytes(&whole) == 0 {
            assert!(error <= 1e-5, "{}: {error:.2e} without recurrent tensors", case.name);
        } else {
            assert!(error > 0.0, "{}: nothing was rounded", case.name);
        }
        if error > worst.0 {
            worst = (error, case.name);
        }
    }
    println!("worst: {worst:?}");
}

#[test]
fn goes_back_forks_and_travels_as_whole_precision_does() {
    for case in chosen() {
        let (whole, half) = (open(&case, &ModelOptions::new().threads(1)), open(&case, &half()));
        let sequence = tokens(&mut Random::named(&case.name), whole.vocab(), 120);
        let (start, rest) = sequence.split_at(70);
        let mut session = half.session().unwrap();
        session.feed(start).unwrap();
        let (snapshot, mut fork) = (session.snapshot().unwrap(), session.fork().unwrap());
        let mut file = Vec::new();
        session.write_to(&mut file, None).unwrap();
        let first = session.feed_all(rest).unwrap().to_vec();
        assert_eq!(fork.feed_all(rest).unwrap(), first, "{}: a fork", case.name);
        session.restore(&snapshot).unwrap();
        assert_eq!(session.feed_all(rest).unwrap(), first, "{}: restored", case.name);
        // What was stored is in the file, bit for bit; in whole precision it goes on too.
        let mut loaded = half.read_session(Cursor::new(&file)).unwrap().session;
        assert_eq!(loaded.feed_all(rest).unwrap(), first, "{}: loaded", case.name);
        let mut loaded = whole.read_session(Cursor::new(&file)).unwrap().session;
        let expected = rows_from(&whole, &alone(&whole, &sequence), 70);
        let error = relative_l2(loaded.feed_all(rest).unwrap(), &expected);
        assert!(error <= BOUND, "{}: {error:.2e}", case.name);
    }
}
