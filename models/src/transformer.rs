//! Code shared by families with attention: heads, and transformer layers.

use crate::frame::{Frame, FrameDefaults, FrameNames, divide, limit, product};
use crate::rope::{RopeDefaults, rope};
use crate::{Activation, Attention, Block, Config, Linear, Mixer, ModelError, Rope};

/// A family's defaults for absent fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransformerDefaults {
    pub(crate) frame: FrameDefaults,
    pub(crate) heads: HeadDefaults,
    /// `rope_theta`.
    pub(crate) theta: f64,
    pub(crate) max_positions: usize,
}

/// A model in which every layer is attention and a feed-forward network.
#[derive(Clone, Debug)]
pub(crate) struct Transformer<'a> {
    pub(crate) frame: Frame<'a>,
    pub(crate) heads: Heads,
    pub(crate) activation: Activation,
    rope: Rope,
}

impl<'a> Transformer<'a> {
    /// Reads the fields shared by all such families.
    pub(crate) fn read(
        config: &'a Config,
        names: FrameNames,
        defaults: TransformerDefaults,
    ) -> Result<Self, ModelError> {
        let frame = Frame::read(config, names, defaults.frame)?;
        let heads = Heads::read(&frame, defaults.heads)?;
        let TransformerDefaults { theta, max_positions, .. } = defaults;
        let rope_defaults = RopeDefaults { theta, partial: None, max_positions };
        let rope = rope(&frame.fields, heads.head_dim, rope_defaults)?;
        let activation = frame.activation()?;
        Ok(Self { frame, heads, activation, rope })
    }

    /// The same with another rotary encoding.
    pub(crate) fn with_rope(self, rope: Rope) -> Self {
        Self { rope, ..self }
    }

    /// The attention of the layer `PREFIX`. `bias` tells whether q, k and v have biases, and
    /// whether o has one.
    pub(crate) fn attention(&self, prefix: &str, bias: (bool, bool)) -> Attention {
        let prefix = format!("{prefix}.self_attn");
        self.heads.attention(&prefix, self.frame.hidden, bias, Some(self.rope.clone()))
    }

    /// The dense feed-forward network of the layer `PREFIX`.
    pub(crate) fn mlp(&self, prefix: &str, inner: usize, bias: bool) -> Mixer {
        let prefix = format!("{prefix}.mlp");
        Mixer::Dense(self.frame.dense(&prefix, inner, self.activation, bias))
    }

    /// The blocks of the model; `mixers` returns both mixers of a layer and the prefix of its
    /// tensors.
    pub(crate) fn blocks(&self, mixers: impl Fn(usize, &str) -> (Attention, Mixer)) -> Vec<Block> {
        let mut blocks = Vec::new();
        for layer in 0..self.frame.layers {
            let prefix = format!("model.layers.{layer}");
            let (attention, feed_forward) = mixers(layer, &prefix);
            let norm = format!("{prefix}.input_layernorm");
            blocks.push(self.frame.block(layer, &norm, Mixer::Attention(attention)));
            let norm = format!("{prefix}.post_attention_layernorm");
            blocks.push(self.frame.block(layer, &norm, feed_forward));
        }
        blocks
    }

    /// The sliding window of each layer, for families that choose per layer: from `layer_types`, or
    /// else for layers from `max_window_layers` on; none unless `use_sliding_window` is set.
    pub(crate) fn windows_by_layer(&self) -> Result<Vec<Option<usize>>, ModelError> {
        let Self { frame, .. } = self;
        let window = self.switched_window()?;
        let from = frame.fields.size_or("max_window_layers", 28, 0, usize::MAX)?;
        let Some(types) = frame.layer_types(&["layer_types"])? else {
            return Ok((0..frame.layers).map(|layer| window.filter(|_| layer >= from)).collect());
        };
        let windows = types.iter().enumerate().map(|(layer, &name)| match (name, window) {
            ("full_attention", _) => Ok(None),
            ("sliding_attention", Some(_)) => Ok(window),
            ("sliding_attention", None) => Err(ModelError::Missing {
                field: "sliding_window".into(),
                expected: "a window and use_sliding_window, because layer_types has sliding_attention",
            }),
            _ => Err(frame.unknown_layer(layer, name, &["full_attention", "sliding_attention"])),
        });
        windows.collect()
    }

    /// The sliding window, if `use_sliding_window` is set.
    pub(crate) fn switched_window(&self) -> Result<Option<usize>, ModelError> {
        let window = self.frame.window(Some(4096))?;
        let used = self.frame.fields.bool_or("use_sliding_window", false)?;
        Ok(window.filter(|_| used))
    }
}

/// Heads of a family's attention, from the config.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// A family's defaults for absent fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadDefaults {
    pub(crate) heads: usize,
    /// None: the number of query heads. (`null` means that in every family.)
    pub(crate) kv_heads: Option<usize>,
    /// None: `hidden_size / num_attention_heads`.
    pub(crate) head_dim: Option<usize>,
}

impl Heads {
    /// Reads the heads.
    pub(crate) fn read(frame: &Frame<'_>, defaults: HeadDefaults) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let heads = fields.size_or("num_attention_heads", defaults.heads, 1, limit::HEADS)?;
        const KV: &str = "num_key_value_heads";
        let default = defaults.kv_heads.filter(|_| !fields.is_null(KV)).unwrap_or(heads);
        let kv_heads = fields.size_or(KV, default, 1, limit::HEADS)?;
        divide("num_attention_heads", heads, KV, kv_heads)?;
        let head_dim = match fields.size("head_dim", 1, limit::HEAD_DIM)?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None => {
                let head_dim = divide("hidden_size", frame.hidden, "num_attention_heads", heads)?;
                product("hidden_size / num_attention_heads", &[head_dim], limit::HEAD_DIM)?
            }
        };
        product("num_attention_heads * head_dim", &[heads, head_dim], limit::ROWS)?;
        Ok(Self { heads, kv_heads, head_dim })
    }

    /// The attention `PREFIX.{q,k,v,o}_proj` without norms and window, scaled by `1 /
    /// sqrt(head_dim)`. `bias` tells whether q, k and v have biases, and whether o has one.
    pub(crate) fn attention(
        &self,
        prefix: &str,
        hidden: usize,
        (qkv_bias, o_bias): (bool, bool),
        rope: Option<Rope>,
    ) -> Attention {
        let Self { heads, kv_heads, head_dim } = *self;
        let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
        Attention {
            q: vec![Linear::new(&format!("{prefix}.q_proj"), wide, hidden, qkv_bias)],
            k: Linear::new(&format!("{prefix}.k_proj"), narrow, hidden, qkv_bias),
            v: Linear::new(&format!("{prefix}.v_proj"), narrow, hidden, qkv_bias),
            o: Linear::new(&format!("{prefix}.o_proj"), hidden, wide, o_bias),
            gate: Vec::new(),
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5) as f32,
            qk_norm: None,
            clip: None,
            rope,
            window: None,
            adapters: None,
        }
    }
}
