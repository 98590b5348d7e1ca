//! [`ModelSpec`]: what a model computes, as plain data.
//!
//! A model is an embedding, a list of residual blocks and a head:
//!
//! ```text
//! x  = embedding.scale * E[token] + positions
//! x  = block.residual(x)
//!    + block.residual_scale * post_norm(sum over branches of (branch.scale * mixer(branch.input_scale * norm(x))))
//! x  = block.stream_norm(x)                                                                                            for each block
//! logits = soft_cap(head.scale * W norm(x))
//! ```
//!
//! Every family is such a list: a Llama layer is two blocks (attention, feed-forward), a Mamba
//! layer is one. A block may also read the embeddings beside `x`, or leave its result aside for the
//! next block ([`Input`], [`Target`]). Blocks that name the same tensors share them. A spec names the tensors of the checkpoint with their required shapes, so that a
//! checkpoint can be checked before anything runs. It holds no weights and knows no device.
//!
//! In shapes, `hidden` is the width of the residual stream; matrices are `[rows, cols]` as
//! checkpoints store them, `rows` being outputs and `cols` inputs.

use std::fmt;

use crate::layer::Mixer;

/// A tensor of the checkpoint, with its required shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorSpec {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Creates a tensor with a name and a shape.
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
    /// The tensor that contains the rows.
    pub tensor: TensorSpec,
    /// First row, counted over the flattened leading dimensions.
    pub row_offset: usize,
    /// Number of rows: the outputs.
    pub rows: usize,
    /// Number of columns: the inputs.
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

/// `y = scale * (W x + b)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `W`, `[outputs, inputs]`.
    pub weight: Matrix,
    /// `b`, `[outputs]`; or with an element for each row of the tensor that holds `W`, of which `W`'s rows take theirs.
    pub bias: Option<TensorSpec>,
    /// A factor of the config on the result (Falcon-H1's multipliers); 1 nearly everywhere.
    pub scale: f32,
}

impl Linear {
    /// A linear map `PREFIX.weight` of `[outputs, inputs]`, with `PREFIX.bias` if `bias`.
    pub fn new(prefix: &str, outputs: usize, inputs: usize, bias: bool) -> Self {
        Self {
            weight: Matrix::whole(format!("{prefix}.weight"), outputs, inputs),
            bias: bias.then(|| TensorSpec::new(format!("{prefix}.bias"), [outputs])),
            scale: 1.0,
        }
    }

    /// The same times `factor`.
    pub fn scaled(self, factor: f32) -> Self {
        Self { scale: self.scale * factor, ..self }
    }

    /// Outputs `first .. first + rows` of this projection. The bias stays that of all rows of the tensor.
    pub fn rows(&self, first: usize, rows: usize) -> Self {
        Self { weight: self.weight.rows(first, rows), ..self.clone() }
    }
}

impl From<Matrix> for Linear {
    fn from(weight: Matrix) -> Self {
        Self { weight, bias: None, scale: 1.0 }
    }
}

/// Root-mean-square normalisation, `scale * (x / sqrt(mean(x^2) + eps) * (offset + weight) + bias)`
/// (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, eq. 4); of `x - mean(x)` if it is `centred`
/// (Ba et al., "Layer Normalization", 2016, eq. 3).
///
/// `offset` and `scale` become part of weight and bias when these are read.
#[derive(Clone, PartialEq)]
pub struct Norm {
    /// `[width]`.
    pub weight: TensorSpec,
    /// `[width]`; rare (layer norms, xLSTM with `use_bias`).
    pub bias: Option<TensorSpec>,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the stored weight: 1 where that is the distance from 1 (Gemma, Qwen3-Next), else 0.
    pub offset: f32,
    /// A factor of the config on the result; 1 nearly everywhere.
    pub scale: f32,
    /// Whether the mean is subtracted first, as in a layer norm. Only norms of the residual stream honour it: see [`Block::norms`] and
    /// [`Head::norm`].
    pub centred: bool,
}

impl fmt::Debug for Norm {
    // Saved sessions identify a model by this text, so it omits what most models don't have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weight, bias, eps, offset, scale, centred } = self;
        let mut fields = f.debug_struct("Norm");
        fields.field("weight", weight).field("bias", bias).field("eps", eps);
        fields.field("offset", offset).field("scale", scale);
        if *centred {
            fields.field("centred", centred);
        }
        fields.finish()
    }
}

impl Norm {
    /// The norm `PREFIX.weight` over `width` elements.
    pub fn new(prefix: &str, width: usize, eps: f32) -> Self {
        let weight = TensorSpec::new(format!("{prefix}.weight"), [width]);
        Self { weight, bias: None, eps, offset: 0.0, scale: 1.0, centred: false }
    }

    /// The layer norm `PREFIX.weight`, `PREFIX.bias` over `width` elements.
    pub fn layer(prefix: &str, width: usize, eps: f32) -> Self {
        let bias = Some(TensorSpec::new(format!("{prefix}.bias"), [width]));
        Self { bias, centred: true, ..Self::new(prefix, width, eps) }
    }

    /// The same with weights that are stored as their distance from 1.
    pub fn around_one(self) -> Self {
        Self { offset: 1.0, ..self }
    }

    /// The same times `factor`.
    pub fn scaled(self, factor: f32) -> Self {
        Self { scale: self.scale * factor, ..self }
    }
}

/// A low-rank addition to a projection: `W x + up(down(x))` (Hu et al., "LoRA", 2021, section 4.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// `[rank, inputs]`.
    pub down: Linear,
    /// `[outputs, rank]`.
    pub up: Linear,
}

impl Adapter {
    /// The adapter of `rank` whose halves are `PREFIX.0.weight` and `PREFIX.1.weight`.
    pub fn new(prefix: &str, outputs: usize, rank: usize, inputs: usize) -> Self {
        Self {
            down: Linear::new(&format!("{prefix}.0"), rank, inputs, false),
            up: Linear::new(&format!("{prefix}.1"), outputs, rank, false),
        }
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
    /// Maximum context that the model was trained for, if the config says; recurrent models have
    /// none.
    pub max_positions: Option<usize>,
    /// Token embedding.
    pub embedding: Embedding,
    /// The residual blocks, in order.
    pub blocks: Vec<Block>,
    /// Computes logits from the residual stream.
    pub head: Head,
    /// Tensors that checkpoints of the family may contain but the model does not need (a copy of a
    /// tied head, buffers of old versions). Patterns: `*` matches any run of characters.
    pub ignored: Vec<String>,
}

impl ModelSpec {
    /// The model without its blocks: embedding and head.
    pub fn frame(&self) -> Self {
        Self {
            model_type: String::new(),
            hidden: self.hidden,
            vocab: self.vocab,
            max_positions: None,
            embedding: self.embedding.clone(),
            blocks: Vec::new(),
            head: self.head.clone(),
            ignored: Vec::new(),
        }
    }
}

/// Token embedding: `x = scale * E[token]`, plus a vector of the token's position where there are such.
#[derive(Clone, PartialEq)]
pub struct Embedding {
    /// `E`, `[vocab, hidden]`.
    pub table: Matrix,
    /// Granite's `embedding_multiplier`; 1 elsewhere.
    pub scale: f32,
    /// What is added for the position; rare.
    pub positions: Option<Positions>,
}

impl fmt::Debug for Embedding {
    // Saved sessions identify a model by this text, so it omits what most models don't have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, scale, positions } = self;
        let mut fields = f.debug_struct("Embedding");
        fields.field("table", table).field("scale", scale);
        if let Some(positions) = positions {
            fields.field("positions", positions);
        }
        fields.finish()
    }
}

/// Vectors of positions, added to the embeddings of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Row `t` of a learned table, `[positions, hidden]`, at position `t`; there are no positions after it (Gehring et al.,
    /// "Convolutional Sequence to Sequence Learning", 2017, section 3.1).
    Learned(Matrix),
    /// With `a_i = t / 10000^(2 i / hidden)`: `sin(a_i)` in column `i`, `cos(a_i)` in column `hidden / 2 + i`. `hidden` is even. The
    /// sines of Vaswani et al., "Attention Is All You Need", 2017, section 3.5, in halves.
    Sinusoidal,
}

impl Positions {
    /// The learned table.
    pub fn table(&self) -> Option<&Matrix> {
        match self {
            Self::Learned(table) => Some(table),
            Self::Sinusoidal => None,
        }
    }

    /// Angle per position of each pair of columns, for a stream of `hidden` columns.
    pub fn sinusoid(hidden: usize) -> Vec<f64> {
        let pairs = (0..hidden / 2).map(|i| -2.0 * i as f64 / hidden as f64);
        pairs.map(|exponent| 10000f64.powf(exponent)).collect()
    }
}

/// Logits: `z = scale * (W norm(x) + b)`, then `cap * tanh(z / cap)` if `soft_cap` is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The final norm, over `hidden`.
    pub norm: Norm,
    /// `W`, `[vocab, hidden]`; the embedding's table if the two are tied.
    pub linear: Linear,
    /// `1 / logits_scaling` of Granite; 1 elsewhere.
    pub scale: f32,
    /// xLSTM's `output_logit_soft_cap`.
    pub soft_cap: Option<f32>,
    /// If the config ties head and embedding: the head that a checkpoint may store nevertheless.
    /// See [`ModelSpec::settle_tie`].
    pub untied: Option<Linear>,
}

/// One residual block: `x = stream_norm(residual(x) + residual_scale * post_norm(sum of branch.scale * mixer(norm(x))))`.
#[derive(Clone, PartialEq)]
pub struct Block {
    /// Index of its layer in the checkpoint; several blocks may share one.
    pub layer: usize,
    /// What the norm and the branches read.
    pub input: Input,
    /// The norm before all branches, over the input's width; nearly every block has one. Without it, factors on the branches' inputs
    /// are 1.
    pub norm: Option<Norm>,
    /// One branch, or several in parallel on the same normed input.
    pub branches: Vec<Branch>,
    /// The norm of what the branches add, over `hidden`: alone (OLMo 2, arXiv:2501.00656, section 3.2) or the second half of a sandwich
    /// (Ding et al., "CogView", 2021, section 2.4).
    pub post_norm: Option<Norm>,
    /// What the branches are added to.
    pub residual: Residual,
    /// Granite's `residual_multiplier`, MiniMax's beta; 1 elsewhere.
    pub residual_scale: f32,
    /// The norm of the result, over `hidden`: what the stream becomes where norms come after the sums (Vaswani et al., "Attention Is All
    /// You Need", 2017, section 3.1).
    pub stream_norm: Option<Norm>,
    /// What the result becomes.
    pub target: Target,
}

/// What a block reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// The residual stream.
    #[default]
    Stream,
    /// The residual stream and, beside it, the embeddings that it began with: `2 * hidden` wide (Glorioso et al., "Zamba", 2024,
    /// arXiv:2405.16712, figure 2).
    WithEmbeddings,
    /// What the last block with [`Target::Aside`] left; the stream if there is none.
    Aside,
}

/// What becomes of a block's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// It is the residual stream from here on.
    #[default]
    Stream,
    /// It is left for later blocks with [`Input::Aside`]; the stream stays as it is.
    Aside,
}

/// What the branches of a block are added to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Residual {
    /// The residual stream as it is.
    #[default]
    Stream,
    /// `scale * norm(x)`, by the norm before the branches (MiniMax's alpha), which the block must have.
    Normed {
        /// Factor on the normed stream.
        scale: f32,
    },
    /// Nothing: the result is what the branches compute.
    Nothing,
}

impl Block {
    /// Its norms: before the branches, after them, and of the result.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.norm.iter().chain(&self.post_norm).chain(&self.stream_norm)
    }

    /// The same, mutable.
    pub fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.norm.iter_mut().chain(&mut self.post_norm).chain(&mut self.stream_norm)
    }
}

impl fmt::Debug for Block {
    // Saved sessions identify a model by this text, so it omits what most models don't have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, input, norm, branches, post_norm, residual, .. } = self;
        let Self { residual_scale, stream_norm, target, .. } = self;
        let mut fields = f.debug_struct("Block");
        fields.field("layer", layer);
        if *input != Input::Stream {
            fields.field("input", input);
        }
        if let Some(norm) = norm {
            fields.field("norm", norm);
        }
        fields.field("branches", branches);
        if let Some(norm) = post_norm {
            fields.field("post_norm", norm);
        }
        if *residual != Residual::Stream {
            fields.field("residual", residual);
        }
        fields.field("residual_scale", residual_scale);
        if let Some(norm) = stream_norm {
            fields.field("stream_norm", norm);
        }
        if *target != Target::Stream {
            fields.field("target", target);
        }
        fields.finish()
    }
}

/// One mixer of a block, and the factors on its input and output.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// What it computes.
    pub mixer: Mixer,
    /// Factor on its input (Falcon-H1's `attention_in_multiplier`, `ssm_in_multiplier`); 1 nearly everywhere.
    pub input_scale: f32,
    /// Factor on its output; 1 nearly everywhere.
    pub scale: f32,
}

impl From<Mixer> for Branch {
    fn from(mixer: Mixer) -> Self {
        Self { mixer, input_scale: 1.0, scale: 1.0 }
    }
}

/// Depthwise causal convolution over time. Its layer says what happens to the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// `[channels, 1, kernel]`, or `[channels, kernel, 1]` in MLX's layout; the last tap is the
    /// current token's.
    pub weight: TensorSpec,
    /// `[channels]`.
    pub bias: Option<TensorSpec>,
    /// Number of channels.
    pub channels: usize,
    /// Number of taps.
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
