//! Keys and values as codes of 8 and 4 bits: less memory, a bounded error, everything else
//! unchanged.

use std::io::Cursor;

use kinglet::{Activations, CacheType, Model};
use kinglet_tests::random::Random;
use kinglet_tests::{Case, case_named, relative_l2};

use crate::{On, alone, cpu, device, open, rows_from, tokens};

/// Each type with its fraction of memory if heads are whole groups, the bound on the relative L2
/// error of the logits against exact caches, and the bound between two ways to the same result,
/// where a number between two codes may get the other one. The worst of all cases reached a third
/// of these.
const TYPES: [(CacheType, f64, f64, f64); 2] =
    [(CacheType::Affine8, 36.0 / 128.0, 2e-2, 2e-3), (CacheType::Affine4, 20.0 / 128.0, 0.3, 0.05)];

/// Models with attention: alone, with norms, with a window, with recurrent layers.
fn with_attention() -> Vec<Case> {
    let names = ["llama/plain", "qwen3/plain", "mistral/window", "granitemoehybrid/mixed"];
    names.map(case_named).into()
}

fn ons() -> Vec<On> {
    [Some(cpu()), device()].into_iter().flatten().collect()
}

fn model(case: &Case, on: &On, of_type: CacheType) -> Model {
    open(case, &on.threads(2).activations(Activations::F32).cache_type(of_type))
}

/// The worst error so far, and its case.
struct Worst(f64, String);

impl Worst {
    fn check(&mut self, error: f64, bound: f64, what: &str) {
        assert!(error <= bound, "{what}: {error:.2e} of {bound:.0e}");
        if error / bound > self.0 {
            *self = Self(error / bound, format!("{what}: {error:.2e}"));
        }
    }
}

#[test]
fn less_memory_and_a_bounded_error_however_tokens_are_fed() {
    let mut worst = Worst(0.0, String::new());
    for case in with_attention() {
        let exact = model(&case, &cpu(), CacheType::F32);
        let all = tokens(&mut Random::named(&case.name), case.vocab(), 200);
        let expected = alone(&exact, &all);
        for (of_type, _, bound, noise) in TYPES {
            let mut first: Option<Vec<f32>> = None;
            for on in ons() {
                let what = format!("{} on {}, {of_type:?}", case.name, on.name);
                let model = model(&case, &on, of_type);
                let whole = alone(&model, &all);
                let error = relative_l2(&whole, &expected);
                worst.check(error, bound, &what);
                assert!(error > 1e-6, "{what}: nothing was rounded");
                // The same codes on every backend.
                let first = first.get_or_insert_with(|| whole.clone());
                worst.check(relative_l2(&whole, first), noise, &format!("{what} and another"));
                for piece in [1, 7, 64] {
                    let mut session = model.session().unwrap();
                    let mut got = Vec::new();
                    for tokens in all.chunks(piece).take(if piece == 1 { 80 } else { 400 }) {
                        got.extend_from_slice(session.feed_all(tokens).unwrap());
                    }
                    let error = relative_l2(&got, &whole[..got.len()]);
                    worst.check(error, noise, &format!("{what}, by {piece}"));
                }
            }
        }
    }
    println!("worst: {} ({:.2} of its bound)", worst.1, worst.0);
}

#[test]
fn memory_is_what_the_codes_take() {
    let case = case_named("llama/plain");
    for (of_type, share, _, _) in TYPES {
        let (exact, model) = (model(&case, &cpu(), CacheType::F32), model(&case, &cpu(), of_type));
        // Whole pages.
        let all = tokens(&mut Random::named("memory"), case.vocab(), 128);
        let bytes = |model: &Model| {
            let mut session = model.session().unwrap();
            session.feed(&all).unwrap();
            assert_eq!(session.state_bytes(), model.plan().state_bytes(128));
            session.state_bytes() as f64
        };
        let (whole, less) = (bytes(&exact), bytes(&model));
        let dim = exact.plan().states.iter().find_map(|state| match state.kind {
            kinglet::plan::StateKind::KeyValue { key_dim, .. } => Some(key_dim),
            kinglet::plan::StateKind::Tensor { .. } => None,
        });
        // A head's last group has full size.
        let padded = dim.unwrap().next_multiple_of(32) as f64 / dim.unwrap() as f64;
        assert!((less / whole / (share * padded) - 1.0).abs() < 1e-9, "{less} of {whole}");
    }
}

#[test]
fn goes_back_forks_and_travels_as_exact_caches_do() {
    for case in with_attention() {
        let all = tokens(&mut Random::named(&case.name), case.vocab(), 150);
        let (start, rest) = all.split_at(90);
        for (of_type, _, bound, noise) in TYPES {
            let exact = model(&case, &cpu(), CacheType::F32);
            let ons = ons();
            let models: Vec<Model> = ons.iter().map(|on| model(&case, on, of_type)).collect();
            for (on, model) in ons.iter().zip(&models) {
                let what = format!("{} on {}, {of_type:?}", case.name, on.name);
                let mut session = model.session().unwrap();
                session.feed(start).unwrap();
                let (snapshot, mut fork) = (session.snapshot().unwrap(), session.fork().unwrap());
                let mut file = Vec::new();
                session.write_to(&mut file, None).unwrap();
                let first = session.feed_all(rest).unwrap().to_vec();
                assert_eq!(fork.feed_all(rest).unwrap(), first, "{what}: a fork");
                session.restore(&snapshot).unwrap();
                assert_eq!(session.feed_all(rest).unwrap(), first, "{what}: restored");
                session.rewind_and_replay(start.len()).unwrap();
                let error = relative_l2(session.feed_all(rest).unwrap(), &first);
                assert!(error <= noise, "{what}: rewound, {error:.2e}");
                // The file holds what was stored, whatever reads it.
                for other in &models {
                    let mut loaded = other.read_session(Cursor::new(&file)).unwrap().session;
                    let error = relative_l2(loaded.feed_all(rest).unwrap(), &first);
                    assert!(error <= noise, "{what}: loaded, {error:.2e}");
                }
                let mut loaded = exact.read_session(Cursor::new(&file)).unwrap().session;
                let expected = rows_from(&exact, &alone(&exact, &all), start.len());
                let error = relative_l2(loaded.feed_all(rest).unwrap(), &expected);
                assert!(error <= bound, "{what}: loaded without codes, {error:.2e}");
            }
        }
    }
}
