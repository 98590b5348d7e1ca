//! Which kernels there are, and which variants of each. Used when the crate is built and when a program runs.

use super::compose::Choice;

/// A kernel: an op, or a form or part of one, that is dispatched by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {
    /// `attention`: queries, keys and values made ready.
    AttentionPrepare,
    /// `attention`: queries over the cache.
    AttentionAttend,
    /// `conv1d`.
    Conv1d,
    /// `embed`.
    Embed,
    /// `gated_linear` for few tokens.
    GatedLinearRows,
    /// `gated_linear` for many tokens.
    GatedLinearTiles,
    /// `head` for few tokens.
    HeadRows,
    /// `head` for many tokens.
    HeadTiles,
    /// `linear` for few tokens.
    LinearRows,
    /// `linear` for many tokens.
    LinearTiles,
    /// `mamba2_scan`.
    Mamba2Scan,
    /// `mamba_scan`.
    MambaScan,
    /// `mlstm_scan`.
    MLstmScan,
    /// `moe_down`.
    MoeDown,
    /// `moe_route`.
    MoeRoute,
    /// `moe_up`.
    MoeUp,
    /// What stands before a projection of many tokens.
    Prepare,
    /// Choosing a token: the most probable.
    SampleGreedy,
    /// Choosing a token: the largest logit of each block.
    SampleLargest,
    /// Choosing a token: what each block of logits weighs.
    SampleMasses,
    /// Choosing a token: drawn from all.
    SampleDrawn,
    /// Choosing a token: drawn from the most probable.
    SampleSorted,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 22] = [
        Self::AttentionPrepare,
        Self::AttentionAttend,
        Self::Conv1d,
        Self::Embed,
        Self::GatedLinearRows,
        Self::GatedLinearTiles,
        Self::HeadRows,
        Self::HeadTiles,
        Self::LinearRows,
        Self::LinearTiles,
        Self::Mamba2Scan,
        Self::MambaScan,
        Self::MLstmScan,
        Self::MoeDown,
        Self::MoeRoute,
        Self::MoeUp,
        Self::Prepare,
        Self::SampleGreedy,
        Self::SampleLargest,
        Self::SampleMasses,
        Self::SampleDrawn,
        Self::SampleSorted,
    ];

    /// Its file, without the extension, and its form there.
    pub const fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::AttentionPrepare => ("attention", "prepare"),
            Self::AttentionAttend => ("attention", "attend"),
            Self::Conv1d => ("conv1d", ""),
            Self::Embed => ("embed", ""),
            Self::GatedLinearRows => ("gated_linear", "rows"),
            Self::GatedLinearTiles => ("gated_linear", "tiles"),
            Self::HeadRows => ("head", "rows"),
            Self::HeadTiles => ("head", "tiles"),
            Self::LinearRows => ("linear", "rows"),
            Self::LinearTiles => ("linear", "tiles"),
            Self::Mamba2Scan => ("mamba2_scan", ""),
            Self::MambaScan => ("mamba_scan", ""),
            Self::MLstmScan => ("mlstm_scan", ""),
            Self::MoeDown => ("moe_down", ""),
            Self::MoeRoute => ("moe_route", ""),
            Self::MoeUp => ("moe_up", ""),
            Self::Prepare => ("prepare", ""),
            Self::SampleGreedy => ("sample", "greedy"),
            Self::SampleLargest => ("sample", "largest"),
            Self::SampleMasses => ("sample", "masses"),
            Self::SampleDrawn => ("sample", "drawn"),
            Self::SampleSorted => ("sample", "sorted"),
        }
    }

    /// Whether it reads a weight matrix, so that it has a variant for each [`WeightType`].
    pub const fn has_weights(self) -> bool {
        !matches!(
            self,
            Self::AttentionPrepare
                | Self::AttentionAttend
                | Self::Conv1d
                | Self::Mamba2Scan
                | Self::MambaScan
                | Self::MLstmScan
                | Self::Prepare
        ) && !self.samples()
    }

    /// Whether its threads add up what they have, so that it has a variant for each [`Reduction`].
    pub const fn has_reduction(self) -> bool {
        !matches!(
            self,
            Self::Conv1d
                | Self::Embed
                | Self::GatedLinearTiles
                | Self::HeadTiles
                | Self::LinearTiles
                | Self::Mamba2Scan
                | Self::MambaScan
        ) && !self.samples()
    }

    /// Whether it takes part in choosing a token.
    pub const fn samples(self) -> bool {
        matches!(
            self,
            Self::SampleGreedy
                | Self::SampleLargest
                | Self::SampleMasses
                | Self::SampleDrawn
                | Self::SampleSorted
        )
    }
}

/// How the weights that a kernel reads are stored on the device.
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

    /// The part that reads it.
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

/// How the threads of a workgroup add up what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reduction {
    /// Through workgroup memory: everywhere.
    Workgroup,
    /// Within subgroups first; the device must have them.
    Subgroup,
}

impl Reduction {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Workgroup, Self::Subgroup];

    /// The part that does it.
    pub const fn part(self) -> &'static str {
        match self {
            Self::Workgroup => "reduce_workgroup",
            Self::Subgroup => "reduce_subgroup",
        }
    }
}

/// A kernel for one way to store weights and to reduce; each only where the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    kernel: Kernel,
    weights: Option<WeightType>,
    reduction: Option<Reduction>,
}

impl Variant {
    /// The variant of `kernel` for these; what the kernel doesn't have is left out.
    pub fn new(kernel: Kernel, weights: WeightType, reduction: Reduction) -> Self {
        let weights = kernel.has_weights().then_some(weights);
        Self { kernel, weights, reduction: kernel.has_reduction().then_some(reduction) }
    }

    /// Every variant once.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for kernel in Kernel::ALL {
            for weights in WeightType::ALL {
                for reduction in Reduction::ALL {
                    all.push(Self::new(kernel, weights, reduction));
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

    /// The parts that it is composed of, and its file.
    pub fn choice(self) -> (&'static str, Choice<'static>) {
        let (file, form) = self.kernel.file();
        let weights = self.weights.map_or("", WeightType::part);
        (file, Choice { form, weights, reduce: self.reduction.map_or("", Reduction::part) })
    }

    /// A name for people: `linear.rows.bf16.subgroup`.
    pub fn name(self) -> String {
        let (file, choice) = self.choice();
        let weights = choice.weights.strip_prefix("weights_").unwrap_or_default();
        let reduce = choice.reduce.strip_prefix("reduce_").unwrap_or_default();
        let words = [file, choice.form, weights, reduce];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(".")
    }
}
