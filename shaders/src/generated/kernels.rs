//! Made by `shaders/generate.sh`; not to be edited.

use crate::kernel::{Declaration, Kinds, Stored};

/// A kernel: an op, or a form or part of one, that is dispatched by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {
    /// `attention`: many tokens: prepares queries, keys and values.
    AttentionPrepare,
    /// `attention`: many tokens: tiles of queries over the cache.
    AttentionAttend,
    /// `attention`: few tokens: queries over pieces of the cache.
    AttentionPieces,
    /// `attention`: few tokens, for heads whose width is not a multiple of 4.
    AttentionPiecesAny,
    /// `attention`: AttentionPrepare with quantized keys and values.
    AttentionPreparePacked,
    /// `attention`: AttentionAttend with quantized keys and values.
    AttentionAttendPacked,
    /// `attention`: AttentionPieces with quantized keys and values.
    AttentionPiecesPacked,
    /// `attention`: few tokens: merges the results of the pieces.
    AttentionMerge,
    /// `concat`: columns of a buffer.
    Concat,
    /// `conv1d`: any number of tokens.
    Conv1d,
    /// `copy`: copies memory, to measure its bandwidth.
    Copy,
    /// `embed`: any number of tokens.
    Embed,
    /// `expert_norm`: any number of tokens.
    ExpertNorm,
    /// `gated_delta_scan`: few tokens.
    DeltaStep,
    /// `gated_delta_scan`: many tokens: decayed queries and keys, for a decay of each head.
    DeltaPrepare,
    /// `gated_delta_scan`: the same for a decay of each channel.
    DeltaPrepareChannels,
    /// `gated_delta_scan`: many tokens: the products of a chunk's tokens, for a decay of each head.
    DeltaScores,
    /// `gated_delta_scan`: the same for a decay of each channel.
    DeltaScoresChannels,
    /// `gated_delta_scan`: many tokens: each chunk's triangular system.
    DeltaSolve,
    /// `gated_delta_scan`: many tokens: updates, and the state before each chunk.
    DeltaPass,
    /// `gated_delta_scan`: many tokens: the outputs.
    DeltaOutputs,
    /// `gated_linear`: few tokens.
    GatedLinearRows,
    /// `gated_linear`: many tokens.
    GatedLinearTiles,
    /// `gated_linear`: up to 32 tokens.
    GatedLinearSmallTiles,
    /// `head`: few tokens.
    HeadRows,
    /// `head`: many tokens.
    HeadTiles,
    /// `head`: up to 32 tokens.
    HeadSmallTiles,
    /// `head_linear`: outputs are rows of the matrices.
    HeadLinearRows,
    /// `head_linear`: outputs are columns of the matrices.
    HeadLinearColumns,
    /// `head_norm`: any number of tokens.
    HeadNorm,
    /// `hybrid_attention`: the keys with the largest scores, for each token.
    HybridChoose,
    /// `hybrid_attention`: the hierarchy of means.
    HybridFold,
    /// `hybrid_attention`: the linear memory.
    HybridRecall,
    /// `hybrid_attention`: attention of a token.
    HybridAttend,
    /// `hybrid_attention`: keys that leave the ring, chosen keys and means go to their places.
    HybridMove,
    /// `hybrid_attention`: the run's keys go to the ring.
    HybridAppend,
    /// `kernel_attention`: few tokens.
    KernelAttentionStep,
    /// `kernel_attention`: many tokens: Q K^T of each chunk.
    KernelAttentionScores,
    /// `kernel_attention`: many tokens: what each chunk adds to the sums.
    KernelAttentionStates,
    /// `kernel_attention`: many tokens: the sums before each chunk.
    KernelAttentionPass,
    /// `kernel_attention`: many tokens: the outputs.
    KernelAttentionOutputs,
    /// `linear`: few tokens.
    LinearRows,
    /// `linear`: few tokens, after a layer norm of each head and a gate.
    LinearHeadRows,
    /// `linear`: many tokens.
    LinearTiles,
    /// `linear`: up to 32 tokens.
    LinearSmallTiles,
    /// `linear_attention`: few tokens.
    LinearAttentionStep,
    /// `linear_attention`: few tokens, for heads whose values' width is not a multiple of 4.
    LinearAttentionStepAny,
    /// `linear_attention`: many tokens: Q K^T of each chunk.
    LinearAttentionScores,
    /// `linear_attention`: many tokens: what each chunk adds to the state.
    LinearAttentionStates,
    /// `linear_attention`: many tokens: the state before each chunk.
    LinearAttentionPass,
    /// `linear_attention`: many tokens: the outputs.
    LinearAttentionOutputs,
    /// `mamba2_scan`: few tokens.
    Mamba2Step,
    /// `mamba2_scan`: few tokens, for heads whose width is not a multiple of 4.
    Mamba2StepAny,
    /// `mamba2_scan`: many tokens: the convolution.
    Mamba2Convolve,
    /// `mamba2_scan`: many tokens: C B^T of each chunk.
    Mamba2Scores,
    /// `mamba2_scan`: many tokens: what each chunk adds to the state.
    Mamba2States,
    /// `mamba2_scan`: many tokens: the state before each chunk.
    Mamba2Pass,
    /// `mamba2_scan`: many tokens: the outputs.
    Mamba2Outputs,
    /// `mamba_scan`: any number of tokens.
    MambaScan,
    /// `mlstm_scan`: few tokens, up to the norm.
    MLstmStep,
    /// `mlstm_scan`: many tokens: the weights of the tokens of a chunk for each other.
    MLstmScores,
    /// `mlstm_scan`: many tokens: what each chunk adds to the state.
    MLstmStates,
    /// `mlstm_scan`: many tokens: the state before each chunk.
    MLstmPass,
    /// `mlstm_scan`: many tokens: the outputs before their norm.
    MLstmOutputs,
    /// `mlstm_scan`: norm and gate.
    MLstmFinish,
    /// `moe_down`: few tokens.
    MoeDownRows,
    /// `moe_down`: many tokens: each expert's contribution.
    MoeDownTiles,
    /// `moe_down`: up to 32 tokens: each expert's contribution.
    MoeDownSmallTiles,
    /// `moe_down`: many tokens: the sum of the contributions.
    MoeDownSum,
    /// `moe_group`: groups tokens by expert before the products of many tokens.
    MoeGroup,
    /// `moe_route`: any number of tokens.
    MoeRoute,
    /// `moe_up`: few tokens.
    MoeUpRows,
    /// `moe_up`: many tokens.
    MoeUpTiles,
    /// `moe_up`: up to 32 tokens.
    MoeUpSmallTiles,
    /// `multi_level_attention`: keys and values join the cache.
    MultiLevelStore,
    /// `multi_level_attention`: attention of a token.
    MultiLevelAttend,
    /// `positions`: rows of a table, of one run.
    PositionsLearned,
    /// `positions`: sines and cosines, of any runs.
    PositionsSinusoidal,
    /// `prepare`: prepares many tokens for a projection.
    Prepare,
    /// `residual_norm`: norms the residual stream in place.
    ResidualNormStream,
    /// `residual_norm`: adds a normed branch to the residual stream.
    ResidualNormBranch,
    /// `sample`: chooses the most probable token.
    SampleGreedy,
    /// `sample`: the largest logit of each block.
    SampleLargest,
    /// `sample`: the probability mass of each block of logits.
    SampleMasses,
    /// `sample`: samples from all tokens.
    SampleDrawn,
    /// `sample`: samples from the most probable tokens.
    SampleSorted,
    /// `slstm_scan`: any number of tokens.
    SLstmScan,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 87] = [
        Self::AttentionPrepare,
        Self::AttentionAttend,
        Self::AttentionPieces,
        Self::AttentionPiecesAny,
        Self::AttentionPreparePacked,
        Self::AttentionAttendPacked,
        Self::AttentionPiecesPacked,
        Self::AttentionMerge,
        Self::Concat,
        Self::Conv1d,
        Self::Copy,
        Self::Embed,
        Self::ExpertNorm,
        Self::DeltaStep,
        Self::DeltaPrepare,
        Self::DeltaPrepareChannels,
        Self::DeltaScores,
        Self::DeltaScoresChannels,
        Self::DeltaSolve,
        Self::DeltaPass,
        Self::DeltaOutputs,
        Self::GatedLinearRows,
        Self::GatedLinearTiles,
        Self::GatedLinearSmallTiles,
        Self::HeadRows,
        Self::HeadTiles,
        Self::HeadSmallTiles,
        Self::HeadLinearRows,
        Self::HeadLinearColumns,
        Self::HeadNorm,
        Self::HybridChoose,
        Self::HybridFold,
        Self::HybridRecall,
        Self::HybridAttend,
        Self::HybridMove,
        Self::HybridAppend,
        Self::KernelAttentionStep,
        Self::KernelAttentionScores,
        Self::KernelAttentionStates,
        Self::KernelAttentionPass,
        Self::KernelAttentionOutputs,
        Self::LinearRows,
        Self::LinearHeadRows,
        Self::LinearTiles,
        Self::LinearSmallTiles,
        Self::LinearAttentionStep,
        Self::LinearAttentionStepAny,
        Self::LinearAttentionScores,
        Self::LinearAttentionStates,
        Self::LinearAttentionPass,
        Self::LinearAttentionOutputs,
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
        Self::MoeDownRows,
        Self::MoeDownTiles,
        Self::MoeDownSmallTiles,
        Self::MoeDownSum,
        Self::MoeGroup,
        Self::MoeRoute,
        Self::MoeUpRows,
        Self::MoeUpTiles,
        Self::MoeUpSmallTiles,
        Self::MultiLevelStore,
        Self::MultiLevelAttend,
        Self::PositionsLearned,
        Self::PositionsSinusoidal,
        Self::Prepare,
        Self::ResidualNormStream,
        Self::ResidualNormBranch,
        Self::SampleGreedy,
        Self::SampleLargest,
        Self::SampleMasses,
        Self::SampleDrawn,
        Self::SampleSorted,
        Self::SLstmScan,
    ];
}

/// The declarations, in the order of [`Kernel`].
#[rustfmt::skip]
pub(crate) const KERNELS: [Declaration; 87] = [
    Declaration { file: "attention", form: "prepare", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "attention", form: "attend", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "attention", form: "pieces", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "attention", form: "pieces_any", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "attention", form: "prepare_packed", stored: Stored::Cache, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "attention", form: "attend_packed", stored: Stored::Cache, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "attention", form: "pieces_packed", stored: Stored::Cache, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "attention", form: "merge", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "concat", form: "", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "conv1d", form: "", stored: Stored::States, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "copy", form: "", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "embed", form: "", stored: Stored::Weights, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "expert_norm", form: "", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "gated_delta_scan", form: "step", stored: Stored::States, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "gated_delta_scan", form: "prepare", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "gated_delta_scan", form: "prepare_channels", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "gated_delta_scan", form: "scores", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "gated_delta_scan", form: "scores_channels", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "gated_delta_scan", form: "solve", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "gated_delta_scan", form: "pass", stored: Stored::States, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "gated_delta_scan", form: "outputs", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "gated_linear", form: "rows", stored: Stored::Weights, arithmetic: Kinds::Int8, reduces: true, samples: false },
    Declaration { file: "gated_linear", form: "tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "gated_linear", form: "small_tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "head", form: "rows", stored: Stored::Weights, arithmetic: Kinds::Int8, reduces: true, samples: false },
    Declaration { file: "head", form: "tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "head", form: "small_tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "head_linear", form: "rows", stored: Stored::Weights, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "head_linear", form: "columns", stored: Stored::Weights, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "head_norm", form: "", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "hybrid_attention", form: "choose", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "hybrid_attention", form: "fold", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "hybrid_attention", form: "recall", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "hybrid_attention", form: "attend", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "hybrid_attention", form: "move", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "hybrid_attention", form: "append", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "kernel_attention", form: "step", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "kernel_attention", form: "scores", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "kernel_attention", form: "states", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "kernel_attention", form: "pass", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "kernel_attention", form: "outputs", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "linear", form: "rows", stored: Stored::Weights, arithmetic: Kinds::Int8, reduces: true, samples: false },
    Declaration { file: "linear", form: "head_rows", stored: Stored::Weights, arithmetic: Kinds::Int8, reduces: true, samples: false },
    Declaration { file: "linear", form: "tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "linear", form: "small_tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "linear_attention", form: "step", stored: Stored::States, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "linear_attention", form: "step_any", stored: Stored::States, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "linear_attention", form: "scores", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "linear_attention", form: "states", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "linear_attention", form: "pass", stored: Stored::States, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "linear_attention", form: "outputs", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mamba2_scan", form: "step", stored: Stored::States, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "mamba2_scan", form: "step_any", stored: Stored::States, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "mamba2_scan", form: "convolve", stored: Stored::States, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mamba2_scan", form: "scores", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mamba2_scan", form: "states", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mamba2_scan", form: "pass", stored: Stored::States, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mamba2_scan", form: "outputs", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mamba_scan", form: "", stored: Stored::States, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mlstm_scan", form: "step", stored: Stored::States, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "mlstm_scan", form: "scores", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mlstm_scan", form: "states", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mlstm_scan", form: "pass", stored: Stored::States, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mlstm_scan", form: "outputs", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "mlstm_scan", form: "finish", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "moe_down", form: "rows", stored: Stored::Weights, arithmetic: Kinds::Int8, reduces: true, samples: false },
    Declaration { file: "moe_down", form: "tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "moe_down", form: "small_tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "moe_down", form: "sum", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "moe_group", form: "", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "moe_route", form: "", stored: Stored::Weights, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "moe_up", form: "rows", stored: Stored::Weights, arithmetic: Kinds::Int8, reduces: true, samples: false },
    Declaration { file: "moe_up", form: "tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "moe_up", form: "small_tiles", stored: Stored::Weights, arithmetic: Kinds::Tiled, reduces: false, samples: false },
    Declaration { file: "multi_level_attention", form: "store", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "multi_level_attention", form: "attend", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "positions", form: "learned", stored: Stored::Weights, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "positions", form: "sinusoidal", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: false },
    Declaration { file: "prepare", form: "", stored: Stored::Nothing, arithmetic: Kinds::F16, reduces: true, samples: false },
    Declaration { file: "residual_norm", form: "stream", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "residual_norm", form: "branch", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
    Declaration { file: "sample", form: "greedy", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: true },
    Declaration { file: "sample", form: "largest", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: true },
    Declaration { file: "sample", form: "masses", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: true },
    Declaration { file: "sample", form: "drawn", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: true },
    Declaration { file: "sample", form: "sorted", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: false, samples: true },
    Declaration { file: "slstm_scan", form: "", stored: Stored::Nothing, arithmetic: Kinds::Plain, reduces: true, samples: false },
];

/// Every WGSL file by its name.
#[rustfmt::skip]
pub(crate) const FILES: &[(&str, &str)] = &[
    ("attention", include_str!("../attention.wgsl")),
    ("concat", include_str!("../concat.wgsl")),
    ("conv1d", include_str!("../conv1d.wgsl")),
    ("copy", include_str!("../copy.wgsl")),
    ("embed", include_str!("../embed.wgsl")),
    ("expert_norm", include_str!("../expert_norm.wgsl")),
    ("gated_delta_scan", include_str!("../gated_delta_scan.wgsl")),
    ("gated_linear", include_str!("../gated_linear.wgsl")),
    ("head", include_str!("../head.wgsl")),
    ("head_linear", include_str!("../head_linear.wgsl")),
    ("head_norm", include_str!("../head_norm.wgsl")),
    ("hybrid_attention", include_str!("../hybrid_attention.wgsl")),
    ("kernel_attention", include_str!("../kernel_attention.wgsl")),
    ("linear", include_str!("../linear.wgsl")),
    ("linear_attention", include_str!("../linear_attention.wgsl")),
    ("mamba2_scan", include_str!("../mamba2_scan.wgsl")),
    ("mamba_scan", include_str!("../mamba_scan.wgsl")),
    ("mlstm_scan", include_str!("../mlstm_scan.wgsl")),
    ("moe_down", include_str!("../moe_down.wgsl")),
    ("moe_group", include_str!("../moe_group.wgsl")),
    ("moe_route", include_str!("../moe_route.wgsl")),
    ("moe_up", include_str!("../moe_up.wgsl")),
    ("multi_level_attention", include_str!("../multi_level_attention.wgsl")),
    ("positions", include_str!("../positions.wgsl")),
    ("prepare", include_str!("../prepare.wgsl")),
    ("residual_norm", include_str!("../residual_norm.wgsl")),
    ("sample", include_str!("../sample.wgsl")),
    ("slstm_scan", include_str!("../slstm_scan.wgsl")),
    ("absent", include_str!("../parts/absent.wgsl")),
    ("affine", include_str!("../parts/affine.wgsl")),
    ("affine_any", include_str!("../parts/affine_any.wgsl")),
    ("attention_pieces", include_str!("../parts/attention_pieces.wgsl")),
    ("cache_affine4", include_str!("../parts/cache_affine4.wgsl")),
    ("cache_affine8", include_str!("../parts/cache_affine8.wgsl")),
    ("cache_packed", include_str!("../parts/cache_packed.wgsl")),
    ("compensated", include_str!("../parts/compensated.wgsl")),
    ("decays", include_str!("../parts/decays.wgsl")),
    ("delta_chunks", include_str!("../parts/delta_chunks.wgsl")),
    ("drawing", include_str!("../parts/drawing.wgsl")),
    ("grouped", include_str!("../parts/grouped.wgsl")),
    ("hybrid_attend", include_str!("../parts/hybrid_attend.wgsl")),
    ("hybrid_sums", include_str!("../parts/hybrid_sums.wgsl")),
    ("main_subgroup", include_str!("../parts/main_subgroup.wgsl")),
    ("main_workgroup", include_str!("../parts/main_workgroup.wgsl")),
    ("mamba2_chunks", include_str!("../parts/mamba2_chunks.wgsl")),
    ("math", include_str!("../parts/math.wgsl")),
    ("matrix", include_str!("../parts/matrix.wgsl")),
    ("mlstm_chunks", include_str!("../parts/mlstm_chunks.wgsl")),
    ("products", include_str!("../parts/products.wgsl")),
    ("prologue", include_str!("../parts/prologue.wgsl")),
    ("quantized", include_str!("../parts/quantized.wgsl")),
    ("ranked", include_str!("../parts/ranked.wgsl")),
    ("reduce_subgroup", include_str!("../parts/reduce_subgroup.wgsl")),
    ("reduce_workgroup", include_str!("../parts/reduce_workgroup.wgsl")),
    ("rows", include_str!("../parts/rows.wgsl")),
    ("rows_f32", include_str!("../parts/rows_f32.wgsl")),
    ("rows_int8", include_str!("../parts/rows_int8.wgsl")),
    ("runs", include_str!("../parts/runs.wgsl")),
    ("shares", include_str!("../parts/shares.wgsl")),
    ("state_f16", include_str!("../parts/state_f16.wgsl")),
    ("state_f32", include_str!("../parts/state_f32.wgsl")),
    ("step", include_str!("../parts/step.wgsl")),
    ("sums_f16", include_str!("../parts/sums_f16.wgsl")),
    ("tiles", include_str!("../parts/tiles.wgsl")),
    ("tiles_cooperative", include_str!("../parts/tiles_cooperative.wgsl")),
    ("tiles_plain", include_str!("../parts/tiles_plain.wgsl")),
    ("weights_affine2", include_str!("../parts/weights_affine2.wgsl")),
    ("weights_affine3", include_str!("../parts/weights_affine3.wgsl")),
    ("weights_affine4", include_str!("../parts/weights_affine4.wgsl")),
    ("weights_affine5", include_str!("../parts/weights_affine5.wgsl")),
    ("weights_affine6", include_str!("../parts/weights_affine6.wgsl")),
    ("weights_affine8", include_str!("../parts/weights_affine8.wgsl")),
    ("weights_bf16", include_str!("../parts/weights_bf16.wgsl")),
    ("weights_f16", include_str!("../parts/weights_f16.wgsl")),
    ("weights_f32", include_str!("../parts/weights_f32.wgsl")),
    ("weights_mxfp4", include_str!("../parts/weights_mxfp4.wgsl")),
    ("weights_mxfp8", include_str!("../parts/weights_mxfp8.wgsl")),
    ("weights_nvfp4", include_str!("../parts/weights_nvfp4.wgsl")),
];

/// The hash of the files that this was made from (see `sources.rs`).
pub(crate) const SOURCES: &str = "cbeb18c6611cb7ee";
