//! Before a model runs on a device, every kind of layer that it has is run there in small and held against the processor. What a
//! driver gets wrong, kernels do without; where nothing helps, the device is refused.
//!
//! Drivers with faults are what users of every engine of this kind meet first. The test takes some milliseconds for a kind of
//! layer, once in a process; where there is a folder to keep things in, once for a driver.

mod probe;
mod sampling;
mod tensors;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use kinglet_models::ModelSpec;
use kinglet_shaders::Arithmetic;

use super::device::Device;
use super::executable::WgpuExecutable;
use super::fault_injection;
use super::reliance::{Reliance, Trait};
use crate::backend::cpu::CpuExecutable;
use crate::backend::executable::{BackendRun, Executable, Logits};
use crate::files::fnv1a::Fnv1a;
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Activations, CacheType, Error, ModelOptions, StateType};
use probe::{Probe, VOCAB};

/// Tokens of each step of each form: by tiles and in chunks, by small tiles, and few.
const FORMS: [&[usize]; 3] = [&[70], &[9], &[3, 1, 1, 2, 1]];
/// Relative L2 error of a token's logits where all arithmetic is in f32.
const EXACT: f64 = 1e-3;
/// The same where activations are rounded. What a driver gets wrong is off by more.
const ROUNDED: f64 = 0.05;
/// The share of a form's tokens that must be as near where rounding may send some to other experts.
const UNMOVED: f64 = 0.7;
/// The name of the test of choosing tokens.
const CHOOSING: &str = "choosing";

/// Tests every kind of block of `spec` on `device`, and has it do without what it gets wrong.
///
/// # Errors
/// When no form of some kernel gives right results, or the device fails altogether.
pub(super) async fn run(
    device: &Arc<Device>,
    spec: &ModelSpec,
    weights: &Weights,
    options: &ModelOptions,
) -> Result<(), Error> {
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
    let exact = format!("{exact} {:?} {:?}", options.cache_type, options.state_type);
    let exact = exact.as_str();
    probes.retain(|probe| !device.was_tested(&key(probe, exact)));
    if probes.is_empty() {
        return Ok(());
    }
    let kept = kept(device, &probes, exact);
    if let Some(avoided) = kept.as_ref().and_then(|path| read(path)) {
        device.avoid(&device.avoided() | &avoided);
    } else {
        for probe in &probes {
            test(device, probe, options).await?;
        }
        if let Some(path) = kept {
            write(&path, &device.avoided());
        }
    }
    probes.iter().for_each(|probe| device.is_tested(key(probe, exact)));
    Ok(())
}

fn key(probe: &Probe, how: &str) -> String {
    format!("{} {how}", probe.key)
}

/// The file that says how these tests ended on this device, if anything is kept.
fn kept(device: &Device, probes: &[Probe], how: &str) -> Option<PathBuf> {
    let folder = device.options.cache_dir.as_ref().filter(|_| !fault_injection::is_on())?;
    let mut hash = Fnv1a::new();
    let info = &device.info;
    let capabilities = format!("{:?} {}", device.capabilities, device.max_binding);
    let version = env!("CARGO_PKG_VERSION");
    let shaders = kinglet_shaders::FINGERPRINT;
    for word in [&info.name, &info.driver, &info.api, &capabilities, version, shaders] {
        hash.write(word.as_bytes());
        hash.write(&[0]);
    }
    probes.iter().for_each(|probe| hash.write(key(probe, how).as_bytes()));
    Some(folder.join(format!("self-test-{:016x}", hash.finish())))
}

fn read(path: &std::path::Path) -> Option<HashSet<Reliance>> {
    let text = String::from_utf8(crate::files::cache_dir::read(path)?).ok()?;
    text.lines().map(Reliance::parse).collect()
}

fn write(path: &std::path::Path, avoided: &HashSet<Reliance>) {
    let mut lines: Vec<_> = avoided.iter().map(|reliance| format!("{reliance}\n")).collect();
    lines.sort();
    if let Err(error) = crate::files::cache_dir::write(path, lines.concat().as_bytes()) {
        log::debug!("{} was not written: {error}", path.display());
    }
}

/// What became of a probe on a device.
struct Outcome {
    /// What its kernels relied on.
    relied: BTreeSet<Reliance>,
    /// Why it failed, if it did.
    failure: Option<String>,
}

/// Tests one probe; where it fails, looks for the least to do without.
async fn test(device: &Arc<Device>, probe: &Probe, options: &ModelOptions) -> Result<(), Error> {
    let expected = logits(&on_processor(probe, options)?).await?;
    let before = device.avoided();
    let first = match outcome(device, probe, options, &expected).await {
        // Too little room even for a small layer: the real one will say so.
        Err(Error::DeviceLimit { .. }) => return Ok(()),
        other => other?,
    };
    let Some(reason) = first.failure else { return Ok(()) };
    log::debug!("{}: {} fails its test: {reason}", device.info.name, probe.name);
    for without in ways(&first.relied) {
        device.avoid(&before | &without);
        // What is tried may rely on what was not in use before.
        let mut outcome = outcome(device, probe, options, &expected).await?;
        if outcome.failure.is_some() {
            let more: HashSet<_> = outcome.relied.iter().copied().collect();
            if more.is_empty() || without.len() < first.relied.len() {
                continue;
            }
            device.avoid(&(&before | &without) | &more);
            outcome = self::outcome(device, probe, options, &expected).await?;
        }
        if outcome.failure.is_none() {
            let avoided = device.avoided();
            let mut names: Vec<_> = avoided.difference(&before).map(ToString::to_string).collect();
            names.sort();
            log::warn!(
                "{} fails its self-test with {} layers ({reason}); kernels do without: {}",
                device.info.name,
                probe.name,
                names.join(", ")
            );
            return Ok(());
        }
    }
    device.avoid(before);
    Err(device.fault(format!(
        "fails its self-test with {} layers ({reason}) whatever kernels do without; use another adapter or the processor",
        probe.name
    )))
}

/// What to try to do without: each by itself, then all of a kind, then everything.
fn ways(relied: &BTreeSet<Reliance>) -> Vec<HashSet<Reliance>> {
    let mut ways: Vec<HashSet<Reliance>> = relied.iter().map(|one| HashSet::from([*one])).collect();
    let kinds: BTreeSet<Trait> = relied.iter().map(|one| one.needed()).collect();
    let of = |kind: &Trait| relied.iter().copied().filter(|one| one.needed() == *kind).collect();
    ways.extend(kinds.iter().map(of));
    ways.push(relied.iter().copied().collect());
    ways
}

fn on_processor(probe: &Probe, options: &ModelOptions) -> Result<CpuExecutable, Error> {
    let exact = ModelOptions::new().threads(1).activations(Activations::F32);
    CpuExecutable::new(Arc::new(plan(probe, options)), &probe.weights, &exact)
}

/// A probe's plan, with states that are stored as the model's.
fn plan(probe: &Probe, options: &ModelOptions) -> Plan {
    options.stored(Plan::new(&probe.spec))
}

/// Runs a probe on the device. Failures of the device as a whole are errors.
async fn outcome(
    device: &Arc<Device>,
    probe: &Probe,
    options: &ModelOptions,
    expected: &[f32],
) -> Result<Outcome, Error> {
    let own = options.clone().chunk(FORMS[0][0]);
    let plan = Arc::new(plan(probe, options));
    let executable = match WgpuExecutable::build(device.clone(), plan, &probe.weights, &own) {
        Ok(executable) => executable,
        Err(Error::Device { message, .. }) => {
            device.check()?;
            let relied = device.refused().into_iter().flat_map(Reliance::of).collect();
            return Ok(Outcome { relied, failure: Some(message) });
        }
        Err(error) => return Err(error),
    };
    let relied = executable.variants().flat_map(Reliance::of).collect();
    // A number at the edge of two codes may get the other one.
    let whole = (CacheType::F32, StateType::F32) == (options.cache_type, options.state_type);
    let rounded = !whole || executable.variants().any(|v| v.arithmetic() != Arithmetic::F32);
    let got = logits(&executable).await?;
    let bound = if rounded { ROUNDED } else { EXACT };
    let pairs = got.chunks(VOCAB).zip(expected.chunks(VOCAB));
    let errors: Vec<f64> = pairs.map(|(got, expected)| relative_l2(got, expected)).collect();
    let (mut error, mut rest) = (0.0f64, &errors[..]);
    for form in FORMS {
        let (own, others) = rest.split_at(rest.len().min(form.iter().sum()));
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
        return Ok(Outcome { relied, failure: Some("results are not finite".into()) });
    }
    if error > bound {
        return Ok(Outcome { relied, failure: Some(format!("results are off by {error:.1e}")) });
    }
    if device.was_tested(CHOOSING) {
        return Ok(Outcome { relied, failure: None });
    }
    let failure = sampling::wrong(executable.program()).await?;
    if failure.is_none() {
        device.is_tested(CHOOSING.into());
    }
    Ok(Outcome { relied: BTreeSet::from([Reliance::choosing()]), failure })
}

/// The logits of all tokens of [`FORMS`].
async fn logits(executable: &dyn Executable) -> Result<Vec<f32>, Error> {
    let mut state = executable.new_state()?;
    let (mut all, mut first) = (Vec::new(), 0);
    for &count in FORMS.into_iter().flatten() {
        // Each token of the vocabulary in a disorder of its own.
        let tokens: Vec<u32> = (first..first + count).map(|i| (i * 89 % VOCAB) as u32).collect();
        for tokens in tokens.chunks(executable.max_step_tokens().max(1)) {
            let (state, wanted) = (&mut *state, Logits::All);
            let run = BackendRun { tokens, vectors: None, state, wanted, logits: &mut all };
            executable.step(vec![run]).await?;
        }
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
