//! Recurrent tensors in half precision: half the memory, a bounded error, everything else
//! unchanged.

use std::io::Cursor;

use kinglet::{Activations, Model, StateType};
use kinglet_tests::random::Random;
use kinglet_tests::{Case, rounded_error};

use crate::{On, alone, everywhere, open, rows_from, tokens};

/// Bound on the relative L2 error of the logits after 200 tokens. xlstm/plain is the worst of the
/// fixtures with 1.6e-3.
const BOUND: f64 = 5e-3;

fn model(case: &Case, on: &On, of_type: StateType) -> Model {
    open(case, &on.threads(2).activations(Activations::F32).state_type(of_type))
}

/// See [`rounded_error`].
fn error_of(model: &Model, got: &[f32], expected: &[f32]) -> f64 {
    rounded_error(model.spec(), got, expected)
}

/// Bytes of recurrent tensors, without a device's alignment.
fn recurrent_bytes(model: &Model) -> usize {
    model.plan().state_bytes(0)
}

#[test]
fn takes_half_the_memory_and_keeps_to_its_bound() {
    let mut worst = (0.0, String::new());
    for (case, on) in everywhere() {
        let what = format!("{} on {}", case.name, on.name);
        let (whole, half) = (model(&case, &on, StateType::F32), model(&case, &on, StateType::F16));
        assert_eq!(2 * recurrent_bytes(&half), recurrent_bytes(&whole), "{what}");
        if recurrent_bytes(&whole) > 0 {
            let bytes = |model: &Model| model.session().unwrap().state_bytes() as f64;
            let share = bytes(&half) / bytes(&whole);
            let bound = if on.wgpu { 0.5..0.7 } else { 0.5..0.5000001 };
            assert!(bound.contains(&share), "{what}: {share}");
        }
        let count = if on.wgpu { 60 } else { 200 };
        let sequence = tokens(&mut Random::named(&case.name), whole.vocab(), count);
        let expected = alone(&whole, &sequence);
        // Token by token, so that every token rounds the state.
        let mut session = half.session().unwrap();
        let mut got = Vec::new();
        for token in &sequence {
            got.extend_from_slice(session.feed(&[*token]).unwrap());
        }
        let error = error_of(&whole, &got, &expected);
        assert!(error <= BOUND, "{what}: {error:.2e}");
        // In one run it is rounded once, at the end.
        let run = error_of(&whole, &alone(&half, &sequence), &expected);
        assert!(run <= BOUND, "{what}: {run:.2e} in one run");
        if recurrent_bytes(&whole) == 0 {
            assert!(error <= 1e-5, "{what}: {error:.2e} without recurrent tensors");
        } else {
            assert!(error > 1e-6, "{what}: nothing was rounded");
        }
        if error > worst.0 {
            worst = (error, what);
        }
    }
    println!("worst: {worst:?}");
}

#[test]
fn goes_back_forks_and_travels_as_whole_precision_does() {
    for (case, on) in everywhere() {
        let what = format!("{} on {}", case.name, on.name);
        let (whole, half) = (model(&case, &on, StateType::F32), model(&case, &on, StateType::F16));
        let sequence = tokens(&mut Random::named(&case.name), whole.vocab(), 120);
        let (start, rest) = sequence.split_at(70);
        let mut session = half.session().unwrap();
        session.feed(start).unwrap();
        // One more token alone: double-buffered tensors swap.
        let (one, rest) = rest.split_at(1);
        session.feed(one).unwrap();
        let (snapshot, mut fork) = (session.snapshot().unwrap(), session.fork().unwrap());
        let mut file = Vec::new();
        session.write_to(&mut file, None).unwrap();
        let first = session.feed_all(rest).unwrap().to_vec();
        assert_eq!(fork.feed_all(rest).unwrap(), first, "{what}: a fork");
        session.restore(&snapshot).unwrap();
        assert_eq!(session.feed_all(rest).unwrap(), first, "{what}: restored");
        // The file holds what was stored, bit for bit; it can continue in full precision too.
        let mut loaded = half.read_session(Cursor::new(&file)).unwrap().session;
        assert_eq!(loaded.feed_all(rest).unwrap(), first, "{what}: loaded");
        let mut loaded = whole.read_session(Cursor::new(&file)).unwrap().session;
        let expected = rows_from(&whole, &alone(&whole, &sequence), 71);
        let error = error_of(&whole, loaded.feed_all(rest).unwrap(), &expected);
        assert!(error <= BOUND, "{what}: {error:.2e}");
    }
}
