//! What an adapter can do beyond WebGPU's core, and what of it kernels may use.

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
    /// Products of small matrices by the device's own units.
    pub cooperative_matrices: bool,
    /// Time stamps of the device.
    pub timestamps: bool,
    /// Compiled pipelines can be kept on disk.
    pub pipeline_cache: bool,
}

impl Capabilities {
    /// Every capability's name, in the order of the fields.
    pub const NAMES: [&'static str; 6] =
        ["subgroups", "f16", "dot_int8", "cooperative_matrices", "timestamps", "pipeline_cache"];

    /// What `adapter`, of `instance`, has.
    pub(super) fn found(instance: &wgpu::Instance, adapter: &wgpu::Adapter) -> Self {
        let (features, info) = (adapter.features(), adapter.get_info());
        let language = instance.wgsl_language_features();
        // A kernel's threads are counted in whole subgroups, of which the smallest workgroup is 64.
        let sized = (1..=64).contains(&info.subgroup_max_size);
        Self {
            subgroups: features.contains(wgpu::Features::SUBGROUP) && sized,
            f16: features.contains(wgpu::Features::SHADER_F16),
            dot_int8: language.contains(wgpu::WgslLanguageFeatures::Packed4x8IntegerDotProduct),
            cooperative_matrices: features
                .contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
                && !adapter.cooperative_matrix_properties().is_empty(),
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

    /// wgpu's leave to use what it calls experimental, where any of these is.
    #[allow(unsafe_code)]
    pub(super) fn experimental(self) -> wgpu::ExperimentalFeatures {
        if !self.cooperative_matrices {
            return wgpu::ExperimentalFeatures::disabled();
        }
        // SAFETY: what wgpu asks for is to accept that an experimental feature may have faults. The only one used is cooperative
        // matrices; kernels with them are validated by naga like all others, keep within their buffers by the sizes that the
        // plan has proved, and can be switched off.
        unsafe { wgpu::ExperimentalFeatures::enabled() }
    }

    /// Each capability with its name.
    pub fn list(self) -> [(&'static str, bool); 6] {
        let values = [
            self.subgroups,
            self.f16,
            self.dot_int8,
            self.cooperative_matrices,
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
                "timestamps" => &mut self.timestamps,
                "pipeline_cache" => &mut self.pipeline_cache,
                _ => {
                    return Err(Error::Option {
                        name: WITHOUT,
                        value: name.into(),
                        expected: "a list of subgroups, f16, dot_int8, cooperative_matrices, timestamps, pipeline_cache",
                    });
                }
            };
            *capability = false;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Capabilities = Capabilities {
        subgroups: true,
        f16: true,
        dot_int8: true,
        cooperative_matrices: true,
        timestamps: true,
        pipeline_cache: true,
    };

    #[test]
    fn each_name_takes_its_capability_away_and_no_other() {
        for name in Capabilities::NAMES {
            let left = ALL.without(name).unwrap();
            for (other, has) in left.list() {
                assert_eq!(has, other != name, "{other} without {name}");
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
