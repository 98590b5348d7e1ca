//! LFM3 (Liquid AI, 2026): LFM2 with sliding windows, norms on both sides of each layer, and a gate for each attention head.

use super::Family;
use super::lfm2::{ConvFields, NAMES, dense};
use crate::frame::{Frame, FrameDefaults, FrameNames};
use crate::rope::{RopeDefaults, proportional_rope, rope_of_kind};
use crate::transformer::{HeadDefaults, Heads};
use crate::{Attention, Block, Config, Linear, Mixer, ModelError, ModelSpec, QkNorm, Rope};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "lfm3",
    class: "Lfm3ForCausalLM",
    spec,
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    // The reference's second name for `norm_eps`, which overrules it.
    const EPS: &str = "rms_norm_eps";
    let names = match config.fields().get(EPS) {
        Some(_) => FrameNames { eps: EPS, ..NAMES },
        None => NAMES,
    };
    let frame = Frame::read(
        config,
        names,
        FrameDefaults { hidden: 2048, vocab: 128_000, layers: 24, eps: 1e-5, tied: true },
    )?;
    let fields = &frame.fields;
    let kinds = kinds(&frame)?;
    let has = |kind: Kind| kinds.contains(&kind);
    // Fields of a kind of layer that the model does not have may hold anything.
    let conv = match has(Kind::Conv) {
        true => Some(ConvFields::read(fields, 7)?),
        false => None,
    };
    let attention = match has(Kind::Full) || has(Kind::Sliding) {
        true => Some(AttentionFields::read(&frame, &kinds)?),
        false => None,
    };
    let inner = frame.inner("intermediate_size", 7680)?;
    let sandwich = fields.bool_or("use_sandwich_norm", true)?;
    let block = |layer: usize, [norm, post_norm]: [&str; 2], prefix: &str, mixer: Mixer| Block {
        post_norm: sandwich.then(|| frame.norm(&format!("{prefix}.{post_norm}"))),
        ..frame.block(layer, &format!("{prefix}.{norm}"), mixer)
    };
    let mut blocks = Vec::new();
    for (layer, &kind) in kinds.iter().enumerate() {
        let prefix = format!("model.layers.{layer}");
        let mixer = match kind {
            Kind::Conv => conv.map(|conv| conv.mixer(&frame, &prefix)),
            Kind::Full | Kind::Sliding => {
                attention.as_ref().map(|fields| fields.mixer(&frame, &prefix, kind))
            }
        };
        let norms = ["operator_norm", "post_operator_norm"];
        blocks.extend(mixer.map(|mixer| block(layer, norms, &prefix, mixer)));
        let feed_forward = Mixer::Dense(dense(&frame, &prefix, inner));
        blocks.push(block(layer, ["ffn_norm", "post_ffn_norm"], &prefix, feed_forward));
    }
    frame.model("lfm3", blocks)
}

/// The kind of a layer's first mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Conv,
    /// Attention over all positions.
    Full,
    /// Attention over a window.
    Sliding,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Conv => "conv",
            Self::Full => "full_attention",
            Self::Sliding => "sliding_attention",
        }
    }
}

/// The kinds from `layer_types`; without it, one layer in four has full attention and one a window.
fn kinds(frame: &Frame<'_>) -> Result<Vec<Kind>, ModelError> {
    const ALL: [Kind; 3] = [Kind::Conv, Kind::Full, Kind::Sliding];
    let Some(types) = frame.layer_types(&["layer_types"])? else {
        let kind = |layer: usize| match layer % 4 {
            2 => Kind::Full,
            0 if layer > 0 => Kind::Sliding,
            _ => Kind::Conv,
        };
        return Ok((0..frame.layers).map(kind).collect());
    };
    let kinds = types.iter().enumerate().map(|(layer, &name)| {
        let found = ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| frame.unknown_layer(layer, name, &ALL.map(Kind::name)))
    });
    kinds.collect()
}

/// The fields of the attention layers.
struct AttentionFields {
    heads: Heads,
    bias: bool,
    /// Whether each head's output has a gate.
    gated: bool,
    /// None if no layer has full attention.
    full: Option<Rope>,
    /// The same of layers with a window, and the window.
    sliding: Option<(Rope, usize)>,
}

impl AttentionFields {
    fn read(frame: &Frame<'_>, kinds: &[Kind]) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let defaults = HeadDefaults { heads: 16, kv_heads: Some(4), head_dim: Some(128) };
        let heads = Heads::read(frame, defaults)?;
        // Of each kind its parameters, else this base and the fraction of the pairs that turn.
        let rope = |kind: Kind, theta: f64, turned: f64| {
            let defaults = RopeDefaults { theta: 1e6, partial: None, max_positions: 128_000 };
            match rope_of_kind(fields, kind.name(), heads.head_dim, defaults)? {
                Some(rope) => Ok(rope),
                None => proportional_rope(theta, turned, heads.head_dim),
            }
        };
        let full = match kinds.contains(&Kind::Full) {
            true => Some(rope(Kind::Full, 1e6, 0.5)?),
            false => None,
        };
        let sliding = match kinds.contains(&Kind::Sliding) {
            true => {
                let window = frame.window(Some(256))?.ok_or_else(|| ModelError::Missing {
                    field: fields.path("sliding_window"),
                    expected: "a window, because layer_types has sliding_attention",
                })?;
                Some((rope(Kind::Sliding, 1e4, 1.0)?, window))
            }
            false => None,
        };
        Ok(Self {
            heads,
            bias: fields.bool_or("attention_bias", false)?,
            gated: fields.bool_or("use_attention_gate", true)?,
            full,
            sliding,
        })
    }

    fn mixer(&self, frame: &Frame<'_>, prefix: &str, kind: Kind) -> Mixer {
        let prefix = format!("{prefix}.self_attn");
        let (rope, window) = match (kind, &self.sliding) {
            (Kind::Sliding, Some((rope, window))) => (Some(rope), Some(*window)),
            _ => (self.full.as_ref(), None),
        };
        let bias = (self.bias, self.bias);
        let plain = self.heads.attention(&prefix, frame.hidden, bias, rope.cloned());
        let gate =
            || Linear::new(&format!("{prefix}.gate_proj"), self.heads.heads, frame.hidden, false);
        Mixer::Attention(Attention {
            qk_norm: Some(QkNorm::of_heads(&prefix, self.heads.head_dim, frame.eps)),
            gate: self.gated.then(gate).into_iter().collect(),
            window,
            ..plain
        })
    }
}

#[cfg(test)]
#[path = "lfm3_tests.rs"]
mod tests;
