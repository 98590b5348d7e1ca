//! Sessions, and all that keeps, brings back, saves and reuses their state.

mod answer;
mod answer_turns;
mod batch;
mod cache_bits;
mod cancel;
mod embeddings;
mod generation;
mod going_back;
mod half;
mod own_backend;
mod prefix_cache;
mod prefix_disk;
mod saved;
mod saved_hostile;
mod sequences;
mod sessions;
mod soak;
mod speculate;
mod travel;
mod window;

use kinglet::{Activations, Backend, Model, ModelOptions};
use kinglet_tests::random::Random;
use kinglet_tests::target::wgpu_targets;
use kinglet_tests::{Case, case_named, cases, relative_l2};

/// The bound on the relative L2 error between two ways to the same f32 logits: each is within half of it.
pub(crate) const BOUND: f64 = 1e-5;

/// What a session runs on.
#[derive(Clone, Debug)]
pub(crate) struct On {
    /// For messages.
    pub(crate) name: String,
    options: ModelOptions,
    pub(crate) wgpu: bool,
}

impl On {
    /// Its options, with so many threads where threads compute.
    pub(crate) fn threads(&self, threads: usize) -> ModelOptions {
        if self.wgpu { self.options.clone() } else { self.options.clone().threads(threads) }
    }
}

/// The processor.
pub(crate) fn cpu() -> On {
    On { name: "cpu".into(), options: ModelOptions::new().backend(Backend::Cpu), wgpu: false }
}

/// A device, if there is one: of its ways to compute the first, since a state knows nothing of them.
pub(crate) fn device() -> Option<On> {
    let target = wgpu_targets().into_iter().next()?;
    // Few tokens and many are computed in the same precision then, so that all ways to a state agree.
    let options = target.options.activations(Activations::F32);
    Some(On { name: target.name, options, wgpu: true })
}

/// The cases that run on a device too: one for each kind of state and each mixture of kinds. The software adapter is slow.
const ON_DEVICE: [&str; 6] = [
    "bamba/plain",
    "granitemoehybrid/mixed",
    "mamba/plain",
    "mamba2/plain",
    "mistral/window",
    "xlstm/plain",
];

/// Whether a case is one of those.
pub(crate) fn runs_on_device(case: &Case) -> bool {
    ON_DEVICE.contains(&&*case.name)
}

/// Those cases.
pub(crate) fn device_cases() -> Vec<Case> {
    ON_DEVICE.map(case_named).into()
}

/// The chosen cases on the processor, and some of them on a device.
pub(crate) fn everywhere() -> Vec<(Case, On)> {
    let mut all: Vec<(Case, On)> = chosen().into_iter().map(|case| (case, cpu())).collect();
    if let Some(device) = device() {
        all.extend(device_cases().into_iter().map(|case| (case, device.clone())));
    }
    all
}

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
