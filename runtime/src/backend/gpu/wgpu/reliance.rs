//! [`Reliance`]: what a variant of a kernel relies on that another one does without. Where a device fails a test, its kernels do without what
//! they relied on.

use std::fmt;

use kinglet_shaders::{Arithmetic, Kernel, Reduction, Variant, WeightType};

/// Something that a device may have and get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Trait {
    /// Matrices of 16 by 16 by the device's own units.
    Cooperative,
    /// Arithmetic in binary16.
    F16,
    /// Products of packed bytes.
    Int8,
    /// Sums within subgroups.
    Subgroups,
    /// Choosing tokens at all, which the host can do as well.
    Choosing,
    /// Nothing: the fallback of all fallbacks.
    Nothing,
}

impl From<Arithmetic> for Trait {
    fn from(arithmetic: Arithmetic) -> Self {
        match arithmetic {
            Arithmetic::F32 => Self::Nothing,
            Arithmetic::Int8 => Self::Int8,
            Arithmetic::F16 => Self::F16,
            Arithmetic::Cooperative => Self::Cooperative,
        }
    }
}

impl Trait {
    const NAMES: [(Self, &'static str); 5] = [
        (Self::Cooperative, "cooperative"),
        (Self::F16, "f16"),
        (Self::Int8, "int8"),
        (Self::Subgroups, "subgroups"),
        (Self::Choosing, "choosing"),
    ];
}

/// A trait that the kernels of an op rely on for weights of a type. All of an op's kernels do without it or none: some hand others
/// what they have made ready in their arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reliance {
    /// The kernels' file.
    file: &'static str,
    /// `None` where kernels read no weights.
    weights: Option<WeightType>,
    needed: Trait,
}

impl Reliance {
    pub(super) fn new(kernel: Kernel, weights: WeightType, needed: Trait) -> Self {
        let weights = kernel.has_weights().then_some(weights);
        Self { file: kernel.file().0, weights, needed }
    }

    /// All that a variant relies on.
    pub(super) fn of(variant: Variant) -> impl Iterator<Item = Self> {
        let (file, _) = variant.kernel().file();
        let weights = variant.weights();
        let subgroups = variant.reduction() == Some(Reduction::Subgroup);
        let needed = [
            Some(Trait::from(variant.arithmetic())).filter(|needed| *needed != Trait::Nothing),
            subgroups.then_some(Trait::Subgroups),
            variant.kernel().samples().then_some(Trait::Choosing),
        ];
        needed.into_iter().flatten().map(move |needed| Self { file, weights, needed })
    }

    /// What having the device choose tokens relies on.
    pub(super) fn choosing() -> Self {
        Self::new(Kernel::SampleLargest, WeightType::F32, Trait::Choosing)
    }

    /// What it relies on.
    pub(super) fn needed(self) -> Trait {
        self.needed
    }

    /// What [`fmt::Display`] wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (file, weights, needed) = (words.next()?, words.next()?, words.next()?);
        let kernel = Kernel::ALL.into_iter().find(|kernel| kernel.file().0 == file)?;
        let weights = match weights {
            "-" => None,
            name => Some(WeightType::ALL.into_iter().find(|weights| weights.name() == name)?),
        };
        let (needed, _) = Trait::NAMES.into_iter().find(|(_, name)| *name == needed)?;
        words.next().is_none().then_some(Self { file: kernel.file().0, weights, needed })
    }
}

/// `linear affine4 int8`; `-` where there are no weights.
impl fmt::Display for Reliance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Trait::NAMES.into_iter().find(|(known, _)| *known == self.needed);
        let needed = name.map_or("nothing", |(_, name)| name);
        write!(f, "{} {} {needed}", self.file, self.weights.map_or("-", WeightType::name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut count = 0;
        for variant in Variant::all() {
            for reliance in Reliance::of(variant) {
                count += 1;
                assert_eq!(Reliance::parse(&reliance.to_string()), Some(reliance));
            }
        }
        assert!(count > 100);
        for broken in
            ["", "linear", "linear affine4", "linear affine9 int8", "linear - x", "a - f16"]
        {
            assert_eq!(Reliance::parse(broken), None, "{broken}");
        }
    }
}
