//! Code shared by Zamba and Zamba2: layers of Mamba, some of which first run a transformer block that they share with others.
//!
//! With the residual stream `x` and the embeddings `e`, such a layer is (Glorioso et al., "Zamba", 2024, arXiv:2405.16712, section 2)
//! `y = linear(mlp(norm(attention(norm([x | e])))))`, `x = x + mamba(norm(x + y))`: there is no residual connection within the shared
//! block, and its result reaches the stream only through Mamba.

use crate::frame::{Frame, divide, equal, limit, product};
use crate::transformer::Heads;
use crate::{
    Attention, Block, Dense, Input, Linear, Mixer, ModelError, Norm, Residual, Rope, Target,
};

/// The attention of a shared block: it reads the stream and the embeddings.
pub(crate) struct SharedAttention {
    pub(crate) heads: Heads,
    /// None: no position encoding.
    pub(crate) rope: Option<Rope>,
}

impl SharedAttention {
    /// The heads. `head_dim` is the width of one, unless they split `[x | e]` evenly.
    pub(crate) fn heads(
        frame: &Frame<'_>,
        [heads, kv_heads]: [Option<usize>; 2],
        head_dim: Option<usize>,
    ) -> Result<Heads, ModelError> {
        const HEADS: &str = "num_attention_heads";
        const KV_HEADS: &str = "num_key_value_heads";
        let fields = &frame.fields;
        let heads = fields.size_or(HEADS, heads.unwrap_or(1), 1, limit::HEADS)?;
        let default = kv_heads.filter(|_| !fields.is_null(KV_HEADS)).unwrap_or(heads);
        let kv_heads = fields.size_or(KV_HEADS, default, 1, limit::HEADS)?;
        divide(HEADS, heads, KV_HEADS, kv_heads)?;
        let head_dim = match head_dim {
            Some(head_dim) => head_dim,
            None => divide("2 * hidden_size", 2 * frame.hidden, HEADS, heads)?,
        };
        product("2 * hidden_size / num_attention_heads", &[head_dim], limit::HEAD_DIM)?;
        product("num_attention_heads * head_dim", &[heads, head_dim], limit::ROWS)?;
        Ok(Heads { heads, kv_heads, head_dim })
    }

    /// The attention `PREFIX.self_attn`, without adapters.
    pub(crate) fn layer(&self, frame: &Frame<'_>, prefix: &str) -> Attention {
        let Heads { heads, head_dim, .. } = self.heads;
        let prefix = format!("{prefix}.self_attn");
        let plain =
            self.heads.attention(&prefix, 2 * frame.hidden, (false, false), self.rope.clone());
        Attention {
            o: Linear::new(&format!("{prefix}.o_proj"), frame.hidden, heads * head_dim, false),
            // Half of a head's inputs are the embeddings.
            scale: (head_dim as f64 / 2.0).powf(-0.5) as f32,
            ..plain
        }
    }
}

/// A layer of Mamba, or one that first runs a shared block.
pub(crate) struct MambaLayer<'a> {
    pub(crate) frame: &'a Frame<'a>,
    pub(crate) layer: usize,
}

impl MambaLayer<'_> {
    fn prefix(&self) -> String {
        format!("model.layers.{}", self.layer)
    }

    /// The layer without a shared block; `mixer` is called with the prefix of its tensors.
    pub(crate) fn plain(&self, mixer: impl Fn(&str) -> Mixer) -> Block {
        let prefix = self.prefix();
        let norm = format!("{prefix}.input_layernorm");
        self.frame.block(self.layer, &norm, mixer(&format!("{prefix}.mamba")))
    }

    /// The layer with the shared block whose tensors are `SHARED.*`.
    pub(crate) fn hybrid(
        &self,
        shared: &str,
        attention: Attention,
        feed_forward: Dense,
        mixer: impl Fn(&str) -> Mixer,
    ) -> [Block; 3] {
        let (frame, layer, prefix) = (self.frame, self.layer, self.prefix());
        let norm = format!("{shared}.input_layernorm");
        let first = Block {
            input: Input::WithEmbeddings,
            norm: Some(Norm::new(&norm, 2 * frame.hidden, frame.eps)),
            residual: Residual::Nothing,
            target: Target::Aside,
            ..frame.block(layer, &norm, Mixer::Attention(attention))
        };
        let linear = Linear::new(&format!("{prefix}.linear"), frame.hidden, frame.hidden, false);
        let dense = Dense { out: Some(Box::new(linear)), ..feed_forward };
        let norm = format!("{shared}.pre_ff_layernorm");
        let second = Block {
            input: Input::Aside,
            target: Target::Aside,
            ..frame.block(layer, &norm, Mixer::Dense(dense))
        };
        let decoder = format!("{prefix}.mamba_decoder");
        let norm = format!("{decoder}.input_layernorm");
        let third = Block {
            input: Input::Aside,
            ..frame.block(layer, &norm, mixer(&format!("{decoder}.mamba")))
        };
        [first, second, third]
    }
}

/// Whether each layer has a shared block; `default` where the config has no list.
pub(crate) fn hybrid_layers(
    frame: &Frame<'_>,
    default: impl Fn() -> Vec<bool>,
) -> Result<Vec<bool>, ModelError> {
    let Some(types) = frame.layer_types(&["layers_block_type", "layer_types"])? else {
        let layers = default();
        equal(
            "num_hidden_layers",
            frame.layers,
            "the layers of a config without layers_block_type",
            layers.len(),
        )?;
        return Ok(layers);
    };
    let kinds = types.iter().enumerate().map(|(layer, name)| match *name {
        "hybrid" => Ok(true),
        "linear_attention" => Ok(false),
        _ => Err(frame.unknown_layer(layer, name, &["linear_attention (mamba)", "hybrid"])),
    });
    kinds.collect()
}

/// Patterns of the copies of shared blocks that some checkpoints store for each use; the first is used. `first` is that of each layer
/// with a shared block, `module` its name in the layer.
pub(crate) fn copies<'a>(
    uses: impl Iterator<Item = (usize, usize)> + 'a,
    module: &'a str,
) -> impl Iterator<Item = String> + 'a {
    let again = uses.filter(|(layer, first)| layer != first);
    again.map(move |(layer, _)| format!("*layers.{layer}.{module}.*"))
}
