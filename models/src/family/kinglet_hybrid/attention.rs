//! `attention`, `linear_attention`, `hybrid_attention` and `multi_level_attention`.

use super::part::Layer;
use super::{Defaults, indivisible, required};
use crate::config::{Fields, MAX_POSITIONS};
use crate::frame::{limit, product};
use crate::{
    Attention, HybridAttention, KernelAttention, Linear, Mixer, ModelError, MultiLevelAttention,
    QkNorm, Rope, Tiers,
};

/// Fields of `attention`.
pub(super) const ATTENTION: &[&str] =
    &["num_heads", "num_kv_heads", "head_dim", "rope_theta", "window", "qk_norm", "bias", "causal"];

/// Fields of `linear_attention`.
pub(super) const LINEAR: &[&str] =
    &["num_heads", "num_kv_heads", "head_dim", "rope_theta", "qk_norm", "bias"];

/// Fields of `hybrid_attention`.
pub(super) const HYBRID: &[&str] = &[
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "rope_theta",
    "window",
    "qk_norm",
    "bias",
    "causal",
    "full_until",
    "dilated_until",
    "linear_until",
    "levels",
    "global_first",
    "global_top",
    "context",
    "hierarchy_block",
    "hierarchy_levels",
    "hierarchy_width",
];

/// Fields of `multi_level_attention`.
pub(super) const MULTI_LEVEL: &[&str] = &[
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "rope_theta",
    "qk_norm",
    "bias",
    "causal",
    "levels",
    "windows",
];

/// What all kinds of attention have.
#[derive(Clone, Debug)]
pub(super) struct Heads {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) rope: Option<Rope>,
    /// Epsilon of the norms of queries and keys, if there are such.
    pub(super) norm_eps: Option<f32>,
    pub(super) bias: bool,
}

impl Heads {
    pub(super) fn read(fields: &Fields<'_>, defaults: &Defaults) -> Result<Self, ModelError> {
        let heads = required(fields, "num_heads", limit::HEADS)?;
        let kv_heads = fields.size_or("num_kv_heads", heads, 1, limit::HEADS)?;
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of num_heads = {heads}");
            return Err(indivisible(fields, "num_kv_heads", kv_heads, expected));
        }
        let head_dim = required(fields, "head_dim", limit::HEAD_DIM)?;
        product("num_heads * head_dim", &[heads, head_dim], limit::ROWS)?;
        let theta = fields.positive("rope_theta")?;
        if theta.is_some() && !head_dim.is_multiple_of(2) {
            let expected = "an even number, since halves of heads are rotated";
            return Err(indivisible(fields, "head_dim", head_dim, expected));
        }
        let causal = fields.bool_or("causal", true)?;
        if !causal {
            return Err(
                fields.unsupported("causal", "only encoders have attention that is not causal")
            );
        }
        Ok(Self {
            hidden: defaults.hidden,
            heads,
            kv_heads,
            head_dim,
            rope: theta.map(|theta| Rope::exact(theta, head_dim)),
            norm_eps: fields.bool_or("qk_norm", false)?.then_some(defaults.eps),
            bias: fields.bool_or("bias", false)?,
        })
    }

    /// Heads, key/value heads, and the width of a head.
    fn sizes(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.head_dim]
    }

    /// Softmax attention with the tensors `PREFIX.*`.
    pub(super) fn attention(&self, prefix: &str, window: Option<usize>) -> Attention {
        let Self { hidden, heads, kv_heads, head_dim, bias, .. } = *self;
        let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
        let linear = |name: &str, outputs, inputs| {
            Linear::new(&format!("{prefix}.{name}"), outputs, inputs, bias)
        };
        Attention {
            q: vec![linear("q", wide, hidden)],
            k: linear("k", narrow, hidden),
            v: linear("v", narrow, hidden),
            o: linear("o", hidden, wide),
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5) as f32,
            qk_norm: self.norm_eps.map(|eps| QkNorm::of_heads(prefix, head_dim, eps)),
            clip: None,
            rope: self.rope.clone(),
            gate: Vec::new(),
            window,
            adapters: None,
        }
    }
}

pub(super) fn attention(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let heads = Heads::read(fields, defaults)?;
    let window = match fields.size_or("window", 0, 0, MAX_POSITIONS)? {
        0 => None,
        window => Some(window),
    };
    Ok(Layer::new(move |prefix| Mixer::Attention(heads.attention(prefix, window))))
}

pub(super) fn linear(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let heads = Heads::read(fields, defaults)?;
    Ok(Layer::new(move |prefix| {
        let (sizes, rope) = (heads.sizes(), heads.rope.clone());
        let Heads { hidden, bias, norm_eps, .. } = heads;
        Mixer::KernelAttention(KernelAttention::new(prefix, hidden, sizes, bias, norm_eps, rope))
    }))
}

/// Largest exponent of a block size or of a dilation.
const MOST_LEVELS: usize = 24;

/// The tiers of `hybrid_attention`, and whether keys have scores.
fn tiers(fields: &Fields<'_>) -> Result<(Tiers, bool), ModelError> {
    let bound = |key: &str, default: usize, least: usize| {
        fields.size_or(key, default, least, MAX_POSITIONS)
    };
    let tiers = Tiers {
        window: bound("window", 4096, 1)?,
        full_until: bound("full_until", 4096, 0)?,
        dilated_until: bound("dilated_until", 32768, 0)?,
        linear_until: bound("linear_until", 1_000_000, 0)?,
        levels: fields.size_or("levels", 3, 0, MOST_LEVELS)?,
        global_first: fields.size_or("global_first", 4, 0, limit::WIDTH)?,
        global_top: fields.size_or("global_top", 64, 0, limit::WIDTH)?,
        hierarchy_block: fields.size_or("hierarchy_block", 64, 1, limit::WIDTH)?,
        hierarchy_levels: fields.size_or("hierarchy_levels", 4, 0, MOST_LEVELS)?,
        hierarchy_width: fields.size_or("hierarchy_width", 16, 0, limit::WIDTH)?,
    };
    let context = fields.bool_or("context", true)?;
    let thresholds = [
        ("window", tiers.window),
        ("full_until", tiers.full_until),
        ("dilated_until", tiers.dilated_until),
        ("linear_until", tiers.linear_until),
    ];
    for pair in thresholds.windows(2) {
        if let [(before, least), (key, value)] = *pair
            && value < least
        {
            let expected = format!("at least {before} = {least}");
            return Err(indivisible(fields, key, value, expected));
        }
    }
    // Without scores none is the largest.
    let global_top = if context { tiers.global_top } else { 0 };
    Ok((Tiers { global_top, ..tiers }, context))
}

pub(super) fn hybrid(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let heads = Heads::read(fields, defaults)?;
    let (tiers, context) = tiers(fields)?;
    Ok(Layer::new(move |prefix| {
        let (sizes, rope) = (heads.sizes(), heads.rope.clone());
        let Heads { hidden, bias, norm_eps, .. } = heads;
        let layer =
            HybridAttention::new(prefix, hidden, sizes, bias, norm_eps, rope, context, tiers);
        Mixer::HybridAttention(layer)
    }))
}

/// The windows of the levels of `multi_level_attention`.
fn windows(fields: &Fields<'_>) -> Result<Vec<Option<usize>>, ModelError> {
    let levels = fields.size_or("levels", 3, 1, MOST_LEVELS)?;
    let windows = fields.sizes("windows", 0, MAX_POSITIONS)?.unwrap_or(vec![0; levels]);
    if windows.len() != levels {
        return Err(ModelError::WrongLength {
            field: fields.path("windows"),
            found: windows.len(),
            expected: levels,
            because: "levels",
        });
    }
    Ok(windows.into_iter().map(|window| Some(window).filter(|&window| window > 0)).collect())
}

pub(super) fn multi_level(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let heads = Heads::read(fields, defaults)?;
    let windows = windows(fields)?;
    Ok(Layer::new(move |prefix| {
        let (sizes, rope, windows) = (heads.sizes(), heads.rope.clone(), windows.clone());
        let Heads { hidden, bias, norm_eps, .. } = heads;
        let layer = MultiLevelAttention::new(prefix, hidden, sizes, bias, norm_eps, rope, windows);
        Mixer::MultiLevelAttention(layer)
    }))
}
