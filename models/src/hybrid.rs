//! Code shared by Qwen3-Next and Qwen 3.5: layers of Gated DeltaNet with gated attention in between, and norms around one.

use crate::delta::DeltaShape;
use crate::frame::{Frame, FrameDefaults, MODEL, limit, product};
use crate::rope::{RopeDefaults, rope};
use crate::transformer::{HeadDefaults, Heads};
use crate::{
    Activation, Attention, Block, Config, DeltaInputs, FoldError, Linear, Mixer, ModelError,
    ModelSpec, Norm, PredictionHead, QkNorm, Rope,
};

/// A model of this kind, from the config.
pub(crate) struct QwenHybrid<'a> {
    pub(crate) frame: Frame<'a>,
    pub(crate) activation: Activation,
    is_attention: Vec<bool>,
    heads: HeadDefaults,
    attention: Option<GatedAttention>,
    delta: Option<DeltaShape>,
}

/// What all layers of attention share.
struct GatedAttention {
    heads: Heads,
    rope: Rope,
    bias: bool,
}

/// Sizes of Gated DeltaNet that a config may leave out.
const DELTA: DeltaShape =
    DeltaShape { key_heads: 16, value_heads: 32, key_dim: 128, value_dim: 128, kernel: 4 };

impl<'a> QwenHybrid<'a> {
    /// Reads the fields that these families share.
    pub(crate) fn read(
        config: &'a Config,
        frame: FrameDefaults,
        heads: HeadDefaults,
    ) -> Result<Self, ModelError> {
        let frame = Frame::read(config, MODEL, frame)?;
        frame.refuse_window()?;
        let is_attention = layers(&frame)?;
        // Fields of a kind of layer that the model does not have may hold anything.
        let attention = match is_attention.iter().filter(|&&is_attention| is_attention).count() {
            0 => None,
            layers => Some(GatedAttention::read(&frame, layers, heads)?),
        };
        let delta = match is_attention.iter().filter(|&&is_attention| !is_attention).count() {
            0 => None,
            layers => {
                let delta = DELTA.read(&frame)?;
                delta.check_layers(layers)?;
                Some(delta)
            }
        };
        let activation = frame.activation()?;
        Ok(Self { frame, activation, is_attention, heads, attention, delta })
    }

    /// The model with these projections of Gated DeltaNet, from the prefix of its tensors, and these feed-forward networks, from the
    /// layer and its prefix.
    pub(crate) fn model(
        &self,
        model_type: &str,
        inputs: impl Fn(&DeltaShape, &str, usize) -> DeltaInputs,
        feed_forward: impl Fn(usize, &str) -> Mixer,
    ) -> Result<ModelSpec, ModelError> {
        let frame = &self.frame;
        let mut blocks = Vec::new();
        for (layer, &is_attention) in self.is_attention.iter().enumerate() {
            let prefix = format!("model.layers.{layer}");
            let mixer = match (&self.attention, &self.delta) {
                (Some(attention), _) if is_attention => {
                    Some(Mixer::Attention(attention.layer(frame, &prefix)))
                }
                (_, delta) => delta.as_ref().map(|delta| {
                    let prefix = format!("{prefix}.linear_attn");
                    let inputs = inputs(delta, &prefix, frame.hidden);
                    Mixer::GatedDelta(delta.layer(frame, &prefix, inputs))
                }),
            };
            blocks.extend(mixer.map(|mixer| {
                around_one(frame.block(layer, &format!("{prefix}.input_layernorm"), mixer))
            }));
            let norm = format!("{prefix}.post_attention_layernorm");
            blocks.push(around_one(frame.block(layer, &norm, feed_forward(layer, &prefix))));
        }
        let mut spec = frame.model(model_type, blocks)?;
        spec.head.norm = spec.head.norm.around_one();
        // A model without its head that predicts further tokens is whole.
        spec.ignored.push(PredictionHead::TENSORS.into());
        Ok(spec)
    }

    /// The head that predicts the token after the next one (`mtp.*`), with this feed-forward network, from the prefix of its layer:
    /// attention as in the model's layers of attention.
    ///
    /// # Errors
    /// If the config describes a head of another kind.
    pub(crate) fn prediction_head(
        &self,
        model_type: &str,
        feed_forward: impl Fn(&str) -> Mixer,
    ) -> Result<PredictionHead, ModelError> {
        let frame = &self.frame;
        let fields = &frame.fields;
        if fields.size_or("mtp_num_hidden_layers", 1, 1, limit::LAYERS)? != 1 {
            let supported = "supported: 1 layer that predicts a further token";
            return Err(fields.unsupported("mtp_num_hidden_layers", supported));
        }
        if fields.bool_or("mtp_use_dedicated_embeddings", false)? {
            let supported = "supported: false, the model's own embedding";
            return Err(fields.unsupported("mtp_use_dedicated_embeddings", supported));
        }
        let prefix = "mtp.layers.0";
        let attention = match &self.attention {
            Some(attention) => attention.layer(frame, prefix),
            None => GatedAttention::read(frame, 1, self.heads)?.layer(frame, prefix),
        };
        let blocks = [
            ("input_layernorm", Mixer::Attention(attention)),
            ("post_attention_layernorm", feed_forward(prefix)),
        ];
        let blocks = blocks
            .map(|(norm, mixer)| around_one(frame.block(0, &format!("{prefix}.{norm}"), mixer)));
        let norm = |name: &str| frame.norm(&format!("mtp.{name}")).around_one();
        let mut model = frame.model(model_type, blocks.into())?;
        model.head.norm = norm("norm");
        Ok(PredictionHead {
            embedding_norm: norm("pre_fc_norm_embedding"),
            hidden_norm: norm("pre_fc_norm_hidden"),
            join: Linear::new("mtp.fc", frame.hidden, 2 * frame.hidden, false),
            model,
        })
    }

    /// The feed-forward network of a layer without experts.
    pub(crate) fn mlp(&self, prefix: &str, inner: usize) -> Mixer {
        Mixer::Dense(self.frame.dense(&format!("{prefix}.mlp"), inner, self.activation, false))
    }
}

/// Takes the 1 of `1 + w` out of the norms that mlx-lm stores with it (`sanitize` in its qwen3_next.py): all but those of Gated DeltaNet.
#[expect(clippy::unnecessary_wraps, reason = "other families can fail")]
pub(crate) fn unfold(spec: &mut ModelSpec) -> Result<(), FoldError> {
    spec.head.norm.offset = 0.0;
    for block in &mut spec.blocks {
        block.norm.iter_mut().for_each(|norm| norm.offset = 0.0);
        for branch in &mut block.branches {
            if let Mixer::Attention(attention) = &mut branch.mixer
                && let Some(norms) = &mut attention.qk_norm
            {
                norms.q.offset = 0.0;
                norms.k.offset = 0.0;
            }
        }
    }
    Ok(())
}

/// A block whose norm's weights are stored as their distance from 1.
fn around_one(block: Block) -> Block {
    Block { norm: block.norm.map(Norm::around_one), ..block }
}

/// Whether each layer is attention: by `layer_types`, or every `full_attention_interval`th.
fn layers(frame: &Frame<'_>) -> Result<Vec<bool>, ModelError> {
    if let Some(types) = frame.layer_types(&["layer_types"])? {
        let kinds = types.iter().enumerate().map(|(layer, name)| match *name {
            "full_attention" => Ok(true),
            "linear_attention" => Ok(false),
            _ => Err(frame.unknown_layer(layer, name, &["linear_attention", "full_attention"])),
        });
        return kinds.collect();
    }
    let interval = frame.fields.size_or("full_attention_interval", 4, 1, usize::MAX)?;
    Ok((1..=frame.layers).map(|number| number.is_multiple_of(interval)).collect())
}

impl GatedAttention {
    fn read(frame: &Frame<'_>, layers: usize, defaults: HeadDefaults) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let heads = Heads::read(frame, defaults)?;
        let of_all = [layers, heads.heads];
        product("layers of attention * num_attention_heads", &of_all, limit::ALL_HEADS)?;
        // The field among the rotary parameters overrides this one.
        let partial =
            fields.float_where("partial_rotary_factor", "a number above 0, at most 1", |x| {
                x > 0.0 && x <= 1.0
            })?;
        let defaults = RopeDefaults {
            theta: 10000.0,
            partial: Some(partial.unwrap_or(0.25)),
            max_positions: 32768,
        };
        let rope = rope(fields, heads.head_dim, defaults)?;
        let bias = fields.bool_or("attention_bias", false)?;
        if !fields.bool_or("attn_output_gate", true)? {
            let supported = "supported: attention with an output gate";
            return Err(fields.unsupported("attn_output_gate", supported));
        }
        Ok(Self { heads, rope, bias })
    }

    /// The attention of the layer `PREFIX`. The rows of a head in `q_proj` are those of its query, then those of its gate.
    fn layer(&self, frame: &Frame<'_>, prefix: &str) -> Attention {
        let Self { heads, rope, bias } = self;
        let Heads { heads: count, head_dim, .. } = *heads;
        let prefix = format!("{prefix}.self_attn");
        let plain = heads.attention(&prefix, frame.hidden, (*bias, *bias), Some(rope.clone()));
        let both =
            Linear::new(&format!("{prefix}.q_proj"), 2 * count * head_dim, frame.hidden, *bias);
        let half = |half: usize| {
            (0..count).map(|head| both.rows((2 * head + half) * head_dim, head_dim)).collect()
        };
        let norm =
            |name: &str| Norm::new(&format!("{prefix}.{name}"), head_dim, frame.eps).around_one();
        Attention {
            q: half(0),
            gate: half(1),
            qk_norm: Some(QkNorm { q: norm("q_norm"), k: norm("k_norm"), per_head: true }),
            ..plain
        }
    }
}
