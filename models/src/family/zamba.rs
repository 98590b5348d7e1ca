//! Zamba (Glorioso et al., "Zamba: A Compact 7B SSM Hybrid Model", 2024, arXiv:2405.16712): layers of Mamba, some of which first run one
//! transformer block that they all share.

use super::Family;
use super::mamba::dt_rank;
use crate::frame::{Frame, FrameDefaults, FrameNames, MODEL, divide, equal, limit, product};
use crate::shared::{MambaLayer, SharedAttention, copies, hybrid_layers};
use crate::{
    Activation, Config, Conv, Linear, Mamba, Matrix, Mixer, ModelError, ModelSpec, TensorSpec,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "zamba",
    class: "ZambaForCausalLM",
    spec,
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(
        config,
        FrameNames { norm: "model.final_layernorm", ..MODEL },
        FrameDefaults { hidden: 3712, vocab: 32000, layers: 76, eps: 1e-5, tied: true },
    )?;
    frame.refuse_window()?;
    let fields = &frame.fields;
    let period = fields.size_or("attn_layer_period", 6, 1, usize::MAX)?;
    let offset = fields.size_or("attn_layer_offset", 4, 0, usize::MAX)?;
    let is_hybrid = hybrid_layers(&frame, || {
        let later = (0..frame.layers.saturating_sub(3)).map(|layer| layer % period == offset);
        [false, false, true].into_iter().chain(later).collect()
    })?;
    let mamba = Heads::read(&frame)?;
    let hybrids: Vec<usize> = (0..frame.layers).filter(|&layer| is_hybrid[layer]).collect();
    let shared = match hybrids.first() {
        Some(&first) => Some((attention(&frame)?, first)),
        None => None,
    };
    // The layer whose names a use of the shared block has. The reference shares nothing if head and embedding are not tied.
    let named = |layer: usize, first: usize| if frame.is_tied() { first } else { layer };
    let inner = frame.inner("intermediate_size", 14848)?;
    let activation = frame.activation_of("hidden_act", "gelu")?;

    let mut blocks = Vec::new();
    for layer in 0..frame.layers {
        let at = MambaLayer { frame: &frame, layer };
        let mixer = |prefix: &str| Mixer::Mamba(mamba.layer(prefix, frame.hidden));
        match &shared {
            Some((shared, first)) if is_hybrid[layer] => {
                let prefix = format!("model.layers.{}.shared_transf", named(layer, *first));
                let network =
                    frame.dense(&format!("{prefix}.feed_forward"), inner, activation, false);
                blocks.extend(at.hybrid(&prefix, shared.layer(&frame, &prefix), network, mixer));
            }
            _ => blocks.push(at.plain(mixer)),
        }
    }
    let mut spec = frame.model("zamba", blocks)?;
    let uses = hybrids.iter().map(|&layer| (layer, named(layer, hybrids[0])));
    spec.ignored.extend(copies(uses, "shared_transf"));
    Ok(spec)
}

/// The attention of the shared block.
fn attention(frame: &Frame<'_>) -> Result<SharedAttention, ModelError> {
    let fields = &frame.fields;
    let both = 2 * frame.hidden;
    let width = fields.size_or("attention_hidden_size", both, 1, 2 * limit::WIDTH)?;
    equal("attention_hidden_size", width, "2 * hidden_size", both)?;
    let head_dim = fields.size("attention_head_dim", 1, limit::HEAD_DIM)?;
    let heads = SharedAttention::heads(frame, [Some(16), Some(16)], head_dim)?;
    Ok(SharedAttention { heads, rope: None })
}

/// The sizes of Mamba, whose channels are split into heads.
struct Heads {
    heads: usize,
    /// Channels of a head.
    width: usize,
    dt_rank: usize,
    state: usize,
    kernel: usize,
    bias: bool,
    conv_bias: bool,
}

impl Heads {
    fn read(frame: &Frame<'_>) -> Result<Self, ModelError> {
        const HEADS: &str = "n_mamba_heads";
        let fields = &frame.fields;
        if frame.activation_of("hidden_mamba_act", "silu")? != Activation::Silu {
            return Err(fields.unsupported("hidden_mamba_act", "supported: silu"));
        }
        let expand = fields.size_or("mamba_expand", 2, 1, limit::WIDTH)?;
        let inner = product("mamba_expand * hidden_size", &[expand, frame.hidden], limit::WIDTH)?;
        let heads = fields.size_or(HEADS, 2, 1, limit::HEADS)?;
        product("layers * n_mamba_heads", &[frame.layers, heads], limit::ALL_HEADS)?;
        Ok(Self {
            heads,
            width: divide("mamba_expand * hidden_size", inner, HEADS, heads)?,
            dt_rank: dt_rank(fields, "mamba_dt_rank", frame.hidden)?,
            state: fields.size_or("mamba_d_state", 16, 1, limit::STATE)?,
            kernel: fields.size_or("mamba_d_conv", 4, 1, limit::KERNEL)?,
            bias: fields.bool_or("mamba_proj_bias", false)?,
            conv_bias: fields.bool_or("mamba_conv_bias", true)?,
        })
    }

    /// The layer with the tensors `PREFIX.*`. The tensors of all heads are stacked, and named as parameters of the layer.
    fn layer(&self, prefix: &str, hidden: usize) -> Mamba {
        let Self { heads, width, dt_rank, state, .. } = *self;
        let inner = heads * width;
        let name = |name: &str| format!("{prefix}.{name}");
        let x_proj = |head| {
            Matrix::stacked(name("x_proj_weight"), heads, dt_rank + 2 * state, width, head).into()
        };
        let dt_proj = |head| Linear {
            bias: Some(TensorSpec::new(name("dt_proj_bias"), [heads, width])),
            ..Matrix::stacked(name("dt_proj_weight"), heads, width, dt_rank, head).into()
        };
        Mamba {
            in_proj: Linear::new(&name("in_proj"), 2 * inner, hidden, self.bias),
            alternating: true,
            conv: Conv::new(&name("conv1d"), inner, self.kernel, self.conv_bias),
            x_proj: (0..heads).map(x_proj).collect(),
            dt_proj: (0..heads).map(dt_proj).collect(),
            a_log: TensorSpec::new(name("A_log"), [heads, width, state]),
            d: TensorSpec::new(name("D"), [heads, width]),
            out_proj: Linear::new(&name("out_proj"), hidden, inner, self.bias),
            inner,
            state,
            dt_rank,
            bcdt_norm: None,
        }
    }
}

#[cfg(test)]
#[path = "zamba_tests.rs"]
mod tests;
