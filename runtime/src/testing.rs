//! What this project's tests need of the library and nobody else does: the feature `testing`, which is off unless asked for. Nothing here is kept
//! compatible.

/// A device that has less than the one it runs on: see [`ModelOptions::device_limits`](crate::ModelOptions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Whether kernels do without subgroups where the adapter has them.
    pub avoid_subgroups: bool,
    /// A bound on the buffers that kernels see, in bytes, below the adapter's own.
    pub max_binding: Option<u64>,
    /// Which device of the adapter: only models with the same number share one. A device runs one step after another, so tests that run at the same time
    /// use different ones.
    pub number: usize,
}
