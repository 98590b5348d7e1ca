//! Sessions, and everything that keeps, restores, saves and reuses their state.

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
mod prediction;
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

/// Bound on the relative L2 error between two ways to the same f32 logits: each is within half of
/// it.
pub(crate) const BOUND: f64 = 1e-5;

/// What a session runs on.
#[derive(Clone, Debug)]
pub(crate) struct On {
    /// Name for messages.
    pub(crate) name: String,
    options: ModelOptions,
    pub(crate) wgpu: bool,
}

impl On {
    /// Its options, with the given number of threads if it uses threads.
    pub(crate) fn threads(&self, threads: usize) -> ModelOptions {
        if self.wgpu { self.options.clone() } else { self.options.clone().threads(threads) }
    }
}

/// The CPU.
pub(crate) fn cpu() -> On {
    On { name: "cpu".into(), options: ModelOptions::new().backend(Backend::Cpu), wgpu: false }
}

/// A device, if there is one, with its first target, since states don't depend on the others.
pub(crate) fn device() -> Option<On> {
    let target = wgpu_targets().into_iter().next()?;
    // Few and many tokens are then computed in the same precision, so that all ways to a state
    // agree.
    let options = target.options.activations(Activations::F32);
    Some(On { name: target.name, options, wgpu: true })
}

/// The cases that also run on a device: one for each kind of state and each mixture of kinds. The
/// software adapter is slow.
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

/// The chosen cases on the CPU, and some of them on a device.
pub(crate) fn everywhere() -> Vec<(Case, On)> {
    let mut all: Vec<(Case, On)> = chosen().into_iter().map(|case| (case, cpu())).collect();
    if let Some(device) = device() {
        all.extend(device_cases().into_iter().map(|case| (case, device.clone())));
    }
    all
}

/// A case of each family, plus those with their own window or a mixture of layers.
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

/// Random tokens, different from the fixture's.
pub(crate) fn tokens(random: &mut Random, vocab: usize, count: usize) -> Vec<u32> {
    (0..count).map(|_| random.between(0, vocab - 1) as u32).collect()
}

/// Logits after each of `tokens`, in a new session.
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
