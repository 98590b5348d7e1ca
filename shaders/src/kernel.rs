//! Which kernels there are. Used when the crate is built and when a program runs.

use super::variant::{Arithmetic, WeightType};

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
    /// [`Self::AttentionPrepare`] where keys and values are quantized.
    AttentionPreparePacked,
    /// [`Self::AttentionAttend`] where keys and values are quantized.
    AttentionAttendPacked,
    /// [`Self::AttentionPieces`] where keys and values are quantized.
    AttentionPiecesPacked,
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
    /// `linear` for few tokens, behind a layer norm of each head and a gate.
    LinearHeadRows,
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
    /// `mlstm_scan` for few tokens, before the norm.
    MLstmStep,
    /// `mlstm_scan` for many tokens: weights of the tokens of a chunk for each other.
    MLstmScores,
    /// `mlstm_scan` for many tokens: what each chunk adds to the state.
    MLstmStates,
    /// `mlstm_scan` for many tokens: the state before each chunk.
    MLstmPass,
    /// `mlstm_scan` for many tokens: outputs before their norm.
    MLstmOutputs,
    /// `mlstm_scan`: norm and gate.
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
    pub const ALL: [Self; 50] = [
        Self::AttentionPrepare,
        Self::AttentionAttend,
        Self::AttentionPieces,
        Self::AttentionPiecesAny,
        Self::AttentionPreparePacked,
        Self::AttentionAttendPacked,
        Self::AttentionPiecesPacked,
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
        Self::LinearHeadRows,
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
            Self::AttentionPreparePacked => ("attention", "prepare_packed"),
            Self::AttentionAttendPacked => ("attention", "attend_packed"),
            Self::AttentionPiecesPacked => ("attention", "pieces_packed"),
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
            Self::LinearHeadRows => ("linear", "head_rows"),
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

    /// Whether it reads a key/value cache that is quantized, which is its weights.
    pub const fn has_packed_cache(self) -> bool {
        matches!(
            self,
            Self::AttentionPreparePacked
                | Self::AttentionAttendPacked
                | Self::AttentionPiecesPacked
        )
    }

    /// Whether it reads or writes recurrent states, which are its weights.
    pub const fn has_states(self) -> bool {
        matches!(
            self,
            Self::Conv1d
                | Self::Mamba2Step
                | Self::Mamba2StepAny
                | Self::Mamba2Convolve
                | Self::Mamba2Pass
                | Self::MambaScan
                | Self::MLstmStep
                | Self::MLstmPass
        )
    }

    /// The part that says how `weights` are stored, and `None` where the kernel has no variant for it.
    pub const fn stored(self, weights: WeightType) -> Option<&'static str> {
        match weights {
            WeightType::Affine4 if self.has_packed_cache() => Some("cache_affine4"),
            WeightType::Affine8 if self.has_packed_cache() => Some("cache_affine8"),
            WeightType::F32 if self.has_states() => Some("state_f32"),
            WeightType::F16 if self.has_states() => Some("state_f16"),
            _ if self.has_packed_cache() || self.has_states() => None,
            _ => Some(weights.part()),
        }
    }

    /// Whether it reads a weight matrix, or what is stored as one, so that it has a variant for each [`WeightType`] that can
    /// be [stored](Self::stored).
    pub const fn has_weights(self) -> bool {
        !matches!(
            self,
            Self::AttentionPrepare
                | Self::AttentionAttend
                | Self::AttentionPieces
                | Self::AttentionPiecesAny
                | Self::AttentionMerge
                | Self::Copy
                | Self::Mamba2Scores
                | Self::Mamba2States
                | Self::Mamba2Outputs
                | Self::MLstmScores
                | Self::MLstmStates
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
            | Self::LinearHeadRows
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

    /// Whether its threads add up what they have, so that it has a variant for each [`Reduction`](super::variant::Reduction).
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
