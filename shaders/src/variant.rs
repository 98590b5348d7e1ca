//! Which kernels there are, and which variants of each. Used when the crate is built and when a program runs.

use super::compose::Choice;

/// A kernel: an op, or a form or part of one, that is dispatched by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {
    /// `attention` for many tokens: queries, keys and values made ready.
    AttentionPrepare,
    /// `attention` for many tokens: tiles of queries over the cache.
    AttentionAttend,
    /// `attention` for few tokens: queries over pieces of the cache.
    AttentionPieces,
    /// The same for heads whose width is no multiple of 4.
    AttentionPiecesAny,
    /// `attention` for few tokens: what the pieces have, put together.
    AttentionMerge,
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
    /// `mamba2_scan` for few tokens.
    Mamba2Step,
    /// The same for heads whose width is no multiple of 4.
    Mamba2StepAny,
    /// `mamba2_scan` for many tokens: the convolution.
    Mamba2Convolve,
    /// `mamba2_scan` for many tokens: C B^T of each chunk.
    Mamba2Scores,
    /// `mamba2_scan` for many tokens: what each chunk adds to the state.
    Mamba2States,
    /// `mamba2_scan` for many tokens: the state before each chunk.
    Mamba2Pass,
    /// `mamba2_scan` for many tokens: outputs.
    Mamba2Outputs,
    /// `mamba_scan`.
    MambaScan,
    /// `mlstm_scan` for few tokens; the last workgroup of a head to end finishes it.
    MLstmStep,
    /// `mlstm_scan` for few tokens, without what comes at a head's end.
    MLstmStepApart,
    /// What `MLstmStepApart` leaves to do.
    MLstmSettle,
    /// `mlstm_scan` for many tokens: weights of the tokens of a chunk for each other.
    MLstmScores,
    /// `mlstm_scan` for many tokens: what each chunk adds to the state.
    MLstmStates,
    /// `mlstm_scan` for many tokens: the state before each chunk.
    MLstmPass,
    /// `mlstm_scan` for many tokens: outputs before their norm.
    MLstmOutputs,
    /// `mlstm_scan` for many tokens: norm and gate.
    MLstmFinish,
    /// `moe_down`.
    MoeDown,
    /// `moe_route`.
    MoeRoute,
    /// `moe_up`.
    MoeUp,
    /// What stands before a projection of many tokens.
    Prepare,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 33] = [
        Self::AttentionPrepare,
        Self::AttentionAttend,
        Self::AttentionPieces,
        Self::AttentionPiecesAny,
        Self::AttentionMerge,
        Self::Conv1d,
        Self::Embed,
        Self::GatedLinearRows,
        Self::GatedLinearTiles,
        Self::HeadRows,
        Self::HeadTiles,
        Self::LinearRows,
        Self::LinearTiles,
        Self::Mamba2Step,
        Self::Mamba2StepAny,
        Self::Mamba2Convolve,
        Self::Mamba2Scores,
        Self::Mamba2States,
        Self::Mamba2Pass,
        Self::Mamba2Outputs,
        Self::MambaScan,
        Self::MLstmStep,
        Self::MLstmStepApart,
        Self::MLstmSettle,
        Self::MLstmScores,
        Self::MLstmStates,
        Self::MLstmPass,
        Self::MLstmOutputs,
        Self::MLstmFinish,
        Self::MoeDown,
        Self::MoeRoute,
        Self::MoeUp,
        Self::Prepare,
    ];

    /// Its file, without the extension, and its form there.
    pub const fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::AttentionPrepare => ("attention", "prepare"),
            Self::AttentionAttend => ("attention", "attend"),
            Self::AttentionPieces => ("attention", "pieces"),
            Self::AttentionPiecesAny => ("attention", "pieces_any"),
            Self::AttentionMerge => ("attention", "merge"),
            Self::Conv1d => ("conv1d", ""),
            Self::Embed => ("embed", ""),
            Self::GatedLinearRows => ("gated_linear", "rows"),
            Self::GatedLinearTiles => ("gated_linear", "tiles"),
            Self::HeadRows => ("head", "rows"),
            Self::HeadTiles => ("head", "tiles"),
            Self::LinearRows => ("linear", "rows"),
            Self::LinearTiles => ("linear", "tiles"),
            Self::Mamba2Step => ("mamba2_scan", "step"),
            Self::Mamba2StepAny => ("mamba2_scan", "step_any"),
            Self::Mamba2Convolve => ("mamba2_scan", "convolve"),
            Self::Mamba2Scores => ("mamba2_scan", "scores"),
            Self::Mamba2States => ("mamba2_scan", "states"),
            Self::Mamba2Pass => ("mamba2_scan", "pass"),
            Self::Mamba2Outputs => ("mamba2_scan", "outputs"),
            Self::MambaScan => ("mamba_scan", ""),
            Self::MLstmStep => ("mlstm_scan", "step"),
            Self::MLstmStepApart => ("mlstm_scan", "step_apart"),
            Self::MLstmSettle => ("mlstm_scan", "settle"),
            Self::MLstmScores => ("mlstm_scan", "scores"),
            Self::MLstmStates => ("mlstm_scan", "states"),
            Self::MLstmPass => ("mlstm_scan", "pass"),
            Self::MLstmOutputs => ("mlstm_scan", "outputs"),
            Self::MLstmFinish => ("mlstm_scan", "finish"),
            Self::MoeDown => ("moe_down", ""),
            Self::MoeRoute => ("moe_route", ""),
            Self::MoeUp => ("moe_up", ""),
            Self::Prepare => ("prepare", ""),
        }
    }

    /// Whether it reads a weight matrix, so that it has a variant for each [`WeightType`].
    pub const fn has_weights(self) -> bool {
        !matches!(
            self,
            Self::AttentionPrepare
                | Self::AttentionAttend
                | Self::AttentionPieces
                | Self::AttentionPiecesAny
                | Self::AttentionMerge
                | Self::Conv1d
                | Self::Mamba2Step
                | Self::Mamba2StepAny
                | Self::Mamba2Convolve
                | Self::Mamba2Scores
                | Self::Mamba2States
                | Self::Mamba2Pass
                | Self::Mamba2Outputs
                | Self::MambaScan
                | Self::MLstmStep
                | Self::MLstmStepApart
                | Self::MLstmSettle
                | Self::MLstmScores
                | Self::MLstmStates
                | Self::MLstmPass
                | Self::MLstmOutputs
                | Self::MLstmFinish
                | Self::Prepare
        )
    }

    /// Whether its threads add up what they have, so that it has a variant for each [`Reduction`].
    pub const fn has_reduction(self) -> bool {
        !matches!(
            self,
            Self::AttentionMerge
                | Self::Conv1d
                | Self::Embed
                | Self::GatedLinearTiles
                | Self::HeadTiles
                | Self::LinearTiles
                | Self::Mamba2Convolve
                | Self::Mamba2Scores
                | Self::Mamba2States
                | Self::Mamba2Pass
                | Self::Mamba2Outputs
                | Self::MambaScan
                | Self::MLstmScores
                | Self::MLstmStates
                | Self::MLstmPass
                | Self::MLstmOutputs
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
