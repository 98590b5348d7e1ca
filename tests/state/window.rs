//! Attention with a window and sinks: bounded memory, and everything else that a session does.

use std::io::Cursor;

use kinglet::{Activations, Error, Model, ModelOptions, SavedStateError};
use kinglet_tests::random::Random;
use kinglet_tests::{Case, case_named, relative_l2};

use crate::{assert_near, cpu, device, open, tokens};

const WINDOW: usize = 20;
const SINKS: usize = 3;

/// Models with attention: alone, with norms, with recurrent layers.
fn with_attention() -> Vec<Case> {
    ["llama/plain", "qwen3/plain", "granitemoehybrid/mixed", "bamba/plain"].map(case_named).into()
}

/// The model with the window, on every available target.
fn models(case: &Case) -> Vec<(String, Model)> {
    let on = [Some(cpu()), device()];
    let each = on.into_iter().flatten().map(|on| {
        let options = on.threads(2).attention_window(WINDOW, SINKS).activations(Activations::F32);
        // A device has room for one step beyond the window.
        let options = options.chunk(64);
        (format!("{} on {}", case.name, on.name), open(case, &options))
    });
    each.collect()
}

#[test]
fn a_window_bounds_memory_and_any_cut_of_the_input_gives_the_same() {
    for case in with_attention() {
        let all = tokens(&mut Random::named(&case.name), case.vocab(), 330);
        let mut first: Option<Vec<f32>> = None;
        for (name, model) in models(&case) {
            let mut whole = model.session().unwrap();
            let expected = whole.feed(&all).unwrap().to_vec();
            for piece in [1, 7, 64, 150] {
                let mut session = model.session().unwrap();
                let pieces = all.chunks(piece);
                let (mut last, mut bytes) = (Vec::new(), Vec::new());
                for tokens in pieces.take(if piece == 1 { 90 } else { 400 }) {
                    last = session.feed(tokens).unwrap().to_vec();
                    bytes.push(session.state_bytes());
                }
                let position = session.position();
                let mut alone = model.session().unwrap();
                let expected = alone.feed(&all[..position]).unwrap();
                let error = relative_l2(&last, expected);
                assert!(error <= 1e-4, "{name}, by {piece}: {error:.2e}");
                if piece == 64 {
                    let (early, late) = (bytes[2], bytes[bytes.len() - 1]);
                    assert_eq!(early, late, "{name}: memory grows: {bytes:?}");
                }
            }
            // What the window excludes makes a difference.
            let full = open(&case, &ModelOptions::new().threads(1).activations(Activations::F32));
            let mut full = full.session().unwrap();
            assert!(relative_l2(&expected, full.feed(&all).unwrap()) > 1e-4, "{name}: no window");
            if let Some(first) = &first {
                let error = relative_l2(&expected, first);
                assert!(error <= 1e-4, "{name}: {error:.2e} from the processor's");
            }
            first = Some(expected);
        }
    }
}

#[test]
fn windowed_sessions_fork_rewind_and_are_saved_with_their_sinks() {
    for case in with_attention() {
        for (name, model) in models(&case) {
            let mut random = Random::named(&name);
            let (prompt, rest) =
                (tokens(&mut random, case.vocab(), 120), tokens(&mut random, case.vocab(), 50));
            let mut session = model.session().unwrap();
            session.feed(&prompt).unwrap();
            let snapshot = session.snapshot().unwrap();
            let mut fork = session.fork().unwrap();
            let mut saved = Vec::new();
            session.write_to(&mut saved, None).unwrap();
            let expected = session.feed(&rest).unwrap().to_vec();
            assert_near(fork.feed(&rest).unwrap(), &expected, &name);
            session.restore(&snapshot).unwrap();
            assert_near(session.feed(&rest).unwrap(), &expected, &name);
            // Saved, and read by every model with the same window.
            for (there, other) in models(&case) {
                let mut read = other.read_session(Cursor::new(&saved)).unwrap().session;
                let error = relative_l2(read.feed(&rest).unwrap(), &expected);
                assert!(error <= 1e-4, "{name} read by {there}: {error:.2e}");
                // Bit for bit what was saved, before anything is fed.
                let again = other.read_session(Cursor::new(&saved)).unwrap().session;
                let mut bytes = Vec::new();
                again.write_to(&mut bytes, None).unwrap();
                assert!(bytes == saved, "{name} by {there}: saved as something else");
            }
            // Another window, other sinks or none mean another state.
            for (window, sinks) in [(Some(WINDOW + 1), SINKS), (Some(WINDOW), SINKS - 1), (None, 0)]
            {
                let mut options = ModelOptions::new().threads(1);
                (options.attention_window, options.attention_sinks) = (window, sinks);
                let error = open(&case, &options).read_session(Cursor::new(&saved)).map(drop);
                let error = error.unwrap_err();
                let other = matches!(
                    error,
                    Error::SavedState { source: SavedStateError::OtherModel { .. }, .. }
                );
                assert!(other, "{name}: {error}");
            }
        }
    }
}

#[test]
fn windows_that_make_no_sense_are_refused() {
    let case = case_named("llama/plain");
    for (window, sinks) in [(Some(0), 0), (None, 3), (Some(usize::MAX), 1), (Some(5), usize::MAX)] {
        let mut options = ModelOptions::new();
        (options.attention_window, options.attention_sinks) = (window, sinks);
        let error = Model::open(&case.folder, &options).map(drop).unwrap_err();
        assert!(matches!(error, Error::Option { .. }), "{window:?} {sinks}: {error}");
    }
}
