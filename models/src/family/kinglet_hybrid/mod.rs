//! Kinglet's own models (`kinglet_hybrid`): layers that the config names and lists. A layer is a list of parts, each a residual block
//! with a norm of its own. The reference is `tests/reference/blocks/`.
//!
//! Nothing is read leniently: a field that is not known here is an error.

mod attention;
mod feed_forward;
mod part;
mod recurrent;

use super::Family;
use crate::config::{Fields, MAX_POSITIONS};
use crate::frame::limit;
use crate::{
    Block, Config, Embedding, Head, Input, Linear, Matrix, ModelError, ModelSpec, Norm, Positions,
    Residual, Target,
};
use part::Part;

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "kinglet_hybrid",
    class: "KingletHybridForCausalLM",
    spec,
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The fields of the model.
const FIELDS: &[&str] = &[
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "norm",
    "norm_eps",
    "norm_position",
    "positions",
    "max_position_embeddings",
    "embedding_scale",
    "residual_scale",
    "logit_soft_cap",
    "tie_word_embeddings",
    "kinds",
    "pattern",
];

/// Fields that say nothing of the computation, or that others read.
const BESIDE: &[&str] = &[
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "quantization",
    "quantization_config",
];

/// What the parts of a model take over from it.
pub(super) struct Defaults {
    pub(super) hidden: usize,
    pub(super) norm: NormKind,
    pub(super) eps: f32,
    pub(super) residual_scale: f32,
}

/// The norms of residual blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormKind {
    Rms,
    Layer,
}

impl NormKind {
    /// The field `norm`; `default` where it is absent.
    fn read(fields: &Fields<'_>, default: Self) -> Result<Self, ModelError> {
        match fields.str("norm")? {
            None => Ok(default),
            Some("rms") => Ok(Self::Rms),
            Some("layer") => Ok(Self::Layer),
            Some(_) => Err(fields.unsupported("norm", "supported: rms, layer")),
        }
    }

    fn norm(self, prefix: &str, width: usize, eps: f32) -> Norm {
        match self {
            Self::Rms => Norm::new(prefix, width, eps),
            Self::Layer => Norm::layer(prefix, width, eps),
        }
    }
}

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let fields = config.fields();
    let is_token = |key: &str| key.ends_with("_token_id");
    known(&fields, |key| FIELDS.contains(&key) || BESIDE.contains(&key) || is_token(key))?;
    let vocab = required(&fields, "vocab_size", limit::VOCAB)?;
    let hidden = required(&fields, "hidden_size", limit::WIDTH)?;
    let layers = required(&fields, "num_hidden_layers", limit::LAYERS)?;
    let defaults = Defaults {
        hidden,
        norm: NormKind::read(&fields, NormKind::Rms)?,
        eps: fields.epsilon("norm_eps", 1e-5)?,
        residual_scale: fields.finite("residual_scale")?.unwrap_or(1.0) as f32,
    };
    let is_post = match fields.str("norm_position")?.unwrap_or("pre") {
        "pre" => false,
        "post" => true,
        _ => return Err(fields.unsupported("norm_position", "supported: pre, post")),
    };
    let (positions, max_positions) = positions(&fields, hidden)?;
    let scale = fields.finite("embedding_scale")?.unwrap_or(1.0) as f32;
    let soft_cap = fields.positive("logit_soft_cap")?.map(|cap| cap as f32);

    let kinds = kinds(&fields, &defaults)?;
    let pattern = pattern(&fields, &kinds)?;
    check_sizes(&fields, &kinds, &pattern, layers)?;
    let mut blocks = Vec::new();
    for (layer, &kind) in pattern.iter().cycle().take(layers).enumerate() {
        let parts = kinds.get(kind).map_or(&[][..], |kind| &kind.parts);
        for (place, part) in parts.iter().enumerate() {
            blocks.push(block(
                part,
                layer,
                &format!("model.layers.{layer}.{place}"),
                hidden,
                is_post,
            ));
        }
    }

    let table = Matrix::whole("model.embed_tokens.weight", vocab, hidden);
    let own = Linear::new("lm_head", vocab, hidden, false);
    let (linear, untied) = match fields.bool_or("tie_word_embeddings", true)? {
        true => (Linear::from(table.clone()), Some(own)),
        false => (own, None),
    };
    Ok(ModelSpec {
        model_type: FAMILY.model_type.into(),
        hidden,
        vocab,
        max_positions,
        embedding: Embedding { table, scale, positions },
        blocks,
        head: Head {
            norm: defaults.norm.norm("model.norm", hidden, defaults.eps),
            linear,
            scale: 1.0,
            soft_cap,
            untied,
        },
        ignored: Vec::new(),
    })
}

/// The residual block of a part whose tensors are `PREFIX.*`.
fn block(part: &Part, layer: usize, prefix: &str, hidden: usize, is_post: bool) -> Block {
    let norm = part.norm.norm(&format!("{prefix}.norm"), hidden, part.eps);
    let (norm, stream_norm) = if is_post { (None, Some(norm)) } else { (Some(norm), None) };
    Block {
        layer,
        input: Input::Stream,
        norm,
        branches: vec![(part.build)(prefix).into()],
        post_norm: None,
        residual: Residual::Stream,
        residual_scale: part.residual_scale,
        stream_norm,
        target: Target::Stream,
    }
}

/// What is added to the embeddings, and the maximum context.
fn positions(
    fields: &Fields<'_>,
    hidden: usize,
) -> Result<(Option<Positions>, Option<usize>), ModelError> {
    const MOST: &str = "max_position_embeddings";
    let most = fields.size_or(MOST, 0, 0, MAX_POSITIONS)?;
    let positions = match fields.str("positions")?.unwrap_or("none") {
        "none" => None,
        "learned" if most == 0 => {
            return Err(ModelError::Missing {
                field: fields.path(MOST),
                expected: "the number of learned positions, above 0",
            });
        }
        "learned" => {
            // Bounded like other tables.
            let rows = required(fields, MOST, limit::VOCAB)?;
            let name = "model.embed_positions.weight";
            Some(Positions::Learned(Matrix::whole(name, rows, hidden)))
        }
        "sinusoidal" if !hidden.is_multiple_of(2) => {
            return Err(indivisible(fields, "hidden_size", hidden, "an even number"));
        }
        "sinusoidal" => Some(Positions::Sinusoidal),
        _ => return Err(fields.unsupported("positions", "supported: none, learned, sinusoidal")),
    };
    Ok((positions, (most > 0).then_some(most)))
}

/// A kind of layer: its name and its parts.
struct Kind<'a> {
    name: &'a str,
    parts: Vec<Part>,
}

/// The kinds of layers.
fn kinds<'a>(fields: &Fields<'a>, defaults: &Defaults) -> Result<Vec<Kind<'a>>, ModelError> {
    let Some(kinds) = fields.object("kinds")? else {
        return Err(missing(fields, "kinds", "an object that names kinds of layers"));
    };
    let mut all = Vec::new();
    for (name, _) in kinds.entries() {
        let parts = kinds.objects(name)?.unwrap_or_default();
        if parts.is_empty() || parts.len() > limit::PARTS {
            return Err(ModelError::OutOfRange {
                field: kinds.path(name),
                value: format!("{} parts", parts.len()),
                expected: format!("a list of 1 to {} parts", limit::PARTS),
            });
        }
        let parts =
            parts.iter().map(|part| Part::read(part, defaults)).collect::<Result<_, _>>()?;
        all.push(Kind { name, parts });
    }
    Ok(all)
}

/// The kinds of the layers that are repeated, as indices.
fn pattern(fields: &Fields<'_>, kinds: &[Kind<'_>]) -> Result<Vec<usize>, ModelError> {
    const KEY: &str = "pattern";
    let Some(names) = fields.strings(KEY)? else {
        return Err(missing(fields, KEY, "a list of names of kinds"));
    };
    if names.is_empty() || names.len() > limit::LAYERS {
        return Err(ModelError::OutOfRange {
            field: fields.path(KEY),
            value: format!("{} names", names.len()),
            expected: format!("1 to {} names of kinds", limit::LAYERS),
        });
    }
    let index = |(place, name): (usize, &&str)| {
        let found = kinds.iter().position(|kind| kind.name == *name);
        found.ok_or_else(|| ModelError::Unsupported {
            field: format!("{}[{place}]", fields.path(KEY)),
            value: format!("{:?}", crate::config::shorten(name)),
            supported: "every name must be one of `kinds`".into(),
        })
    };
    names.iter().enumerate().map(index).collect()
}

/// Bounds the parts and experts of a model, since its spec holds each of them.
fn check_sizes(
    fields: &Fields<'_>,
    kinds: &[Kind<'_>],
    pattern: &[usize],
    layers: usize,
) -> Result<(), ModelError> {
    let (mut blocks, mut weight) = (0usize, 0usize);
    for &kind in pattern.iter().cycle().take(layers) {
        let parts = kinds.get(kind).map_or(&[][..], |kind| &kind.parts);
        blocks += parts.len();
        weight += parts.iter().map(|part| part.matrices).sum::<usize>();
    }
    if blocks <= 2 * limit::LAYERS && weight <= limit::ALL_EXPERTS {
        return Ok(());
    }
    Err(ModelError::OutOfRange {
        field: fields.path("num_hidden_layers"),
        value: format!("{layers}, with {blocks} parts and {weight} experts in all"),
        expected: format!(
            "at most {} parts and {} experts in all",
            2 * limit::LAYERS,
            limit::ALL_EXPERTS
        ),
    })
}

/// Fails if an object has a field that is not known.
pub(super) fn known(
    fields: &Fields<'_>,
    is_known: impl Fn(&str) -> bool,
) -> Result<(), ModelError> {
    match fields.entries().find(|(key, _)| !is_known(key)) {
        Some((key, _)) => Err(fields.unsupported(key, "no such field is known here")),
        None => Ok(()),
    }
}

/// An integer from 1 to `max` that has no default.
pub(super) fn required(fields: &Fields<'_>, key: &str, max: usize) -> Result<usize, ModelError> {
    let found = fields.size(key, 1, max)?;
    found.ok_or_else(|| missing(fields, key, "an integer above 0"))
}

pub(super) fn missing(fields: &Fields<'_>, key: &str, expected: &'static str) -> ModelError {
    ModelError::Missing { field: fields.path(key), expected }
}

/// The error for a size that does not divide what it must.
pub(super) fn indivisible(
    fields: &Fields<'_>,
    key: &str,
    value: usize,
    expected: impl Into<String>,
) -> ModelError {
    ModelError::OutOfRange {
        field: fields.path(key),
        value: value.to_string(),
        expected: expected.into(),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
