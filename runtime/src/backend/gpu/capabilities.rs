//! What an adapter can do beyond the core of its API, and what of that kernels may use.

use crate::Error;

/// The environment variable that forbids capabilities.
const WITHOUT: &str = "KINGLET_WGPU_WITHOUT";

/// What an adapter has, or what of that is used. Kernels work without any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Capabilities {
    /// Threads exchange values within subgroups of at most 64.
    pub subgroups: bool,
    /// Arithmetic in half precision.
    pub f16: bool,
    /// Dot products of four bytes packed in a word: WGSL's `dot4I8Packed`.
    pub dot_int8: bool,
    /// Matrix units: products of matrices of 16 by 16 in half precision, summed in single precision.
    pub cooperative_matrices: bool,
    /// Kernels are compiled without bounds checks of indices and loops.
    pub unchecked: bool,
    /// The device can time each launch.
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

    /// Removes what the environment forbids: `KINGLET_WGPU_WITHOUT=subgroups,f16`.
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

    /// Removes cooperative matrices where what they need is missing: they hold half precision and are multiplied by whole subgroups.
    pub(super) fn consistent(self) -> Self {
        let cooperative_matrices = self.cooperative_matrices && self.f16 && self.subgroups;
        Self { cooperative_matrices, ..self }
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
