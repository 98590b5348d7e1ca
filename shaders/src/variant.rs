//! [`Variant`]: a kernel for one weight type, reduction and arithmetic.

use super::compose::Choice;
pub use super::kernel::Kernel;

/// Storage type of weights on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightType {
    /// binary32.
    F32,
    /// binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Codes of 2 bits with scale and bias.
    Affine2,
    /// Codes of 3 bits with scale and bias.
    Affine3,
    /// Codes of 4 bits with scale and bias.
    Affine4,
    /// Codes of 5 bits with scale and bias.
    Affine5,
    /// Codes of 6 bits with scale and bias.
    Affine6,
    /// Codes of 8 bits with scale and bias.
    Affine8,
    /// OCP MXFP4.
    MxFp4,
    /// OCP MXFP8 with E4M3 elements.
    MxFp8,
    /// NVIDIA NVFP4.
    NvFp4,
}

impl WeightType {
    /// Every type.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Affine2,
        Self::Affine3,
        Self::Affine4,
        Self::Affine5,
        Self::Affine6,
        Self::Affine8,
        Self::MxFp4,
        Self::MxFp8,
        Self::NvFp4,
    ];

    /// Number of weights that a thread multiplies at once: `UNIT` in the sources.
    pub const fn unit(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 8,
            _ => 32,
        }
    }

    /// Whether a weight is an integer of at most eight bits times factors shared by its unit, so
    /// that products can be integers.
    pub const fn has_integer_codes(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16 | Self::MxFp8)
    }

    /// Name in the names of variants.
    pub fn name(self) -> &'static str {
        self.part().trim_start_matches("weights_")
    }

    /// The part that reads this type.
    pub const fn part(self) -> &'static str {
        match self {
            Self::F32 => "weights_f32",
            Self::F16 => "weights_f16",
            Self::Bf16 => "weights_bf16",
            Self::Affine2 => "weights_affine2",
            Self::Affine3 => "weights_affine3",
            Self::Affine4 => "weights_affine4",
            Self::Affine5 => "weights_affine5",
            Self::Affine6 => "weights_affine6",
            Self::Affine8 => "weights_affine8",
            Self::MxFp4 => "weights_mxfp4",
            Self::MxFp8 => "weights_mxfp8",
            Self::NvFp4 => "weights_nvfp4",
        }
    }
}

/// The arithmetic of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arithmetic {
    /// Everything in binary32.
    F32,
    /// Activations are rounded to eight bits, with a scale for every 32 of them, and multiplied
    /// with integer codes.
    Int8,
    /// Weights and activations are rounded to binary16; products are summed in binary16 over the
    /// columns of a tile and in binary32 beyond.
    F16,
    /// Like `F16`, but with cooperative matrices of 16 by 16, which sum in binary32.
    Cooperative,
}

impl Arithmetic {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::F32, Self::Int8, Self::F16, Self::Cooperative];

    /// WGSL extensions to enable.
    pub const fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::F32 | Self::Int8 => &[],
            Self::F16 => &["f16"],
            Self::Cooperative => &["f16", "wgpu_cooperative_matrix"],
        }
    }

    /// Name in sources and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::F16 => "f16",
            Self::Cooperative => "cooperative",
        }
    }
}

/// How the threads of a workgroup reduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reduction {
    /// Through workgroup memory; on every device.
    Workgroup,
    /// Within subgroups first; the device must support them.
    Subgroup,
}

impl Reduction {
    /// All reductions.
    pub const ALL: [Self; 2] = [Self::Workgroup, Self::Subgroup];

    /// The part that implements it.
    pub const fn part(self) -> &'static str {
        match self {
            Self::Workgroup => "reduce_workgroup",
            Self::Subgroup => "reduce_subgroup",
        }
    }
}

/// A kernel for one weight type, reduction and arithmetic, as far as the kernel has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    kernel: Kernel,
    weights: Option<WeightType>,
    reduction: Option<Reduction>,
    arithmetic: Arithmetic,
}

impl Variant {
    /// The variant of `kernel` with these. What the kernel doesn't have is omitted; an arithmetic
    /// that it lacks becomes [`Arithmetic::F32`].
    pub fn new(
        kernel: Kernel,
        weights: WeightType,
        reduction: Reduction,
        arithmetic: Arithmetic,
    ) -> Self {
        let known = kernel.arithmetics(weights).contains(&arithmetic);
        Self {
            kernel,
            weights: kernel.has_weights().then_some(weights),
            reduction: kernel.has_reduction().then_some(reduction),
            arithmetic: if known { arithmetic } else { Arithmetic::F32 },
        }
    }

    /// Every variant once.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for kernel in Kernel::ALL {
            let stored = |weights: &WeightType| kernel.stored(*weights).is_some();
            for weights in WeightType::ALL.into_iter().filter(stored) {
                for reduction in Reduction::ALL {
                    for arithmetic in Arithmetic::ALL {
                        all.push(Self::new(kernel, weights, reduction, arithmetic));
                    }
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The kernel.
    pub fn kernel(self) -> Kernel {
        self.kernel
    }

    /// The storage type of its weights, if it reads any.
    pub fn weights(self) -> Option<WeightType> {
        self.weights
    }

    /// Its reduction, if it has one.
    pub fn reduction(self) -> Option<Reduction> {
        self.reduction
    }

    /// Its arithmetic.
    pub fn arithmetic(self) -> Arithmetic {
        self.arithmetic
    }

    /// Its file, and the parts that it is composed of.
    pub fn choice(self) -> (&'static str, Choice<'static>) {
        let (file, form) = self.kernel.file();
        let weights = self.weights.and_then(|weights| self.kernel.stored(weights)).unwrap_or("");
        let reduce = self.reduction.map_or("", Reduction::part);
        let halves = self.kernel.has_states() && self.weights == Some(WeightType::F16);
        let extensions = if halves { &["f16"] } else { self.arithmetic.extensions() };
        let arithmetic = self.arithmetic.name();
        (file, Choice { form, weights, reduce, arithmetic, extensions })
    }

    /// Name for people, such as `linear.rows.affine4.subgroup.int8`; the exact arithmetic is
    /// omitted.
    pub fn name(self) -> String {
        let (file, choice) = self.choice();
        let weights = self.weights.map_or("", WeightType::name);
        let reduce = choice.reduce.strip_prefix("reduce_").unwrap_or_default();
        let arithmetic = match self.arithmetic {
            Arithmetic::F32 => "",
            other => other.name(),
        };
        let words = [file, choice.form, weights, reduce, arithmetic];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(".")
    }
}
