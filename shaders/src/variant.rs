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
    /// A copy of memory, to measure with.
    Copy,
    /// `embed`.
    Embed,
    /// `gated_linear` for few tokens.
    GatedLinearRows,
    /// `gated_linear` for many tokens.
    GatedLinearTiles,
    /// `gated_linear` for some tokens.
    GatedLinearSmallTiles,
    /// `head` for few tokens.
    HeadRows,
    /// `head` for many tokens.
    HeadTiles,
    /// `head` for some tokens.
    HeadSmallTiles,
    /// `linear` for few tokens.
    LinearRows,
    /// `linear` for many tokens.
    LinearTiles,
    /// `linear` for some tokens.
    LinearSmallTiles,
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
    /// `moe_down` for few tokens.
    MoeDownRows,
    /// `moe_down` for many tokens: the experts' shares.
    MoeDownTiles,
    /// The same for some tokens.
    MoeDownSmallTiles,
    /// `moe_down` for many tokens: the sum of the shares.
    MoeDownSum,
    /// What stands before the experts' products of many tokens.
    MoeGroup,
    /// `moe_route`.
    MoeRoute,
    /// `moe_up` for few tokens.
    MoeUpRows,
    /// `moe_up` for many tokens.
    MoeUpTiles,
    /// `moe_up` for some tokens.
    MoeUpSmallTiles,
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
    pub const ALL: [Self; 48] = [
        Self::AttentionPrepare,
        Self::AttentionAttend,
        Self::AttentionPieces,
        Self::AttentionPiecesAny,
        Self::AttentionMerge,
        Self::Conv1d,
        Self::Copy,
        Self::Embed,
        Self::GatedLinearRows,
        Self::GatedLinearTiles,
        Self::GatedLinearSmallTiles,
        Self::HeadRows,
        Self::HeadTiles,
        Self::HeadSmallTiles,
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
        Self::LinearSmallTiles,
        Self::MoeDownRows,
        Self::MoeDownTiles,
        Self::MoeDownSmallTiles,
        Self::MoeDownSum,
        Self::MoeGroup,
        Self::MoeRoute,
        Self::MoeUpRows,
        Self::MoeUpTiles,
        Self::MoeUpSmallTiles,
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
            Self::AttentionPieces => ("attention", "pieces"),
            Self::AttentionPiecesAny => ("attention", "pieces_any"),
            Self::AttentionMerge => ("attention", "merge"),
            Self::Conv1d => ("conv1d", ""),
            Self::Copy => ("copy", ""),
            Self::Embed => ("embed", ""),
            Self::GatedLinearRows => ("gated_linear", "rows"),
            Self::GatedLinearTiles => ("gated_linear", "tiles"),
            Self::GatedLinearSmallTiles => ("gated_linear", "small_tiles"),
            Self::HeadRows => ("head", "rows"),
            Self::HeadTiles => ("head", "tiles"),
            Self::HeadSmallTiles => ("head", "small_tiles"),
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
            Self::LinearSmallTiles => ("linear", "small_tiles"),
            Self::MoeDownRows => ("moe_down", "rows"),
            Self::MoeDownTiles => ("moe_down", "tiles"),
            Self::MoeDownSmallTiles => ("moe_down", "small_tiles"),
            Self::MoeDownSum => ("moe_down", "sum"),
            Self::MoeGroup => ("moe_group", ""),
            Self::MoeRoute => ("moe_route", ""),
            Self::MoeUpRows => ("moe_up", "rows"),
            Self::MoeUpTiles => ("moe_up", "tiles"),
            Self::MoeUpSmallTiles => ("moe_up", "small_tiles"),
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
                | Self::AttentionPieces
                | Self::AttentionPiecesAny
                | Self::AttentionMerge
                | Self::Conv1d
                | Self::Copy
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
                | Self::MoeDownSum
                | Self::MoeGroup
                | Self::Prepare
        ) && !self.samples()
    }

    /// The kinds of arithmetic that it has a variant for with these weights, from the fastest to the exact one, which is always there.
    pub fn arithmetics(self, weights: WeightType) -> &'static [Arithmetic] {
        match self {
            Self::GatedLinearRows
            | Self::HeadRows
            | Self::LinearRows
            | Self::MoeDownRows
            | Self::MoeUpRows
                if weights.has_integer_codes() =>
            {
                &[Arithmetic::Int8, Arithmetic::F32]
            }
            _ if self.is_tiled() && weights != WeightType::F32 => {
                &[Arithmetic::Cooperative, Arithmetic::F16, Arithmetic::F32]
            }
            Self::Prepare => &[Arithmetic::F16, Arithmetic::F32],
            _ => &[Arithmetic::F32],
        }
    }

    /// Whether it multiplies by tiles, with what [`Self::Prepare`] has made ready in the same arithmetic.
    pub const fn is_tiled(self) -> bool {
        matches!(
            self,
            Self::GatedLinearTiles
                | Self::GatedLinearSmallTiles
                | Self::HeadTiles
                | Self::HeadSmallTiles
                | Self::LinearTiles
                | Self::LinearSmallTiles
                | Self::MoeDownTiles
                | Self::MoeDownSmallTiles
                | Self::MoeUpTiles
                | Self::MoeUpSmallTiles
        )
    }

    /// Whether its threads add up what they have, so that it has a variant for each [`Reduction`].
    pub const fn has_reduction(self) -> bool {
        let alone = matches!(
            self,
            Self::AttentionMerge
                | Self::Conv1d
                | Self::Copy
                | Self::Embed
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
                | Self::MoeDownSum
                | Self::MoeGroup
        );
        !alone && !self.is_tiled() && !self.samples()
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

    /// Weights that a thread multiplies at once: `UNIT` in the sources.
    pub const fn unit(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 8,
            _ => 32,
        }
    }

    /// Whether a weight is an integer of at most eight bits times what its unit shares, so that products can be integers.
    pub const fn has_integer_codes(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16 | Self::MxFp8)
    }

    /// Its name in those of variants.
    pub fn name(self) -> &'static str {
        self.part().trim_start_matches("weights_")
    }

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

/// What a kernel multiplies with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arithmetic {
    /// Everything in binary32.
    F32,
    /// Activations are rounded to eight bits with a scale for every 32 of them and multiplied with integer codes.
    Int8,
    /// Weights and activations are rounded to binary16; products are summed in it over the columns of a tile and in binary32 from there on.
    F16,
    /// The same by cooperative matrices of 16 by 16, which sum in binary32.
    Cooperative,
}

impl Arithmetic {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::F32, Self::Int8, Self::F16, Self::Cooperative];

    /// What WGSL must enable for it.
    pub const fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::F32 | Self::Int8 => &[],
            Self::F16 => &["f16"],
            Self::Cooperative => &["f16", "wgpu_cooperative_matrix"],
        }
    }

    /// Its name in sources and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::F16 => "f16",
            Self::Cooperative => "cooperative",
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
    arithmetic: Arithmetic,
}

impl Variant {
    /// The variant of `kernel` for these; what the kernel doesn't have is left out, and arithmetic that it doesn't have is
    /// [`Arithmetic::F32`].
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
            for weights in WeightType::ALL {
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

    /// How the weights are stored that it reads, if any.
    pub fn weights(self) -> Option<WeightType> {
        self.weights
    }

    /// How its threads add up, if they do.
    pub fn reduction(self) -> Option<Reduction> {
        self.reduction
    }

    /// What it multiplies with.
    pub fn arithmetic(self) -> Arithmetic {
        self.arithmetic
    }

    /// The parts that it is composed of, and its file.
    pub fn choice(self) -> (&'static str, Choice<'static>) {
        let (file, form) = self.kernel.file();
        let weights = self.weights.map_or("", WeightType::part);
        let reduce = self.reduction.map_or("", Reduction::part);
        let (arithmetic, extensions) = (self.arithmetic.name(), self.arithmetic.extensions());
        (file, Choice { form, weights, reduce, arithmetic, extensions })
    }

    /// A name for people: `linear.rows.affine4.subgroup.int8`; the exact arithmetic is not named.
    pub fn name(self) -> String {
        let (file, choice) = self.choice();
        let weights = choice.weights.strip_prefix("weights_").unwrap_or_default();
        let reduce = choice.reduce.strip_prefix("reduce_").unwrap_or_default();
        let arithmetic = match self.arithmetic {
            Arithmetic::F32 => "",
            other => other.name(),
        };
        let words = [file, choice.form, weights, reduce, arithmetic];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(".")
    }
}
