//! Code shared by all families: the model around the blocks, and bounds on sizes.
//!
//! The bounds are far above every real model, and low enough to keep specs small and to keep sums
//! and products of sizes below 2^32.

use crate::config::{Config, Fields, MAX_POSITIONS};
use crate::{
    Activation, Block, Dense, Embedding, Head, Input, Linear, Matrix, Mixer, ModelError, ModelSpec,
    Norm, Residual, Target,
};

/// Bounds on the sizes in a config.
pub(crate) mod limit {
    /// Width of the residual stream, and inner width of feed-forward networks.
    pub(crate) const WIDTH: usize = 1 << 20;
    /// Rows of a projection.
    pub(crate) const ROWS: usize = 1 << 24;
    /// Rows of the embedding.
    pub(crate) const VOCAB: usize = 1 << 24;
    /// Layers.
    pub(crate) const LAYERS: usize = 1 << 12;
    /// Parts of a layer that is a list of them.
    pub(crate) const PARTS: usize = 64;
    /// Experts of a layer.
    pub(crate) const EXPERTS: usize = 1 << 12;
    /// Experts of all layers: each is a few hundred bytes of spec.
    pub(crate) const ALL_EXPERTS: usize = 1 << 16;
    /// Heads.
    pub(crate) const HEADS: usize = 1 << 14;
    /// Heads of all layers, where the rows of each are addressed by themselves.
    pub(crate) const ALL_HEADS: usize = 1 << 16;
    /// Width of an attention head: the spec of a layer holds half as many rotary frequencies.
    pub(crate) const HEAD_DIM: usize = 1 << 12;
    /// State of a recurrent layer per channel or head element.
    pub(crate) const STATE: usize = 1 << 14;
    /// Taps of a convolution.
    pub(crate) const KERNEL: usize = 1 << 8;
    /// Rows of a stack of experts, which a spec addresses by offsets.
    pub(crate) const STACKED_ROWS: usize = i32::MAX as usize;
}

/// The product of sizes; an error if it exceeds `max`.
pub(crate) fn product(
    quantity: &'static str,
    factors: &[usize],
    max: usize,
) -> Result<usize, ModelError> {
    let product = factors.iter().try_fold(1usize, |n, &f| n.checked_mul(f));
    product.filter(|&n| n <= max).ok_or_else(|| {
        let factors: Vec<_> = factors.iter().map(ToString::to_string).collect();
        ModelError::TooLarge { quantity, value: factors.join(" * "), limit: max }
    })
}

/// `value / divisor`; an error if it is not exact.
pub(crate) fn divide(
    field: &'static str,
    value: usize,
    by: &'static str,
    divisor: usize,
) -> Result<usize, ModelError> {
    match value.checked_rem(divisor) {
        Some(0) => Ok(value / divisor),
        _ => Err(ModelError::NotDivisible { field, value, by, divisor }),
    }
}

/// Fails unless both quantities are equal.
pub(crate) fn equal(
    left: &'static str,
    left_value: usize,
    right: &'static str,
    right_value: usize,
) -> Result<(), ModelError> {
    if left_value == right_value {
        return Ok(());
    }
    Err(ModelError::Mismatch {
        left,
        left_value: left_value.to_string(),
        right,
        right_value: right_value.to_string(),
    })
}

/// A family's defaults for absent fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameDefaults {
    pub(crate) hidden: usize,
    pub(crate) vocab: usize,
    pub(crate) layers: usize,
    pub(crate) eps: f64,
    pub(crate) tied: bool,
}

/// The names of the tensors around the blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameNames {
    pub(crate) embedding: &'static str,
    pub(crate) norm: &'static str,
    /// Field with the norms' epsilon.
    pub(crate) eps: &'static str,
    /// Whether the family has attention: then it has a maximum context, and old checkpoints store
    /// rotary buffers.
    pub(crate) attention: bool,
}

/// Names in most transformers.
pub(crate) const MODEL: FrameNames = FrameNames {
    embedding: "model.embed_tokens",
    norm: "model.norm",
    eps: "rms_norm_eps",
    attention: true,
};

/// Names in the recurrent models after `state-spaces/mamba`.
pub(crate) const BACKBONE: FrameNames = FrameNames {
    embedding: "backbone.embeddings",
    norm: "backbone.norm_f",
    eps: "layer_norm_epsilon",
    attention: false,
};

/// The model around the blocks: sizes, embedding, final norm, head.
#[derive(Clone, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) fields: Fields<'a>,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    /// Epsilon of the norms.
    pub(crate) eps: f32,
    vocab: usize,
    tied: bool,
    names: FrameNames,
}

impl<'a> Frame<'a> {
    /// Reads the sizes; refuses what no family here computes.
    pub(crate) fn read(
        config: &'a Config,
        names: FrameNames,
        defaults: FrameDefaults,
    ) -> Result<Self, ModelError> {
        let fields = config.fields();
        fields.refuse("per_layer_config", "all layers of a kind must have the same shape")?;
        if !fields.bool_or("is_causal", true)? {
            return Err(fields.unsupported("is_causal", "supported: causal models only"));
        }
        Ok(Self {
            hidden: fields.size_or("hidden_size", defaults.hidden, 1, limit::WIDTH)?,
            layers: fields.size_or("num_hidden_layers", defaults.layers, 1, limit::LAYERS)?,
            vocab: fields.size_or("vocab_size", defaults.vocab, 1, limit::VOCAB)?,
            eps: fields.epsilon(names.eps, defaults.eps)?,
            tied: fields.bool_or("tie_word_embeddings", defaults.tied)?,
            names,
            fields,
        })
    }

    /// Ignores `tie_word_embeddings`.
    pub(crate) fn untie(&mut self) {
        self.set_tied(false);
    }

    /// Ties the head to the embedding or not, whatever `tie_word_embeddings` says.
    pub(crate) fn set_tied(&mut self, tied: bool) {
        self.tied = tied;
    }

    /// Whether head and embedding are one matrix.
    pub(crate) fn is_tied(&self) -> bool {
        self.tied
    }

    /// A norm over the residual stream.
    pub(crate) fn norm(&self, prefix: &str) -> Norm {
        Norm::new(prefix, self.hidden, self.eps)
    }

    /// The block of one mixer after the norm `norm`.
    pub(crate) fn block(&self, layer: usize, norm: &str, mixer: Mixer) -> Block {
        Block {
            layer,
            input: Input::Stream,
            norm: Some(self.norm(norm)),
            branches: vec![mixer.into()],
            post_norm: None,
            residual: Residual::Stream,
            residual_scale: 1.0,
            stream_norm: None,
            target: Target::Stream,
        }
    }

    /// The block of one mixer before the norm `norm`, which is that of what it adds.
    pub(crate) fn block_before(&self, layer: usize, norm: &str, mixer: Mixer) -> Block {
        let block = self.block(layer, norm, mixer);
        Block { norm: None, post_norm: block.norm, ..block }
    }

    /// The model with these blocks, without Granite's factors.
    pub(crate) fn model(
        &self,
        model_type: &str,
        blocks: Vec<Block>,
    ) -> Result<ModelSpec, ModelError> {
        let embedding = format!("{}.weight", self.names.embedding);
        let table = Matrix::whole(embedding, self.vocab, self.hidden);
        let (mut ignored, mut max_positions) = (Vec::new(), None);
        if self.names.attention {
            max_positions = self.fields.size("max_position_embeddings", 1, MAX_POSITIONS)?;
            // Buffers saved by old versions.
            ignored.push("*rotary_emb.inv_freq".into());
        }
        let own = Linear::new("lm_head", self.vocab, self.hidden, false);
        let (linear, untied) = if self.tied {
            ignored.push("lm_head.weight".into());
            (Linear::from(table.clone()), Some(own))
        } else {
            (own, None)
        };
        Ok(ModelSpec {
            model_type: model_type.into(),
            hidden: self.hidden,
            vocab: self.vocab,
            max_positions,
            embedding: Embedding { table, scale: 1.0, positions: None },
            blocks,
            head: Head {
                norm: self.norm(self.names.norm),
                linear,
                scale: 1.0,
                soft_cap: None,
                untied,
            },
            ignored,
        })
    }

    /// The activation of feed-forward networks.
    pub(crate) fn activation(&self) -> Result<Activation, ModelError> {
        self.activation_of("hidden_act", "silu")
    }

    /// The activation in the field `key`; `default` where that is absent.
    pub(crate) fn activation_of(
        &self,
        key: &str,
        default: &'static str,
    ) -> Result<Activation, ModelError> {
        match self.fields.str(key)?.unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh"
            | "gelu_python_tanh" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            "relu2" => Ok(Activation::Relu2),
            _ => Err(self.fields.unsupported(
                key,
                "supported: silu, swish, gelu, gelu_python, gelu_new, gelu_fast, gelu_accurate, \
                 gelu_pytorch_tanh, gelu_python_tanh, relu, relu2",
            )),
        }
    }

    /// Fails unless the activation is SiLU, which the convolutions of recurrent layers use.
    pub(crate) fn require_silu(&self) -> Result<(), ModelError> {
        match self.activation() {
            Ok(Activation::Silu) => Ok(()),
            _ => Err(self.fields.unsupported("hidden_act", "layers with a convolution need silu")),
        }
    }

    /// The inner width of feed-forward networks, from the field `key`.
    pub(crate) fn inner(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        self.fields.size_or(key, default, 1, limit::WIDTH)
    }

    /// The feed-forward network `PREFIX.{gate,up,down}_proj`.
    pub(crate) fn dense(&self, prefix: &str, inner: usize, act: Activation, bias: bool) -> Dense {
        Dense {
            gate: Some(Linear::new(&format!("{prefix}.gate_proj"), inner, self.hidden, bias)),
            up: Linear::new(&format!("{prefix}.up_proj"), inner, self.hidden, bias),
            down: Linear::new(&format!("{prefix}.down_proj"), self.hidden, inner, bias),
            adapter: None,
            out: None,
            activation: act,
        }
    }

    /// Refuses a sliding window in a family whose reference has none.
    pub(crate) fn refuse_window(&self) -> Result<(), ModelError> {
        if self.fields.bool_or("use_sliding_window", true)? {
            self.fields.refuse("sliding_window", "this family has no sliding window")?;
        }
        Ok(())
    }

    /// The sliding window, if the config has one; `default` if the field is absent, but not if it
    /// is `null`.
    pub(crate) fn window(&self, default: Option<usize>) -> Result<Option<usize>, ModelError> {
        const KEY: &str = "sliding_window";
        let found = self.fields.size(KEY, 1, MAX_POSITIONS)?;
        Ok(if self.fields.is_null(KEY) { None } else { found.or(default) })
    }

    /// The kind of each layer, from the first of `keys` that the config has. Older names are
    /// replaced by newer ones.
    pub(crate) fn layer_types(&self, keys: &[&str]) -> Result<Option<Vec<&'a str>>, ModelError> {
        let Some(key) = keys.iter().find(|key| self.fields.get(key).is_some()) else {
            return Ok(None);
        };
        let Some(mut types) = self.fields.strings(key)? else { return Ok(None) };
        if types.len() != self.layers {
            return Err(ModelError::WrongLength {
                field: self.fields.path(key),
                found: types.len(),
                expected: self.layers,
                because: "num_hidden_layers",
            });
        }
        for name in &mut types {
            *name = match *name {
                "mamba" => "linear_attention",
                "attention" => "full_attention",
                other => other,
            };
        }
        Ok(Some(types))
    }

    /// The error for a kind of layer that the family lacks.
    pub(crate) fn unknown_layer(&self, layer: usize, found: &str, known: &[&str]) -> ModelError {
        ModelError::Unsupported {
            field: format!("layer_types[{layer}]"),
            value: format!("{:?}", crate::config::shorten(found)),
            supported: format!("supported: {}", known.join(", ")),
        }
    }
}
