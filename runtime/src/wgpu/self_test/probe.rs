//! A small model with one block like one of a real model: the same kernels, fewer heads, experts and channels.

use kinglet_models::{
    Attention, Block, Branch, Dense, Embedding, Head, Linear, MLstm, Mamba, Mamba2, Mamba2Gate,
    Mixer, ModelSpec, Moe, QkNorm,
};

use super::tensors::Tensors;
use crate::Error;
use crate::weights::Weights;

/// Most elements of a residual stream, and of what a feed-forward block has within. Rows of all quantized formats can have it.
const WIDTH: usize = 256;
/// The same within an expert.
const EXPERT_WIDTH: usize = 128;
/// Most heads, and groups of them.
const HEADS: usize = 2;
/// Most experts, if a token doesn't take more.
const EXPERTS: usize = 8;
/// Positions that a window of attention shows at most, so that it moves.
const WINDOW: usize = 40;
/// Tokens that the small model knows.
pub(super) const VOCAB: usize = 192;

/// A small model.
pub(super) struct Probe {
    pub spec: ModelSpec,
    pub weights: Weights,
    /// What makes it another one.
    pub key: String,
    /// Whether a token may go to another expert where it is rounded.
    pub routes: bool,
    /// What it has, for people.
    pub name: &'static str,
}

impl Probe {
    /// The small model that has a block like `block` of `real`.
    ///
    /// # Errors
    /// When a tensor can't be read, or can't be had in small.
    pub(super) fn new(real: &ModelSpec, weights: &Weights, block: &Block) -> Result<Self, Error> {
        let mut tensors = Tensors::new(weights);
        let t = &mut tensors;
        let hidden = real.hidden.min(WIDTH);
        let table = t.matrix(&real.embedding.table, VOCAB, hidden)?;
        let linear = if real.head.linear.weight == real.embedding.table {
            Linear::from(table.clone())
        } else {
            t.linear(&real.head.linear, VOCAB, hidden)?
        };
        let mut branches = Vec::new();
        for branch in &block.branches {
            let mixer = mixer(t, &branch.mixer, hidden)?;
            branches.push(Branch { mixer, scale: 1.0 });
        }
        let routes = branches.iter().any(|branch| matches!(branch.mixer, Mixer::Moe(_)));
        let name = block.branches.first().map_or("nothing", |branch| name(&branch.mixer));
        let spec = ModelSpec {
            model_type: "probe".into(),
            hidden,
            vocab: VOCAB,
            max_positions: None,
            // The table has the size of a matrix that keeps sizes.
            embedding: Embedding { table, scale: (hidden as f32).sqrt() },
            blocks: vec![Block {
                layer: 0,
                norm: t.norm(&block.norm, hidden),
                branches,
                residual_scale: 1.0,
            }],
            head: Head {
                norm: t.norm(&real.head.norm, hidden),
                linear,
                scale: 1.0,
                soft_cap: real.head.soft_cap,
                untied: None,
            },
            ignored: Vec::new(),
        };
        let key = format!("{spec:?} {:?}", tensors.encodings);
        Ok(Self { spec, weights: tensors.weights()?, key, routes, name })
    }
}

fn name(mixer: &Mixer) -> &'static str {
    match mixer {
        Mixer::Attention(_) => "attention",
        Mixer::Mamba(_) => "Mamba",
        Mixer::Mamba2(_) => "Mamba-2",
        Mixer::MLstm(_) => "mLSTM",
        Mixer::Dense(_) => "feed-forward",
        Mixer::Moe(_) => "mixture of experts",
    }
}

fn mixer(t: &mut Tensors<'_>, mixer: &Mixer, hidden: usize) -> Result<Mixer, Error> {
    Ok(match mixer {
        Mixer::Attention(real) => Mixer::Attention(attention(t, real, hidden)?),
        Mixer::Mamba(real) => Mixer::Mamba(mamba(t, real, hidden)?),
        Mixer::Mamba2(real) => Mixer::Mamba2(mamba2(t, real, hidden)?),
        Mixer::MLstm(real) => Mixer::MLstm(mlstm(t, real, hidden)?),
        Mixer::Dense(real) => Mixer::Dense(dense(t, real, hidden, WIDTH)?),
        Mixer::Moe(real) => Mixer::Moe(moe(t, real, hidden)?),
    })
}

fn attention(t: &mut Tensors<'_>, real: &Attention, hidden: usize) -> Result<Attention, Error> {
    let share = (real.heads / real.kv_heads.max(1)).max(1);
    let kv_heads = real.kv_heads.min(HEADS);
    let (heads, head_dim) = (kv_heads * share, real.head_dim);
    let qk_norm = real.qk_norm.as_ref().map(|norm| {
        let width = |heads: usize| if norm.per_head { head_dim } else { heads * head_dim };
        QkNorm {
            q: t.norm(&norm.q, width(heads)),
            k: t.norm(&norm.k, width(kv_heads)),
            per_head: norm.per_head,
        }
    });
    Ok(Attention {
        q: t.linear(&real.q, heads * head_dim, hidden)?,
        k: t.linear(&real.k, kv_heads * head_dim, hidden)?,
        v: t.linear(&real.v, kv_heads * head_dim, hidden)?,
        o: t.linear(&real.o, hidden, heads * head_dim)?,
        heads,
        kv_heads,
        head_dim,
        scale: real.scale,
        qk_norm,
        clip: real.clip,
        rope: real.rope.clone(),
        window: real.window.map(|window| window.min(WINDOW)),
    })
}

fn mamba(t: &mut Tensors<'_>, real: &Mamba, hidden: usize) -> Result<Mamba, Error> {
    let inner = real.inner.min(WIDTH);
    let dt_rank = real.dt_rank.min(WIDTH);
    Ok(Mamba {
        in_proj: t.linear(&real.in_proj, 2 * inner, hidden)?,
        conv: t.conv(&real.conv, inner),
        x_proj: t.linear(&real.x_proj, dt_rank + 2 * real.state, inner)?,
        dt_proj: t.linear(&real.dt_proj, inner, dt_rank)?,
        a_log: t.vector(&[inner, real.state], 0.5),
        d: t.vector(&[inner], 0.5),
        out_proj: t.linear(&real.out_proj, hidden, inner)?,
        inner,
        state: real.state,
        dt_rank,
        bcdt_norm_eps: real.bcdt_norm_eps,
    })
}

fn mamba2(t: &mut Tensors<'_>, real: &Mamba2, hidden: usize) -> Result<Mamba2, Error> {
    let groups = real.groups.min(HEADS);
    let share = (real.heads / real.groups.max(1)).max(1);
    // Enough heads for a row of the output projection to be whole groups of any quantized format.
    let least = (WIDTH / 2).div_ceil((groups * real.head_dim).max(1)).max(HEADS);
    let heads = groups * share.min(least);
    let (inner, state) = (heads * real.head_dim, real.state);
    let channels = inner + 2 * groups * state;
    let gate = match &real.gate {
        Mamba2Gate::Silu => Mamba2Gate::Silu,
        Mamba2Gate::NormAfter { norm, groups: parts } => Mamba2Gate::NormAfter {
            norm: t.norm(norm, inner),
            groups: if *parts == 1 { 1 } else { groups },
        },
    };
    Ok(Mamba2 {
        in_proj: t.linear(&real.in_proj, inner + channels + heads, hidden)?,
        conv: t.conv(&real.conv, channels),
        a_log: t.vector(&[heads], 0.5),
        d: t.vector(&[heads], 0.5),
        dt_bias: t.vector(&[heads], -1.0),
        dt_limit: real.dt_limit,
        heads,
        head_dim: real.head_dim,
        groups,
        state,
        gate,
        out_proj: t.linear(&real.out_proj, hidden, inner)?,
    })
}

fn mlstm(t: &mut Tensors<'_>, real: &MLstm, hidden: usize) -> Result<MLstm, Error> {
    let heads = real.heads.min(HEADS);
    let (keys, values) = (heads * real.qk_head_dim, heads * real.v_head_dim);
    Ok(MLstm {
        q: t.linear(&real.q, keys, hidden)?,
        k: t.linear(&real.k, keys, hidden)?,
        v: t.linear(&real.v, values, hidden)?,
        ogate: t.linear(&real.ogate, values, hidden)?,
        igate: t.linear(&real.igate, heads, hidden)?,
        fgate: t.linear(&real.fgate, heads, hidden)?,
        out_proj: t.linear(&real.out_proj, hidden, values)?,
        heads,
        qk_head_dim: real.qk_head_dim,
        v_head_dim: real.v_head_dim,
        gate_soft_cap: real.gate_soft_cap,
        eps: real.eps,
        head_norm: t.norm(&real.head_norm, values),
    })
}

fn dense(t: &mut Tensors<'_>, real: &Dense, hidden: usize, most: usize) -> Result<Dense, Error> {
    let inner = real.gate.weight.rows.min(most);
    Ok(Dense {
        gate: t.linear(&real.gate, inner, hidden)?,
        up: t.linear(&real.up, inner, hidden)?,
        down: t.linear(&real.down, hidden, inner)?,
        activation: real.activation,
    })
}

fn moe(t: &mut Tensors<'_>, real: &Moe, hidden: usize) -> Result<Moe, Error> {
    let count = real.experts.len().min(EXPERTS.max(real.top_k));
    let router = t.linear(&real.router, count, hidden)?;
    let experts = real.experts.iter().take(count);
    let experts = experts.map(|expert| dense(t, expert, hidden, EXPERT_WIDTH));
    let experts = experts.collect::<Result<_, Error>>()?;
    let shared = match &real.shared {
        Some(shared) => Some(dense(t, shared, hidden, EXPERT_WIDTH)?),
        None => None,
    };
    Ok(Moe { router, renormalize: real.renormalize, top_k: real.top_k, experts, shared })
}
