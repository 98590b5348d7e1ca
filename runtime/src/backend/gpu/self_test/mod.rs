//! The self-test of a device: before a model runs there, a small layer of each kind that the model has is run and compared with the
//! processor. Kernels do without the features that a driver gets wrong; where that doesn't help, the device is refused.
//!
//! Faulty drivers are common. The test takes some milliseconds for each kind of layer, once per process; where results can be kept in a folder,
//! once per driver.

mod probe;
mod sampling;
mod tensors;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use kinglet_models::ModelSpec;
use kinglet_shaders::Arithmetic;

use super::api::Gpu;
use super::executable::GpuExecutable;
use super::recording::FEW;
use super::requirement::{Feature, Requirement};
use super::target::Target;
use crate::backend::cpu::CpuExecutable;
use crate::backend::executable::{BackendRun, Executable, Logits};
use crate::files::fnv1a::Fnv1a;
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Activations, CacheType, Error, ModelOptions, StateType};
use probe::{Probe, VOCAB};

/// Tokens of each step of each form: tiles and chunks, small tiles, few tokens. Two sessions take steps of few tokens together.
const FORMS: [&[usize]; 3] = [&[70], &[9], &[3, 1, 1, 2, 1]];
/// Bound on the relative L2 error of a token's logits where all arithmetic is in f32.
const EXACT: f64 = 1e-3;
/// The same where activations are rounded. Faulty kernels differ by more.
const ROUNDED: f64 = 0.05;
/// The share of a form's tokens that must be within the bound where rounding may send some to other experts.
const UNMOVED: f64 = 0.7;
/// The key of the test of choosing tokens.
const SAMPLING: &str = "sampling";

/// Tests every kind of block of `spec` on `device`, and has kernels do without what the driver gets wrong.
///
/// # Errors
/// When no form of some kernel gives right results, or the device fails altogether.
pub(super) async fn run<A: Gpu>(
    device: &Arc<A>,
    spec: &ModelSpec,
    weights: &Weights,
    options: &ModelOptions,
) -> Result<(), Error> {
    let target = device.target();
    let exact = options.activations == Activations::F32;
    let mut probes: Vec<Probe> = Vec::new();
    for block in &spec.blocks {
        match Probe::new(spec, weights, block) {
            Ok(probe) if probes.iter().all(|known| known.key != probe.key) => probes.push(probe),
            Ok(_) => {}
            // A layer that has no small form is not tested.
            Err(Error::Unsupported { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let how = format!("{exact} {:?} {:?}", options.cache_type, options.state_type);
    let how = how.as_str();
    probes.retain(|probe| !target.was_tested(&key(probe, how)));
    if probes.is_empty() {
        return Ok(());
    }
    let kept = kept(target, &probes, how);
    if let Some(avoided) = kept.as_ref().and_then(|path| read(path)) {
        target.avoid(&target.avoided() | &avoided);
    } else {
        for probe in &probes {
            test(device, probe, options).await?;
        }
        if let Some(path) = kept {
            write(&path, &target.avoided());
        }
    }
    probes.iter().for_each(|probe| target.set_tested(key(probe, how)));
    Ok(())
}

fn key(probe: &Probe, how: &str) -> String {
    format!("{} {how}", probe.key)
}

/// The file with the results of these tests on this device, if results are kept.
fn kept(target: &Target, probes: &[Probe], how: &str) -> Option<PathBuf> {
    let folder = target.options.cache_dir.as_ref().filter(|_| !target.has_faults)?;
    let mut hash = Fnv1a::new();
    let info = &target.info;
    let capabilities = format!("{:?} {}", target.capabilities, target.max_binding);
    let version = env!("CARGO_PKG_VERSION");
    let shaders = kinglet_shaders::FINGERPRINT;
    for word in [&info.name, &info.driver, &info.api, &capabilities, version, shaders] {
        hash.write(word.as_bytes());
        hash.write(&[0]);
    }
    probes.iter().for_each(|probe| hash.write(key(probe, how).as_bytes()));
    Some(folder.join(format!("self-test-{:016x}", hash.finish())))
}

fn read(path: &std::path::Path) -> Option<HashSet<Requirement>> {
    let text = String::from_utf8(crate::files::cache_dir::read(path)?).ok()?;
    text.lines().map(Requirement::parse).collect()
}

fn write(path: &std::path::Path, avoided: &HashSet<Requirement>) {
    let mut lines: Vec<_> = avoided.iter().map(|requirement| format!("{requirement}\n")).collect();
    lines.sort();
    if let Err(error) = crate::files::cache_dir::write(path, lines.concat().as_bytes()) {
        log::debug!("{} was not written: {error}", path.display());
    }
}

/// The result of a probe on a device.
struct Outcome {
    /// What its kernels required.
    required: BTreeSet<Requirement>,
    /// Why it failed, if it did.
    failure: Option<String>,
}

/// Tests one probe; where it fails, searches for the least to do without.
async fn test<A: Gpu>(device: &Arc<A>, probe: &Probe, options: &ModelOptions) -> Result<(), Error> {
    let target = device.target();
    let expected = logits(&on_processor(probe, options)?).await?;
    let before = target.avoided();
    let first = match outcome(device, probe, options, &expected).await {
        // Too little memory even for a small layer: the real one reports it.
        Err(Error::DeviceLimit { .. }) => return Ok(()),
        other => other?,
    };
    let Some(reason) = first.failure else { return Ok(()) };
    log::debug!("{}: {} fails its test: {reason}", target.info.name, probe.name);
    for without in ways(&first.required) {
        target.avoid(&before | &without);
        // Fallbacks may require what was not in use before.
        let mut outcome = outcome(device, probe, options, &expected).await?;
        if outcome.failure.is_some() {
            let more: HashSet<_> = outcome.required.iter().copied().collect();
            if more.is_empty() || without.len() < first.required.len() {
                continue;
            }
            target.avoid(&(&before | &without) | &more);
            outcome = self::outcome(device, probe, options, &expected).await?;
        }
        if outcome.failure.is_none() {
            let avoided = target.avoided();
            let mut names: Vec<_> = avoided.difference(&before).map(ToString::to_string).collect();
            names.sort();
            log::warn!(
                "{} fails its self-test with {} layers ({reason}); kernels do without: {}",
                target.info.name,
                probe.name,
                names.join(", ")
            );
            return Ok(());
        }
    }
    target.avoid(before);
    Err(target.fault(format!(
        "fails its self-test with {} layers ({reason}) whatever kernels do without; use another adapter or the processor",
        probe.name
    )))
}

/// What to try to do without: each requirement by itself, then all for a feature, then everything.
fn ways(required: &BTreeSet<Requirement>) -> Vec<HashSet<Requirement>> {
    let mut ways: Vec<HashSet<Requirement>> =
        required.iter().map(|one| HashSet::from([*one])).collect();
    let features: BTreeSet<Feature> = required.iter().map(|one| one.feature()).collect();
    let of = |feature: &Feature| {
        required.iter().copied().filter(|one| one.feature() == *feature).collect()
    };
    ways.extend(features.iter().map(of));
    ways.push(required.iter().copied().collect());
    ways
}

fn on_processor(probe: &Probe, options: &ModelOptions) -> Result<CpuExecutable, Error> {
    let exact = ModelOptions::new().threads(1).activations(Activations::F32);
    CpuExecutable::new(Arc::new(plan(probe, options)), &probe.weights, &exact)
}

/// A probe's plan, with states stored as the model's.
fn plan(probe: &Probe, options: &ModelOptions) -> Plan {
    options.stored(Plan::new(&probe.spec))
}

/// Runs a probe on the device. Failures of the device as a whole are errors.
async fn outcome<A: Gpu>(
    device: &Arc<A>,
    probe: &Probe,
    options: &ModelOptions,
    expected: &[f32],
) -> Result<Outcome, Error> {
    let own = options.clone().chunk(FORMS[0][0]);
    let plan = Arc::new(plan(probe, options));
    let executable = match GpuExecutable::build(device.clone(), plan, &probe.weights, &own) {
        Ok(executable) => executable,
        Err(Error::Device { message, .. }) => {
            device.check()?;
            let required = device.refused().into_iter().flat_map(Requirement::of).collect();
            return Ok(Outcome { required, failure: Some(message) });
        }
        Err(error) => return Err(error),
    };
    let required = executable.variants().flat_map(Requirement::of).collect();
    // Rounding decides between two codes.
    let whole = (CacheType::F32, StateType::F32) == (options.cache_type, options.state_type);
    let rounded = !whole || executable.variants().any(|v| v.arithmetic() != Arithmetic::F32);
    let got = logits(&executable).await?;
    let bound = if rounded { ROUNDED } else { EXACT };
    let pairs = got.chunks(VOCAB).zip(expected.chunks(VOCAB));
    let errors: Vec<f64> = pairs.map(|(got, expected)| relative_l2(got, expected)).collect();
    let (mut error, mut rest) = (0.0f64, &errors[..]);
    for form in FORMS {
        let (own, others) =
            rest.split_at(rest.len().min(form.iter().map(|&count| count * sessions(count)).sum()));
        let mut own = own.to_vec();
        own.sort_by(f64::total_cmp);
        let moved = if probe.routes && rounded { 1.0 - UNMOVED } else { 0.0 };
        let counted = own.len() - (own.len() as f64 * moved) as usize;
        error = own.get(counted.saturating_sub(1)).map_or(error, |worst| error.max(*worst));
        rest = others;
    }
    let broken = got.len() != expected.len() || got.iter().any(|x| !x.is_finite());
    log::debug!("self-test of {}: {error:.1e} of {bound:.0e}", probe.name);
    if broken {
        return Ok(Outcome { required, failure: Some("results are not finite".into()) });
    }
    if error > bound {
        return Ok(Outcome { required, failure: Some(format!("results are off by {error:.1e}")) });
    }
    if device.target().was_tested(SAMPLING) {
        return Ok(Outcome { required, failure: None });
    }
    let failure = sampling::wrong(executable.program()).await?;
    if failure.is_none() {
        device.target().set_tested(SAMPLING.into());
    }
    Ok(Outcome { required: BTreeSet::from([Requirement::sampling()]), failure })
}

/// How many sessions take a step of `count` tokens each.
fn sessions(count: usize) -> usize {
    if count <= FEW { 2 } else { 1 }
}

/// Tokens of the longest session.
fn length() -> usize {
    FORMS.into_iter().flatten().sum()
}

/// The logits of all tokens of [`FORMS`], step by step; within a step, session by session.
async fn logits(executable: &dyn Executable) -> Result<Vec<f32>, Error> {
    let mut states = [executable.new_state()?, executable.new_state()?];
    let most = executable.max_step_tokens().max(1);
    let (mut all, mut first) = (Vec::new(), 0);
    for &count in FORMS.into_iter().flatten() {
        // Tokens of the vocabulary, shuffled.
        let tokens: Vec<u32> = (first..first + count).map(|i| (i * 89 % VOCAB) as u32).collect();
        let sessions = sessions(count);
        let mut rows = [Vec::new(), Vec::new()];
        for tokens in tokens.chunks(most) {
            let mut runs = Vec::new();
            for (state, logits) in states.iter_mut().zip(&mut rows).take(sessions) {
                let (state, wanted) = (&mut **state, Logits::All);
                let stream = None;
                runs.push(BackendRun { tokens, vectors: None, state, wanted, logits, stream });
            }
            if sessions * tokens.len() <= most {
                executable.step(runs).await?;
                continue;
            }
            for run in runs {
                executable.step(vec![run]).await?;
            }
        }
        rows.iter().for_each(|rows| all.extend_from_slice(rows));
        first += count;
    }
    Ok(all)
}

fn relative_l2(got: &[f32], expected: &[f32]) -> f64 {
    let sum = |terms: &mut dyn Iterator<Item = f64>| terms.map(|x| x * x).sum::<f64>();
    let pairs = got.iter().zip(expected);
    let off = sum(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let size = sum(&mut expected.iter().map(|b| f64::from(*b)));
    (off / size.max(f64::MIN_POSITIVE)).sqrt()
}
