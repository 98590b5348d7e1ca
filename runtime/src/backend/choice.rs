//! [`Backend`]: which backend computes, and what `auto` means. The one place that knows them all.

use std::sync::Arc;

use kinglet_models::ModelSpec;

use super::Executable;
use super::cpu::CpuExecutable;
#[cfg(feature = "wgpu")]
use super::gpu::wgpu::{OpenDevice, WgpuExecutable, hardware};
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, ModelOptions};

/// Which backend computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The best there is here: a graphics card or one that is part of the processor (feature `wgpu`), the processor where there is
    /// none or it refuses. A device that the processor plays is taken only where
    /// [`ModelOptions::adapter`](crate::ModelOptions::adapter) names it.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A graphics card or another device through Vulkan, Metal or DX12 (feature `wgpu`).
    Wgpu,
}

impl Backend {
    /// Every backend by the name that command lines use.
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

/// Makes `plan` ready to run with `weights` on the backend that `options` name. [`Model`](crate::Model) does this for
/// a checkpoint; a plan of one's own can be run the same way.
///
/// # Errors
/// When a tensor of the plan is not among the weights, an option is out of range, or the device refuses.
pub fn compile(
    plan: Arc<Plan>,
    weights: &Weights,
    options: &ModelOptions,
) -> Result<Box<dyn Executable>, Error> {
    compile_model(plan, weights, options, None)
}

/// [`compile`] for a model: a backend may test itself with small models like it.
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
            expected: "a backend of this build, which was made without the feature wgpu",
        }),
    }
}

/// What `auto` is here. An adapter that was named is not silently replaced by the processor, nor is what only the processor
/// can be asked for (threads, instructions, states in half precision) dropped for an adapter.
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
                log::warn!("adapter {adapter} is not used, the processor computes: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    let _ = spec;
    Ok(Box::new(CpuExecutable::new(plan, weights, options)?))
}

/// Whether the backend that `options` name computes with weights where they lie in memory; the other brings them to a device in pieces.
pub(crate) fn needs_resident(options: &ModelOptions) -> bool {
    match options.backend {
        Backend::Auto | Backend::Cpu => true,
        Backend::Wgpu => false,
    }
}

/// A device that was waited for, where a model that is opened must not wait. It stays open as long as this lives.
pub(crate) struct Awaited {
    #[cfg(feature = "wgpu")]
    device: Option<OpenDevice>,
}

impl Awaited {
    /// Opens the device that `options` ask for, if they ask for one.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    #[cfg_attr(
        not(feature = "wgpu"),
        expect(clippy::unused_async, reason = "the processor is there")
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

    /// Tests the device for models like `spec`.
    ///
    /// # Errors
    /// When the device fails the test.
    #[cfg_attr(
        not(feature = "wgpu"),
        expect(clippy::unused_async, reason = "the processor is not tested")
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
