//! [`Backend`]: which backend computes, and what `auto` means. The only place that knows all
//! backends.

use std::sync::Arc;

use kinglet_models::ModelSpec;

use super::Executable;
use super::cpu::CpuExecutable;
#[cfg(feature = "wgpu")]
use super::gpu::wgpu::{OpenDevice, WgpuExecutable, hardware};
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, ModelOptions};

/// A backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The best available: a discrete or integrated GPU (feature `wgpu`), or the CPU if there is
    /// none or it fails to open. A software adapter is used only if
    /// [`ModelOptions::adapter`](crate::ModelOptions::adapter) names it.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU or another device through Vulkan, Metal or DX12 (feature `wgpu`).
    Wgpu,
}

impl Backend {
    /// Every backend by its command-line name.
    pub const NAMES: &[(&str, Self)] =
        &[("auto", Self::Auto), ("cpu", Self::Cpu), ("wgpu", Self::Wgpu)];
}

impl std::str::FromStr for Backend {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, backend)| *backend).ok_or_else(|| Error::Option {
            name: "backend",
            value: name.into(),
            expected: "one of auto, cpu, wgpu",
        })
    }
}

/// Compiles `plan` with `weights` for the backend that `options` name. [`Model`](crate::Model) does
/// this for a checkpoint; call it directly to run a plan of your own.
///
/// # Errors
/// If a tensor of the plan is not among the weights, an option is out of range, or the device
/// refuses.
pub fn compile(
    plan: Arc<Plan>,
    weights: &Weights,
    options: &ModelOptions,
) -> Result<Box<dyn Executable>, Error> {
    compile_model(plan, weights, options, None)
}

/// [`compile`] for a model. A backend may test itself with small models like `spec`.
pub(crate) fn compile_model(
    plan: Arc<Plan>,
    weights: &Weights,
    options: &ModelOptions,
    spec: Option<&ModelSpec>,
) -> Result<Box<dyn Executable>, Error> {
    match options.backend {
        Backend::Auto => automatic(plan, weights, options, spec),
        Backend::Cpu => Ok(Box::new(CpuExecutable::new(plan, weights, options)?)),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Ok(Box::new(WgpuExecutable::new(plan, weights, options, spec)?)),
        #[cfg(not(feature = "wgpu"))]
        Backend::Wgpu => Err(Error::Option {
            name: "backend",
            value: "wgpu".into(),
            expected: "a backend of this build (it lacks the feature wgpu)",
        }),
    }
}

/// Chooses the backend for `auto`. An adapter named by the caller is never replaced by the CPU, and
/// options that only the CPU honours (threads, instruction set) are never dropped in favour of an
/// adapter.
fn automatic(
    plan: Arc<Plan>,
    weights: &Weights,
    options: &ModelOptions,
    spec: Option<&ModelSpec>,
) -> Result<Box<dyn Executable>, Error> {
    #[cfg(feature = "wgpu")]
    if options.adapter.is_some() {
        return Ok(Box::new(WgpuExecutable::new(plan, weights, options, spec)?));
    } else if options.threads.is_none()
        && options.isa.is_none()
        && let Some(adapter) = hardware()
    {
        let own = options.clone().adapter(adapter);
        match WgpuExecutable::new(plan.clone(), weights, &own, spec) {
            Ok(executable) => return Ok(Box::new(executable)),
            Err(error) if error.is_of_device() => {
                log::warn!("using the CPU instead of adapter {adapter}: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    let _ = spec;
    Ok(Box::new(CpuExecutable::new(plan, weights, options)?))
}

/// Whether the backend computes with weights where they lie in the host's memory. The other kind
/// uploads them to a device in pieces.
pub(crate) fn needs_resident(options: &ModelOptions) -> bool {
    match options.backend {
        Backend::Auto | Backend::Cpu => true,
        Backend::Wgpu => false,
    }
}

/// A device opened in advance by a caller that may await but not block. It stays open while this
/// lives.
pub(crate) struct Awaited {
    #[cfg(feature = "wgpu")]
    device: Option<OpenDevice>,
}

impl Awaited {
    /// Opens the device that `options` ask for, if any.
    ///
    /// # Errors
    /// If there is none, or it fails to open.
    #[cfg_attr(
        not(feature = "wgpu"),
        expect(clippy::unused_async, reason = "the CPU needs no opening")
    )]
    pub(crate) async fn open(options: &ModelOptions) -> Result<Self, Error> {
        #[cfg(feature = "wgpu")]
        if options.backend == Backend::Wgpu {
            return Ok(Self { device: Some(OpenDevice::new(options).await?) });
        }
        let _ = options;
        Ok(Self {
            #[cfg(feature = "wgpu")]
            device: None,
        })
    }

    /// Runs the self-test of the device for models like `spec`.
    ///
    /// # Errors
    /// If the device fails the test.
    #[cfg_attr(
        not(feature = "wgpu"),
        expect(clippy::unused_async, reason = "the CPU has no self-test")
    )]
    pub(crate) async fn test(
        &self,
        spec: &ModelSpec,
        weights: &Weights,
        options: &ModelOptions,
    ) -> Result<(), Error> {
        #[cfg(feature = "wgpu")]
        if let Some(device) = &self.device {
            device.test(spec, weights, options).await?;
        }
        let _ = (spec, weights, options);
        Ok(())
    }
}
