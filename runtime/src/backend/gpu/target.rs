//! [`Target`]: what kernels and launches may use on a device.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kinglet_shaders::{Arithmetic, Kernel, Reduction, Variant, WeightType};

use super::adapter::AdapterInfo;
use super::capabilities::Capabilities;
use super::requirement::{Feature, Requirement};
use crate::Error;
use crate::testing::DeviceLimits;

/// What distinguishes devices: models that ask for the same share one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceOptions {
    /// Which adapter; the best one if not given.
    pub adapter: Option<usize>,
    /// Limits below the adapter's own, for tests.
    pub limits: DeviceLimits,
    /// Folder that keeps compiled kernels and results of self-tests between processes; nothing is kept if not given.
    pub cache_dir: Option<PathBuf>,
}

/// A device as the code that names no API sees it.
pub(crate) struct Target {
    /// The adapter.
    pub info: AdapterInfo,
    /// What kernels may use.
    pub capabilities: Capabilities,
    /// Size of the largest buffer that a kernel can bind, in bytes.
    pub max_binding: u64,
    /// Size of the largest buffer, in bytes.
    pub max_buffer: u64,
    /// Most workgroups along an axis.
    pub max_groups: u32,
    pub options: DeviceOptions,
    /// Whether tests make kernels fail, so that results of self-tests must not be kept.
    pub has_faults: bool,
    /// What failed a self-test: kernels do without.
    avoided: Mutex<HashSet<Requirement>>,
    /// Keys of the self-tests that have run.
    tested: Mutex<HashSet<String>>,
}

/// Locks `mutex`. A panic elsewhere leaves the data of all mutexes here consistent.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Target {
    /// A device whose buffers and bindings may have `max_buffer` and `max_binding` bytes, where nothing has failed a test yet.
    pub(super) fn new(
        info: AdapterInfo,
        capabilities: Capabilities,
        [max_buffer, max_binding]: [u64; 2],
        max_groups: u32,
        options: DeviceOptions,
    ) -> Self {
        let own = max_binding.min(max_buffer);
        Self {
            info,
            capabilities,
            max_binding: options.limits.max_binding.map_or(own, |bound| bound.min(own)) & !15,
            max_buffer,
            max_groups,
            options,
            has_faults: false,
            avoided: Mutex::default(),
            tested: Mutex::default(),
        }
    }

    /// An error of this device.
    pub(super) fn fault(&self, message: impl Into<String>) -> Error {
        Error::Device { adapter: self.info.name.clone(), message: message.into() }
    }

    /// The fastest variant of a kernel that may be used here; the one in `f32` where `exact` is set.
    pub(super) fn variant(&self, kernel: Kernel, weights: WeightType, exact: bool) -> Variant {
        let candidates = kernel.arithmetics(weights).iter();
        let arithmetic = candidates.copied().find(|&arithmetic| {
            let has = match arithmetic {
                Arithmetic::F32 => true,
                Arithmetic::Int8 => self.capabilities.dot_int8,
                Arithmetic::F16 => self.capabilities.f16,
                Arithmetic::Cooperative => self.capabilities.cooperative_matrices,
            };
            let avoided = || {
                let feature = Feature::of_arithmetic(arithmetic);
                feature.is_some_and(|feature| self.avoids(kernel, weights, feature))
            };
            arithmetic == Arithmetic::F32 || has && !exact && !avoided()
        });
        self.variant_in(kernel, weights, arithmetic.unwrap_or(Arithmetic::F32))
    }

    /// The variant of a kernel in this arithmetic.
    pub(super) fn variant_in(
        &self,
        kernel: Kernel,
        weights: WeightType,
        arithmetic: Arithmetic,
    ) -> Variant {
        let subgroups =
            self.capabilities.subgroups && !self.avoids(kernel, weights, Feature::Subgroups);
        let reduction = if subgroups { Reduction::Subgroup } else { Reduction::Workgroup };
        Variant::new(kernel, weights, reduction, arithmetic)
    }

    /// Whether tokens may be chosen on the device.
    pub(super) fn samples(&self) -> bool {
        !lock(&self.avoided).contains(&Requirement::sampling())
    }

    fn avoids(&self, kernel: Kernel, weights: WeightType, feature: Feature) -> bool {
        lock(&self.avoided).contains(&Requirement::new(kernel, weights, feature))
    }

    /// Replaces the set of what kernels do without.
    pub(super) fn avoid(&self, requirements: HashSet<Requirement>) {
        *lock(&self.avoided) = requirements;
    }

    /// What kernels do without.
    pub(super) fn avoided(&self) -> HashSet<Requirement> {
        lock(&self.avoided).clone()
    }

    /// Whether the self-test with this key has run.
    pub(super) fn was_tested(&self, key: &str) -> bool {
        lock(&self.tested).contains(key)
    }

    /// Notes that the self-test with this key has run.
    pub(super) fn set_tested(&self, key: String) {
        lock(&self.tested).insert(key);
    }
}
