//! What an adapter can do beyond WebGPU's core, and what of it is used.

use super::adapter::COOPERATIVE_WORKGROUP_BYTES;
use crate::Error;

/// The environment variable that forbids capabilities.
const WITHOUT: &str = "KINGLET_WGPU_WITHOUT";

/// What an adapter has, or what of it is used. Each has a fallback: kernels work without any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Capabilities {
    /// Threads that run in step exchange values, in groups of at most 64.
    pub subgroups: bool,
    /// Arithmetic in binary16.
    pub f16: bool,
    /// Dot products of four bytes packed in a word: WGSL's `dot4I8Packed`.
    pub dot_int8: bool,
    /// Products of small matrices by the device's own units, in the shape that kernels use.
    pub cooperative_matrices: bool,
    /// Kernels without the checks of indices and loops that wgpu adds.
    pub unchecked: bool,
    /// Time stamps of the device.
    pub timestamps: bool,
    /// Compiled kernels can be kept on disk.
    pub pipeline_cache: bool,
}

impl Capabilities {
    /// Every capability's name, in the order of the fields.
    pub const NAMES: [&'static str; 7] = [
        "subgroups",
        "f16",
        "dot_int8",
        "cooperative_matrices",
        "unchecked",
        "timestamps",
        "pipeline_cache",
    ];

    /// What `adapter` has.
    pub(super) fn found(adapter: &wgpu::Adapter) -> Self {
        let (features, info) = (adapter.features(), adapter.get_info());
        // A kernel's threads are counted in whole subgroups, of which the smallest workgroup is 64.
        let sized = (1..=64).contains(&info.subgroup_max_size);
        let f16 = features.contains(wgpu::Features::SHADER_F16);
        Self {
            subgroups: features.contains(wgpu::Features::SUBGROUP) && sized,
            f16,
            // naga writes it out where a device has no such instruction.
            dot_int8: true,
            cooperative_matrices: f16 && cooperative(adapter),
            unchecked: info.backend != wgpu::Backend::BrowserWebGpu,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
        }
    }

    /// The features that a device must be opened with for these.
    pub(super) fn features(self) -> wgpu::Features {
        let mut features = wgpu::Features::empty();
        features.set(wgpu::Features::SUBGROUP, self.subgroups);
        features.set(wgpu::Features::SHADER_F16, self.f16);
        features.set(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, self.cooperative_matrices);
        features.set(wgpu::Features::TIMESTAMP_QUERY, self.timestamps);
        features.set(wgpu::Features::PIPELINE_CACHE, self.pipeline_cache);
        features
    }

    /// Each capability with its name.
    pub fn list(self) -> [(&'static str, bool); 7] {
        let values = [
            self.subgroups,
            self.f16,
            self.dot_int8,
            self.cooperative_matrices,
            self.unchecked,
            self.timestamps,
            self.pipeline_cache,
        ];
        std::array::from_fn(|index| (Self::NAMES[index], values[index]))
    }

    /// These without those that the environment forbids: `KINGLET_WGPU_WITHOUT=subgroups,f16`.
    ///
    /// # Errors
    /// When the variable has a name that is none of [`Self::NAMES`].
    pub fn allowed(self) -> Result<Self, Error> {
        self.without(&std::env::var(WITHOUT).unwrap_or_default())
    }

    fn without(mut self, list: &str) -> Result<Self, Error> {
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let capability = match name {
                "subgroups" => &mut self.subgroups,
                "f16" => &mut self.f16,
                "dot_int8" => &mut self.dot_int8,
                "cooperative_matrices" => &mut self.cooperative_matrices,
                "unchecked" => &mut self.unchecked,
                "timestamps" => &mut self.timestamps,
                "pipeline_cache" => &mut self.pipeline_cache,
                _ => {
                    return Err(Error::Option {
                        name: WITHOUT,
                        value: name.into(),
                        expected: "a list of subgroups, f16, dot_int8, cooperative_matrices, unchecked, timestamps, \
                                   pipeline_cache",
                    });
                }
            };
            *capability = false;
        }
        Ok(self.consistent())
    }

    /// Cooperative matrices hold binary16 and are multiplied by whole subgroups.
    pub(super) fn consistent(self) -> Self {
        let cooperative_matrices = self.cooperative_matrices && self.f16 && self.subgroups;
        Self { cooperative_matrices, ..self }
    }
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

    const ALL: Capabilities = Capabilities {
        subgroups: true,
        f16: true,
        dot_int8: true,
        cooperative_matrices: true,
        unchecked: true,
        timestamps: true,
        pipeline_cache: true,
    };

    #[test]
    fn each_name_takes_its_capability_away_and_what_needs_it() {
        for name in Capabilities::NAMES {
            let left = ALL.without(name).unwrap();
            for (other, has) in left.list() {
                let needs = other == "cooperative_matrices" && ["f16", "subgroups"].contains(&name);
                assert_eq!(has, other != name && !needs, "{other} without {name}");
            }
        }
        assert_eq!(ALL.without(" , ").unwrap(), ALL);
        let none = ALL.without(&Capabilities::NAMES.join(", ")).unwrap();
        assert_eq!(none, Capabilities::default());
        assert!(none.features().is_empty());
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_are_known() {
        let message = ALL.without("subgroups,f61").unwrap_err().to_string();
        assert!(message.contains("f61"), "{message}");
        for name in Capabilities::NAMES {
            assert!(message.contains(name), "{message}");
        }
    }
}
