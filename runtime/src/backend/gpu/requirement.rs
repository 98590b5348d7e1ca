//! [`Requirement`]: a feature that kernels of an op need on a device, and that a fallback doesn't need. Where a device fails its self-test,
//! kernels do without what they required.

use std::fmt;

use kinglet_shaders::{Arithmetic, Kernel, Reduction, Variant, WeightType};

/// A feature that a device may claim and get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Feature {
    /// Cooperative matrices of 16 by 16.
    Cooperative,
    /// Arithmetic in half precision.
    F16,
    /// Dot products of packed bytes.
    Int8,
    /// Sums within subgroups.
    Subgroups,
    /// Choosing tokens on the device.
    Sampling,
}

impl Feature {
    const NAMES: [(Self, &'static str); 5] = [
        (Self::Cooperative, "cooperative"),
        (Self::F16, "f16"),
        (Self::Int8, "int8"),
        (Self::Subgroups, "subgroups"),
        (Self::Sampling, "sampling"),
    ];

    /// What kernels with this arithmetic need; nothing for [`Arithmetic::F32`].
    pub(super) fn of_arithmetic(arithmetic: Arithmetic) -> Option<Self> {
        match arithmetic {
            Arithmetic::F32 => None,
            Arithmetic::Int8 => Some(Self::Int8),
            Arithmetic::F16 => Some(Self::F16),
            Arithmetic::Cooperative => Some(Self::Cooperative),
        }
    }
}

/// A feature that the kernels of an op need for weights of a type. Either all of an op's kernels do without it or none: some prepare inputs of
/// others in their arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Requirement {
    /// The kernels' file.
    file: &'static str,
    /// `None` where kernels read no weights.
    weights: Option<WeightType>,
    feature: Feature,
}

impl Requirement {
    pub(super) fn new(kernel: Kernel, weights: WeightType, feature: Feature) -> Self {
        let weights = kernel.has_weights().then_some(weights);
        Self { file: kernel.file().0, weights, feature }
    }

    /// Everything that a variant needs.
    pub(super) fn of(variant: Variant) -> impl Iterator<Item = Self> {
        let (file, _) = variant.kernel().file();
        let weights = variant.weights();
        let subgroups = variant.reduction() == Some(Reduction::Subgroup);
        let features = [
            Feature::of_arithmetic(variant.arithmetic()),
            subgroups.then_some(Feature::Subgroups),
            variant.kernel().samples().then_some(Feature::Sampling),
        ];
        features.into_iter().flatten().map(move |feature| Self { file, weights, feature })
    }

    /// What choosing tokens on the device needs.
    pub(super) fn sampling() -> Self {
        Self::new(Kernel::SampleLargest, WeightType::F32, Feature::Sampling)
    }

    /// The feature.
    pub(super) fn feature(self) -> Feature {
        self.feature
    }

    /// Parses what [`fmt::Display`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (file, weights, feature) = (words.next()?, words.next()?, words.next()?);
        let kernel = Kernel::ALL.into_iter().find(|kernel| kernel.file().0 == file)?;
        let weights = match weights {
            "-" => None,
            name => Some(WeightType::ALL.into_iter().find(|weights| weights.name() == name)?),
        };
        let (feature, _) = Feature::NAMES.into_iter().find(|(_, name)| *name == feature)?;
        words.next().is_none().then_some(Self { file: kernel.file().0, weights, feature })
    }
}

/// `linear affine4 int8`; `-` where there are no weights.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Feature::NAMES.into_iter().find(|(known, _)| *known == self.feature);
        let feature = name.map_or("", |(_, name)| name);
        write!(f, "{} {} {feature}", self.file, self.weights.map_or("-", WeightType::name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut count = 0;
        for variant in Variant::all() {
            for requirement in Requirement::of(variant) {
                count += 1;
                assert_eq!(Requirement::parse(&requirement.to_string()), Some(requirement));
            }
        }
        assert!(count > 100);
        for broken in
            ["", "linear", "linear affine4", "linear affine9 int8", "linear - x", "a - f16"]
        {
            assert_eq!(Requirement::parse(broken), None, "{broken}");
        }
    }
}
