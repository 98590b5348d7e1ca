//! Hooks for this project's tests (feature `testing`, off by default). Not covered by any
//! compatibility promise.

/// Limits that make a device look less capable than it is: see
/// [`ModelOptions::device_limits`](crate::ModelOptions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Whether kernels avoid subgroups even if the adapter has them.
    pub avoid_subgroups: bool,
    /// Upper bound on the buffers that kernels bind, in bytes, below the adapter's own.
    pub max_binding: Option<u64>,
    /// Which device of the adapter to use: only models with the same number share one. A device runs
    /// one step after another, so tests that run at the same time use different ones.
    pub number: usize,
}
