//! Zamba2 (Glorioso et al., "The Zamba2 Suite", 2024, arXiv:2411.15242): layers of Mamba-2, some of which first run one of a few
//! transformer blocks that they share with others, each use with its own low-rank adapters.
//!
//! Step sizes are at least `time_step_min`, as in the reference's forward pass over a whole sequence. Its single-token path with a cache
//! lacks that bound, so that its cached decoding differs wherever the bound is met.

use super::Family;
use super::mamba2::{Mamba2Shape, dt_limit_from, inner};
use crate::frame::{Frame, FrameDefaults, FrameNames, MODEL, divide, equal, limit, product};
use crate::rope::{RopeDefaults, rope};
use crate::shared::{MambaLayer, SharedAttention, copies, hybrid_layers};
use crate::{
    Activation, Adapter, Attention, Config, Dense, Linear, ModelError, ModelSpec, QkvAdapters,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "zamba2",
    class: "Zamba2ForCausalLM",
    spec,
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: None,
};

/// Maximum context with `use_long_context`.
const LONG_CONTEXT: usize = 16384;

/// Epsilon of Mamba-2's gated norm, which no field sets.
const GATED_NORM_EPS: f32 = 1e-5;

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(
        config,
        FrameNames { norm: "model.final_layernorm", ..MODEL },
        FrameDefaults { hidden: 2560, vocab: 32000, layers: 54, eps: 1e-5, tied: true },
    )?;
    frame.refuse_window()?;
    let fields = &frame.fields;
    let is_long = fields.bool_or("use_long_context", false)?;
    if is_long && fields.bool_or("use_mem_rope", false)? {
        // Versions of the reference differ in what it does to the rotation.
        let supported = "supported: false, unless use_mem_rope is false";
        return Err(fields.unsupported("use_long_context", supported));
    }
    let is_hybrid = hybrid_layers(&frame, default_layers)?;
    let bias = fields.bool_or("add_bias_linear", false)?;
    let mamba = mamba(&frame, bias)?;
    let blocks_shared = fields.size_or("num_mem_blocks", 1, 1, limit::LAYERS)?;
    let shared = match is_hybrid.contains(&true) {
        true => Some(Shared::read(&frame, bias)?),
        false => None,
    };
    let hybrids: Vec<usize> = (0..frame.layers).filter(|&layer| is_hybrid[layer]).collect();
    // The layer whose names a use of a shared block has. The reference shares nothing if head and embedding are not tied.
    let first = |index: usize| hybrids[if frame.is_tied() { index % blocks_shared } else { index }];

    let mut blocks = Vec::new();
    for layer in 0..frame.layers {
        let at = MambaLayer { frame: &frame, layer };
        match (&shared, hybrids.binary_search(&layer)) {
            (Some(shared), Ok(index)) => {
                let prefix = format!("model.layers.{}.shared_transformer", first(index));
                let attention = shared.attention(&frame, &prefix, index);
                let feed_forward = shared.feed_forward(&frame, &prefix, index);
                blocks.extend(
                    at.hybrid(&prefix, attention, feed_forward, |prefix| mamba.mixer(prefix)),
                );
            }
            _ => blocks.push(at.plain(|prefix| mamba.mixer(prefix))),
        }
    }
    let mut spec = frame.model("zamba2", blocks)?;
    if is_long {
        spec.max_positions = Some(LONG_CONTEXT);
    }
    let uses = hybrids.iter().enumerate().map(|(index, &layer)| (layer, first(index)));
    spec.ignored.extend(copies(uses, "shared_transformer"));
    if !frame.is_tied() {
        // Each block has adapters for all uses of the block that it would share.
        spec.ignored.push("*.shared_transformer.*_adapter_list.*".into());
    }
    Ok(spec)
}

/// The layers of a config that lists none.
fn default_layers() -> Vec<bool> {
    let runs = std::iter::once(6).chain([5; 6]).chain([4, 3]);
    let mut layers: Vec<bool> =
        runs.flat_map(|plain| (0..=plain).map(move |layer| layer == plain)).collect();
    layers.extend([false; 2]);
    layers
}

/// The sizes of Mamba-2.
fn mamba(frame: &Frame<'_>, bias: bool) -> Result<Mamba2Shape, ModelError> {
    const HEADS: &str = "n_mamba_heads";
    let fields = &frame.fields;
    let inner = inner(fields, "mamba_expand", frame.hidden)?;
    let heads = fields.size_or(HEADS, 8, 1, limit::HEADS)?;
    let low = fields.float_where("time_step_min", "a finite number, at least 0", |x| {
        (0.0..f64::from(f32::MAX)).contains(&x)
    })?;
    let shape = Mamba2Shape {
        hidden: frame.hidden,
        inner,
        heads,
        head_dim: divide("mamba_expand * hidden_size", inner, HEADS, heads)?,
        groups: fields.size_or("mamba_ngroups", 1, 1, limit::HEADS)?,
        state: fields.size_or("mamba_d_state", 64, 1, limit::STATE)?,
        kernel: fields.size_or("mamba_d_conv", 4, 1, limit::KERNEL)?,
        in_bias: bias,
        out_bias: bias,
        // Whatever `use_conv_bias` says: the reference reads it and has the bias all the same.
        conv_bias: true,
        dt_limit: dt_limit_from(low.unwrap_or(0.001)),
        eps: GATED_NORM_EPS,
    };
    shape.check()?;
    Ok(shape)
}

/// What the uses of shared blocks have in common.
struct Shared {
    attention: SharedAttention,
    /// Rank of the adapters.
    rank: usize,
    /// Whether attention has adapters; the feed-forward network always has.
    adapts_attention: bool,
    inner: usize,
    activation: Activation,
    bias: bool,
}

impl Shared {
    fn read(frame: &Frame<'_>, bias: bool) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let heads = SharedAttention::heads(frame, [Some(32), None], None)?;
        let rope = match fields.bool_or("use_mem_rope", false)? {
            true => {
                let defaults = RopeDefaults { theta: 10000.0, partial: None, max_positions: 4096 };
                Some(rope(fields, heads.head_dim, defaults)?)
            }
            false => None,
        };
        let adapts_attention = fields.bool_or("use_shared_attention_adapter", false)?;
        if adapts_attention {
            // Adapters of keys and values are as wide as those of queries.
            let (kv, all) = (heads.kv_heads, heads.heads);
            equal("num_key_value_heads", kv, "num_attention_heads (with adapters)", all)?;
        }
        let inner = fields.size_or("intermediate_size", 4 * frame.hidden, 1, limit::WIDTH)?;
        product("2 * intermediate_size", &[2, inner], limit::ROWS)?;
        Ok(Self {
            attention: SharedAttention { heads, rope },
            rank: fields.size_or("adapter_rank", 128, 1, limit::WIDTH)?,
            adapts_attention,
            inner,
            activation: frame.activation_of("hidden_act", "gelu")?,
            bias,
        })
    }

    /// The attention of the `index`th layer with a shared block.
    fn attention(&self, frame: &Frame<'_>, prefix: &str, index: usize) -> Attention {
        let both = 2 * frame.hidden;
        let adapter = |name: &str| {
            let prefix = format!("{prefix}.self_attn.linear_{name}_adapter_list.{index}");
            Adapter::new(&prefix, both, self.rank, both)
        };
        let adapters = self
            .adapts_attention
            .then(|| Box::new(QkvAdapters { q: adapter("q"), k: adapter("k"), v: adapter("v") }));
        Attention { adapters, ..self.attention.layer(frame, prefix) }
    }

    /// The feed-forward network of the `index`th layer with a shared block.
    fn feed_forward(&self, frame: &Frame<'_>, prefix: &str, index: usize) -> Dense {
        let (hidden, inner) = (frame.hidden, self.inner);
        let prefix = format!("{prefix}.feed_forward");
        let both = Linear::new(&format!("{prefix}.gate_up_proj"), 2 * inner, hidden, self.bias);
        let list = format!("{prefix}.gate_up_proj_adapter_list.{index}");
        Dense {
            gate: Some(both.rows(0, inner)),
            up: both.rows(inner, inner),
            down: Linear::new(&format!("{prefix}.down_proj"), hidden, inner, self.bias),
            activation: self.activation,
            adapter: Some(Box::new(Adapter::new(&list, 2 * inner, self.rank, hidden))),
            out: None,
        }
    }
}

#[cfg(test)]
#[path = "zamba2_tests.rs"]
mod tests;
