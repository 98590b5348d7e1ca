//! [`ModelSpec`]: what a model computes, as plain data.
//!
//! A model is an embedding, a list of residual blocks and a head:
//!
//! ```text
//! x  = embedding.scale * E[token]
//! x += block.residual_scale * sum over branches of (branch.scale * mixer(norm(x)))     for each block
//! logits = soft_cap(head.scale * W norm(x))
//! ```
//!
//! Every family is such a list: a Llama layer is two blocks (attention, feed-forward), a Mamba layer
//! is one. A spec names the tensors of the checkpoint with the shapes they must have, so that
//! a checkpoint can be checked before anything runs; it holds no weights and knows no device.
//!
//! In shapes, `hidden` is the width of the residual stream; matrices are `[rows, cols]` as
//! checkpoints store them, `rows` being outputs and `cols` inputs.

use std::borrow::Cow;
use std::fmt;

/// A tensor of the checkpoint and the shape it must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorSpec {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor called `name` of shape `shape`.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), shape: shape.into() }
    }

    /// Number of elements, saturating (no tensor that large can exist).
    pub fn elements(&self) -> usize {
        self.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d))
    }
}

/// A matrix in the checkpoint: some rows of a tensor, seen as `[.., cols]` with its leading
/// dimensions flattened. Fused projections (`[gate | up]`) and stacked experts (`[E, rows, cols]`)
/// are row ranges of one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// The tensor that holds the rows.
    pub tensor: TensorSpec,
    /// First row taken, counted over the flattened leading dimensions.
    pub row_offset: usize,
    /// Rows taken: the number of outputs.
    pub rows: usize,
    /// Columns: the number of inputs.
    pub cols: usize,
}

impl Matrix {
    /// The whole of the 2-D tensor `name`.
    pub fn whole(name: impl Into<String>, rows: usize, cols: usize) -> Self {
        Self { tensor: TensorSpec::new(name, [rows, cols]), row_offset: 0, rows, cols }
    }

    /// Rows `row_offset .. row_offset + rows` of this matrix.
    pub fn rows(&self, row_offset: usize, rows: usize) -> Self {
        debug_assert!(row_offset + rows <= self.rows);
        Self { row_offset: self.row_offset + row_offset, rows, ..self.clone() }
    }

    /// Matrix `index` of a stack `[count, rows, cols]`.
    pub fn stacked(
        name: impl Into<String>,
        count: usize,
        rows: usize,
        cols: usize,
        index: usize,
    ) -> Self {
        Self {
            tensor: TensorSpec::new(name, [count, rows, cols]),
            row_offset: index.saturating_mul(rows),
            rows,
            cols,
        }
    }

    /// Number of elements, saturating.
    pub fn elements(&self) -> usize {
        self.rows.saturating_mul(self.cols)
    }
}

/// `y = W x + b`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// `W`, `[outputs, inputs]`.
    pub weight: Matrix,
    /// `b`, `[outputs]`.
    pub bias: Option<TensorSpec>,
}

impl Linear {
    /// A linear map `PREFIX.weight` of `[outputs, inputs]`, with `PREFIX.bias` if `bias`.
    pub fn new(prefix: &str, outputs: usize, inputs: usize, bias: bool) -> Self {
        Self {
            weight: Matrix::whole(format!("{prefix}.weight"), outputs, inputs),
            bias: bias.then(|| TensorSpec::new(format!("{prefix}.bias"), [outputs])),
        }
    }
}

impl From<Matrix> for Linear {
    fn from(weight: Matrix) -> Self {
        Self { weight, bias: None }
    }
}

/// Root-mean-square normalisation, `x / sqrt(mean(x^2) + eps) * weight + bias`
/// (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, eq. 4).
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// `[width]`.
    pub weight: TensorSpec,
    /// `[width]`; rare (xLSTM with `use_bias`).
    pub bias: Option<TensorSpec>,
    /// Added to the mean square.
    pub eps: f32,
}

impl Norm {
    /// The norm `PREFIX.weight` over `width` elements.
    pub fn new(prefix: &str, width: usize, eps: f32) -> Self {
        Self { weight: TensorSpec::new(format!("{prefix}.weight"), [width]), bias: None, eps }
    }
}

/// What a model computes.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// `model_type` of `config.json`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding: token ids are below this.
    pub vocab: usize,
    /// Longest context that the model was made for, if the config says; recurrent models have none.
    pub max_positions: Option<usize>,
    /// Token embedding.
    pub embedding: Embedding,
    /// The residual blocks, in order.
    pub blocks: Vec<Block>,
    /// From the residual stream to logits.
    pub head: Head,
    /// Tensors that checkpoints of the family may hold and that are not needed (a copy of a tied
    /// head, buffers of old versions). Patterns: `*` stands for any run of characters.
    pub ignored: Vec<String>,
}

/// Token embedding: `x = scale * E[token]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `E`, `[vocab, hidden]`.
    pub table: Matrix,
    /// Granite's `embedding_multiplier`; 1 elsewhere.
    pub scale: f32,
}

/// Logits: `z = scale * (W norm(x) + b)`, then `cap * tanh(z / cap)` where `soft_cap` is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The final norm, over `hidden`.
    pub norm: Norm,
    /// `W`, `[vocab, hidden]`; the embedding's table where the two are tied.
    pub linear: Linear,
    /// `1 / logits_scaling` of Granite; 1 elsewhere.
    pub scale: f32,
    /// xLSTM's `output_logit_soft_cap`.
    pub soft_cap: Option<f32>,
    /// Where the config ties head and embedding: the name under which a checkpoint may hold a head all the same.
    /// See [`ModelSpec::settle_tie`].
    pub untied: Option<Linear>,
}

/// One residual block: `x += residual_scale * sum of branch.scale * mixer(norm(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// The layer of the checkpoint that it belongs to, counted from 0; several blocks may share one.
    pub layer: usize,
    /// The norm in front of all branches, over `hidden`.
    pub norm: Norm,
    /// One, or several in parallel on the same normed input.
    pub branches: Vec<Branch>,
    /// Granite's `residual_multiplier`; 1 elsewhere.
    pub residual_scale: f32,
}

/// One mixer of a block, and the factor on its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// What it computes.
    pub mixer: Mixer,
    /// Factor on its output; 1 nearly everywhere.
    pub scale: f32,
}

impl From<Mixer> for Branch {
    fn from(mixer: Mixer) -> Self {
        Self { mixer, scale: 1.0 }
    }
}

/// What a branch computes from the normed residual stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Multi-head attention with grouped key/value heads.
    Attention(Attention),
    /// Selective state space with a state per channel (Mamba).
    Mamba(Mamba),
    /// Selective state space with a scalar decay per head (Mamba-2).
    Mamba2(Mamba2),
    /// Matrix-memory LSTM (xLSTM).
    MLstm(MLstm),
    /// Gated feed-forward network.
    Dense(Dense),
    /// Mixture of experts.
    Moe(Moe),
}

/// Softmax attention (Vaswani et al., 2017, section 3.2) with grouped key/value heads (Ainslie et al., 2023).
///
/// Order of what happens to queries and keys: projection and bias, `qk_norm`, `clip`, `rope`.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// `[heads * head_dim, hidden]`.
    pub q: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: Linear,
    /// `[hidden, heads * head_dim]`.
    pub o: Linear,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads; query head `h` reads `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on `q . k` before the softmax; `1 / sqrt(head_dim)` nearly everywhere.
    pub scale: f32,
    /// RMS norm on queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// OLMoE's `clip_qkv`: queries, keys and values are clamped to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// Rotary position encoding; none for NoPE.
    pub rope: Option<Rope>,
    /// Sliding window: position `i` sees `j` with `i - window < j <= i`.
    pub window: Option<usize>,
}

/// RMS norm on queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct QkNorm {
    /// On queries: over `head_dim` if `per_head`, else over `heads * head_dim`.
    pub q: Norm,
    /// On keys: over `head_dim` if `per_head`, else over `kv_heads * head_dim`.
    pub k: Norm,
    /// Whether each head is normed by itself (Qwen3) or the whole projection at once (OLMoE).
    pub per_head: bool,
}

/// Rotary position encoding (Su et al., "RoFormer", 2021), in the half-split form of `transformers`:
/// element `i` is rotated with element `i + rotated / 2`, where `rotated = 2 * inv_freq.len()` elements
/// at the front of each head take part.
#[derive(Clone, PartialEq)]
pub struct Rope {
    /// Angle per position of each pair, in radians; scaled already (linear, llama3, yarn).
    pub inv_freq: Vec<f32>,
    /// Factor on cosine and sine (yarn's attention factor); 1 elsewhere.
    pub attention_factor: f32,
    /// How the angles change behind the context that the model was trained on (type dynamic).
    pub dynamic: Option<DynamicRope>,
}

/// Rotary frequencies that depend on the length ("dynamic NTK scaling", by Reddit users bloc97 and emozilla, 2023): in a sequence of
/// `n > max_positions` tokens the base is `theta * (factor * n / max_positions - (factor - 1))^(d / (d - 2))`.
///
/// The length is that up to a position, so that a token's rotation depends on where it is and not on how many came with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicRope {
    /// `theta`.
    pub theta: f32,
    /// `factor`.
    pub factor: f32,
    /// Positions that are rotated by [`Rope::inv_freq`].
    pub max_positions: usize,
    /// `d`: elements of a head that are rotated, above 2.
    pub rotated: usize,
}

impl Rope {
    /// Angle per position of each pair for a token at `position`.
    pub fn inv_freq_at(&self, position: usize) -> Cow<'_, [f32]> {
        match &self.dynamic {
            Some(dynamic) if position >= dynamic.max_positions => {
                Cow::Owned(dynamic.inv_freq(position + 1))
            }
            _ => Cow::Borrowed(&self.inv_freq),
        }
    }
}

impl DynamicRope {
    /// Angle per position of each pair in a sequence of `length` tokens: in single precision, as the reference has it.
    fn inv_freq(&self, length: usize) -> Vec<f32> {
        let Self { theta, factor, max_positions, rotated } = *self;
        let stretch = factor * length as f32 / max_positions as f32 - (factor - 1.0);
        let exponent = (rotated as f64 / (rotated - 2) as f64) as f32;
        let base = theta * stretch.powf(exponent);
        let exponents = (0..rotated).step_by(2).map(|i| i as f32 / rotated as f32);
        // As in `Source::wavelengths`: the nearest to the true power, on every platform.
        exponents.map(|e| (f64::from(base).powf(f64::from(e)) as f32).recip()).collect()
    }
}

impl fmt::Debug for Rope {
    // Saved sessions know a model by this text: what most models don't have is not in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Rope");
        fields.field("inv_freq", &self.inv_freq);
        fields.field("attention_factor", &self.attention_factor);
        if let Some(dynamic) = &self.dynamic {
            fields.field("dynamic", dynamic);
        }
        fields.finish()
    }
}

/// Depthwise causal convolution over time, then SiLU.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// `[channels, 1, kernel]`, in MLX's layout `[channels, kernel, 1]`; the last tap is the present token's.
    pub weight: TensorSpec,
    /// `[channels]`.
    pub bias: Option<TensorSpec>,
    /// Number of channels.
    pub channels: usize,
    /// Taps.
    pub kernel: usize,
}

impl Conv {
    /// The convolution `PREFIX.weight` (and `PREFIX.bias`).
    pub fn new(prefix: &str, channels: usize, kernel: usize, bias: bool) -> Self {
        Self {
            weight: TensorSpec::new(format!("{prefix}.weight"), [channels, 1, kernel]),
            bias: bias.then(|| TensorSpec::new(format!("{prefix}.bias"), [channels])),
            channels,
            kernel,
        }
    }
}

/// Mamba (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3).
///
/// With `[x | z] = in_proj(u)`, `x = silu(conv(x))`, `[r | B | C] = x_proj(x)`,
/// `dt = softplus(dt_proj(r))`, `A = -exp(a_log)`:
/// `h[c,n] = exp(dt[c] A[c,n]) h[c,n] + dt[c] B[n] x[c]`, `y[c] = sum_n C[n] h[c,n] + d[c] x[c]`,
/// output `out_proj(y * silu(z))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba {
    /// `[2 * inner, hidden]`.
    pub in_proj: Linear,
    /// Over `inner` channels.
    pub conv: Conv,
    /// `[dt_rank + 2 * state, inner]`.
    pub x_proj: Linear,
    /// `[inner, dt_rank]`, with bias.
    pub dt_proj: Linear,
    /// `[inner, state]`.
    pub a_log: TensorSpec,
    /// `[inner]`.
    pub d: TensorSpec,
    /// `[hidden, inner]`.
    pub out_proj: Linear,
    /// Channels.
    pub inner: usize,
    /// State per channel.
    pub state: usize,
    /// Rank of the step-size projection.
    pub dt_rank: usize,
    /// FalconMamba: weightless RMS norm on `r`, `B` and `C`, each by itself, with this epsilon.
    pub bcdt_norm_eps: Option<f32>,
}

/// Mamba-2 (Dao and Gu, "Transformers are SSMs", 2024, sections 5 to 7).
///
/// With `[z | xBC | dt] = in_proj(u)`, `xBC = silu(conv(xBC))`, `dt = clamp(softplus(dt + dt_bias))`,
/// `a = exp(-exp(a_log) dt)`; for head `h` of group `g = h / (heads / groups)`:
/// `S = a S + dt x B^T`, `y = S C + d x`; then the gated norm and `out_proj`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba2 {
    /// `[2 * inner + 2 * groups * state + heads, hidden]`, `inner = heads * head_dim`.
    pub in_proj: Linear,
    /// Over `inner + 2 * groups * state` channels: x, B, C.
    pub conv: Conv,
    /// `[heads]`.
    pub a_log: TensorSpec,
    /// `[heads]`.
    pub d: TensorSpec,
    /// `[heads]`.
    pub dt_bias: TensorSpec,
    /// Bounds on `dt` after the softplus.
    pub dt_limit: (f32, f32),
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Groups that share B and C.
    pub groups: usize,
    /// State per head element.
    pub state: usize,
    /// Between scan and `out_proj`.
    pub gate: Mamba2Gate,
    /// `[hidden, inner]`.
    pub out_proj: Linear,
}

/// How Mamba-2's output `y` meets its gate `z`.
#[derive(Clone, Debug, PartialEq)]
pub enum Mamba2Gate {
    /// `y * silu(z)`, without a norm.
    Silu,
    /// RMS norm of `y * silu(z)` over each of `groups` equal parts, then the weight `[inner]`.
    NormAfter {
        /// Weight `[inner]` and epsilon.
        norm: Norm,
        /// Equal parts that are normed by themselves.
        groups: usize,
    },
}

/// mLSTM with exponential gating and a matrix memory (Beck et al., "xLSTM", 2024, section 2.3;
/// in the form of "xLSTM 7B", 2025).
///
/// With `i = cap(igate(u))`, `f = logsigmoid(cap(fgate(u)))`, `m' = max(f + m, i)`:
/// `C = e^(f+m-m') C + e^(i-m') k v^T`, `n = e^(f+m-m') n + e^(i-m') k`,
/// `h = (q / sqrt(qk_head_dim))^T C / (max(|q . n| / sqrt(qk_head_dim), e^-m') + eps)`; then a layer norm of
/// each head, `sigmoid(ogate(u)) *`, and `out_proj`.
#[derive(Clone, Debug, PartialEq)]
pub struct MLstm {
    /// `[heads * qk_head_dim, hidden]`.
    pub q: Linear,
    /// `[heads * qk_head_dim, hidden]`.
    pub k: Linear,
    /// `[heads * v_head_dim, hidden]`.
    pub v: Linear,
    /// `[heads * v_head_dim, hidden]`.
    pub ogate: Linear,
    /// `[heads, hidden]`.
    pub igate: Linear,
    /// `[heads, hidden]`.
    pub fgate: Linear,
    /// `[hidden, heads * v_head_dim]`.
    pub out_proj: Linear,
    /// Heads.
    pub heads: usize,
    /// Width of queries and keys of a head.
    pub qk_head_dim: usize,
    /// Width of values of a head.
    pub v_head_dim: usize,
    /// `cap * tanh(x / cap)` on both gates.
    pub gate_soft_cap: Option<f32>,
    /// Added to the denominator.
    pub eps: f32,
    /// Weight (and bias) `[heads * v_head_dim]` of the layer norm (mean subtracted) of each head.
    pub head_norm: Norm,
}

/// Gated feed-forward network: `down(act(gate(x)) * up(x))` (Shazeer, "GLU Variants Improve Transformer", 2020).
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// `[inner, hidden]`.
    pub gate: Linear,
    /// `[inner, hidden]`.
    pub up: Linear,
    /// `[hidden, inner]`.
    pub down: Linear,
    /// On the gate.
    pub activation: Activation,
}

/// Mixture of experts (Shazeer et al., 2017): the `top_k` experts with the largest router
/// probability, weighted by it, beside an optional expert that sees every token.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// `[experts, hidden]`.
    pub router: Linear,
    /// Whether the chosen experts' probabilities are scaled to sum to 1.
    pub renormalize: bool,
    /// Experts used per token.
    pub top_k: usize,
    /// All of one shape, without biases.
    pub experts: Vec<Dense>,
    /// Added with weight 1; its inner width may differ from the experts'.
    pub shared: Option<Dense>,
}

/// Activation of a feed-forward gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)` with the error function.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}
