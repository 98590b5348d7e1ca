//! What a wgpu adapter can do, and the features that a device must be opened with for it.

use super::super::capabilities::Capabilities;
use super::adapter::COOPERATIVE_WORKGROUP_BYTES;

/// What `adapter` has.
pub(super) fn found(adapter: &wgpu::Adapter) -> Capabilities {
    let (features, info) = (adapter.features(), adapter.get_info());
    // The smallest workgroup is 64 threads, which must be whole subgroups.
    let sized = (1..=64).contains(&info.subgroup_max_size);
    let f16 = features.contains(wgpu::Features::SHADER_F16);
    Capabilities {
        subgroups: features.contains(wgpu::Features::SUBGROUP) && sized,
        f16,
        // naga emulates it where a device has no such instruction.
        dot_int8: true,
        cooperative_matrices: f16 && cooperative(adapter),
        unchecked: info.backend != wgpu::Backend::BrowserWebGpu,
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
    }
}

/// The features that a device must be opened with for `capabilities`.
pub(super) fn features(capabilities: Capabilities) -> wgpu::Features {
    let Capabilities { subgroups, f16, cooperative_matrices, timestamps, pipeline_cache, .. } =
        capabilities;
    let mut features = wgpu::Features::empty();
    features.set(wgpu::Features::SUBGROUP, subgroups);
    features.set(wgpu::Features::SHADER_F16, f16);
    features.set(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, cooperative_matrices);
    features.set(wgpu::Features::TIMESTAMP_QUERY, timestamps);
    features.set(wgpu::Features::PIPELINE_CACHE, pipeline_cache);
    features
}

/// Whether an adapter multiplies matrices of 16 by 16 in f16 and sums them in f32, by subgroups of 32 threads.
fn cooperative(adapter: &wgpu::Adapter) -> bool {
    use wgpu::CooperativeScalarType::{F16, F32};
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let shapes = adapter.cooperative_matrix_properties();
    adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
        && (info.subgroup_min_size, info.subgroup_max_size) == (32, 32)
        && limits.max_compute_workgroup_storage_size >= COOPERATIVE_WORKGROUP_BYTES
        && shapes.iter().any(|shape| {
            (shape.m_size, shape.n_size, shape.k_size) == (16, 16, 16)
                && (shape.ab_type, shape.cr_type) == (F16, F32)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_capabilities_a_device_needs_no_features() {
        assert!(features(Capabilities::default()).is_empty());
    }
}
