//! Sessions, and all that keeps, brings back, saves and reuses their state.

mod cancel;
mod going_back;
mod half;
mod prefix_cache;
mod prefix_disk;
mod saved;
mod saved_hostile;
mod sequences;
mod sessions;
mod soak;

use kinglet::{Model, ModelOptions};
use kinglet_tests::random::Random;
use kinglet_tests::{Case, cases, relative_l2};

/// The bound on the relative L2 error between two ways to the same f32 logits: each is within half of it.
pub(crate) const BOUND: f64 = 1e-5;

/// A case of each family, and each that has a window of its own or mixes kinds of layers.
pub(crate) fn chosen() -> Vec<Case> {
    let all = cases();
    let mut chosen: Vec<Case> = Vec::new();
    for case in all {
        let (family, name) = case.name.split_once('/').unwrap();
        let new = chosen.last().is_none_or(|last| !last.name.starts_with(&format!("{family}/")));
        if new || ["plain", "window", "mixed_layers", "caps"].contains(&name) {
            chosen.push(case);
        }
    }
    let families = kinglet::models::supported();
    for family in families {
        let has = |case: &Case| case.name.starts_with(&format!("{family}/"));
        assert!(chosen.iter().any(has), "no case of {family}");
    }
    chosen
}

pub(crate) fn open(case: &Case, options: &ModelOptions) -> Model {
    Model::open(&case.folder, options).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// Tokens of a sequence that is none of the fixture's.
pub(crate) fn tokens(random: &mut Random, vocab: usize, count: usize) -> Vec<u32> {
    (0..count).map(|_| random.between(0, vocab - 1) as u32).collect()
}

/// Logits after each of `tokens`, by a session of its own.
pub(crate) fn alone(model: &Model, tokens: &[u32]) -> Vec<f32> {
    model.session().unwrap().feed_all(tokens).unwrap().to_vec()
}

pub(crate) fn assert_near(got: &[f32], expected: &[f32], what: &str) {
    let error = relative_l2(got, expected);
    assert!(error <= BOUND, "{what}: {error:.2e}");
}

/// Rows `from..` of logits, `[tokens, vocab]`.
pub(crate) fn rows_from(model: &Model, logits: &[f32], from: usize) -> Vec<f32> {
    logits[from * model.vocab()..].to_vec()
}
