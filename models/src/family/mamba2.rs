//! Mamba-2 (Dao and Gu, "Transformers are SSMs", 2024), and its mixer for hybrid models.

use serde_json::Value;

use super::Family;
use super::mlx::{NamedField, Root, present};
use crate::config::Fields;
use crate::frame::{BACKBONE, Frame, FrameDefaults, divide, equal, limit, product};
use crate::{
    Config, Conv, Linear, Mamba2, Mamba2Gate, Mixer, ModelError, ModelSpec, Norm, TensorSpec,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "mamba2",
    class: "Mamba2ForCausalLM",
    spec,
    in_mlx: true,
    older_fields,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(
        config,
        BACKBONE,
        FrameDefaults { hidden: 4096, vocab: 32768, layers: 64, eps: 1e-5, tied: false },
    )?;
    frame.require_silu()?;
    let fields = &frame.fields;
    let inner = inner(fields, "expand", frame.hidden)?;
    let mixer = Mamba2Shape {
        hidden: frame.hidden,
        inner,
        heads: fields.size_or("num_heads", 128, 1, limit::HEADS)?,
        head_dim: fields.size_or("head_dim", 64, 1, limit::ROWS)?,
        groups: fields.size_or("n_groups", 8, 1, limit::HEADS)?,
        state: fields.size_or("state_size", 128, 1, limit::STATE)?,
        kernel: fields.size_or("conv_kernel", 4, 1, limit::KERNEL)?,
        in_bias: fields.bool_or("use_bias", false)?,
        out_bias: fields.bool_or("use_bias", false)?,
        conv_bias: fields.bool_or("use_conv_bias", true)?,
        dt_limit: dt_limit(fields)?,
        eps: frame.eps,
    };
    mixer.check()?;
    let blocks = (0..frame.layers).map(|layer| {
        let prefix = format!("backbone.layers.{layer}");
        let mixer = mixer.mixer(&format!("{prefix}.mixer"));
        frame.block(layer, &format!("{prefix}.norm"), mixer)
    });
    frame.model("mamba2", blocks.collect())
}

/// Sizes and switches of a Mamba-2 mixer, independent of the family's field names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mamba2Shape {
    pub(crate) hidden: usize,
    /// `expand * hidden`.
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) groups: usize,
    pub(crate) state: usize,
    pub(crate) kernel: usize,
    /// Whether the projections have biases.
    pub(crate) in_bias: bool,
    pub(crate) out_bias: bool,
    pub(crate) conv_bias: bool,
    pub(crate) dt_limit: (f32, f32),
    /// Epsilon of the gated norm.
    pub(crate) eps: f32,
}

impl Mamba2Shape {
    /// Reads the `mamba_*` fields of hybrid models.
    pub(crate) fn hybrid(frame: &Frame<'_>) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let inner = inner(fields, "mamba_expand", frame.hidden)?;
        let heads = fields.size_or("mamba_n_heads", 128, 1, limit::HEADS)?;
        const HEAD_DIM: &str = "mamba_d_head";
        let auto = fields.get(HEAD_DIM).is_none_or(|value| value.as_str() == Some("auto"));
        let shape = Self {
            hidden: frame.hidden,
            inner,
            heads,
            head_dim: if auto {
                divide("mamba_expand * hidden_size", inner, "mamba_n_heads", heads)?
            } else {
                fields.size_or(HEAD_DIM, 1, 1, limit::ROWS)?
            },
            groups: fields.size_or("mamba_n_groups", 1, 1, limit::HEADS)?,
            state: fields.size_or("mamba_d_state", 256, 1, limit::STATE)?,
            kernel: fields.size_or("mamba_d_conv", 4, 1, limit::KERNEL)?,
            in_bias: fields.bool_or("mamba_proj_bias", false)?,
            out_bias: fields.bool_or("mamba_proj_bias", false)?,
            conv_bias: fields.bool_or("mamba_conv_bias", true)?,
            dt_limit: dt_limit(fields)?,
            eps: frame.eps,
        };
        shape.check()?;
        frame.require_silu()?;
        Ok(shape)
    }

    /// Fails unless the sizes are consistent.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let Self { inner, heads, head_dim, groups, state, .. } = *self;
        let wide = product("heads * head_dim of Mamba-2", &[heads, head_dim], limit::ROWS)?;
        equal("heads * head_dim of Mamba-2", wide, "expand * hidden_size", inner)?;
        divide("the number of Mamba-2 heads", heads, "the number of groups", groups)?;
        product("groups * state of Mamba-2", &[groups, state], limit::ROWS)?;
        Ok(())
    }

    /// The mixer with the tensors `PREFIX.*`. Call [`check`](Self::check) first.
    pub(crate) fn mixer(&self, prefix: &str) -> Mixer {
        Mixer::Mamba2(self.layer(prefix))
    }

    /// The same as a layer, to be changed.
    pub(crate) fn layer(&self, prefix: &str) -> Mamba2 {
        let Self { hidden, inner, heads, head_dim, groups, state, .. } = *self;
        let channels = inner + 2 * groups * state;
        let per_head = |name: &str| TensorSpec::new(format!("{prefix}.{name}"), [heads]);
        let in_proj = format!("{prefix}.in_proj");
        Mamba2 {
            in_proj: Linear::new(&in_proj, inner + channels + heads, hidden, self.in_bias),
            in_scales: None,
            conv: Conv::new(&format!("{prefix}.conv1d"), channels, self.kernel, self.conv_bias),
            a_log: per_head("A_log"),
            d: per_head("D"),
            dt_bias: per_head("dt_bias"),
            dt_limit: self.dt_limit,
            heads,
            head_dim,
            groups,
            state,
            // The norm is always after the gate and per group, whatever old configs say in
            // `norm_before_gate` and `rms_norm`: the reference reads neither.
            gate: Mamba2Gate::NormAfter {
                norm: Norm::new(&format!("{prefix}.norm"), inner, self.eps),
                groups,
            },
            out_proj: Linear::new(&format!("{prefix}.out_proj"), hidden, inner, self.out_bias),
        }
    }
}

/// The number of channels: `hidden` times the factor in the field `key`, by default 2.
pub(crate) fn inner(fields: &Fields<'_>, key: &str, hidden: usize) -> Result<usize, ModelError> {
    let expand = fields.positive(key)?.unwrap_or(2.0);
    let inner = expand * hidden as f64;
    if !(1.0..=limit::ROWS as f64).contains(&inner) {
        return Err(ModelError::OutOfRange {
            field: fields.path(key),
            value: expand.to_string(),
            expected: format!(
                "a factor that gives 1 to {} channels with hidden_size = {hidden}",
                limit::ROWS
            ),
        });
    }
    Ok(inner as usize)
}

/// A step size that is at least `low`.
pub(crate) fn dt_limit_from(low: f64) -> (f32, f32) {
    (low as f32, f32::INFINITY)
}

/// The limits on the step size.
pub(crate) fn dt_limit(fields: &Fields<'_>) -> Result<(f32, f32), ModelError> {
    const KEY: &str = "time_step_limit";
    let (low, high) = fields.pair(KEY)?.unwrap_or((0.0, f64::INFINITY));
    if low.is_nan() || high.is_nan() || low > high || !(low as f32).is_finite() {
        return Err(ModelError::OutOfRange {
            field: fields.path(KEY),
            value: format!("[{low}, {high}]"),
            expected: "a finite number and an upper limit that is not below it".into(),
        });
    }
    Ok((low as f32, high as f32))
}

/// mlx-lm requires the inner width, which always equals that of all heads.
fn older_fields(root: &Root) -> Vec<NamedField> {
    let size = |key| present(root, key).and_then(Value::as_u64);
    let inner = size("num_heads").zip(size("head_dim"));
    let inner = inner.and_then(|(heads, dim)| heads.checked_mul(dim));
    let inner = inner.filter(|_| present(root, "intermediate_size").is_none());
    inner.map(|inner| ("intermediate_size", inner.into())).into_iter().collect()
}

#[cfg(test)]
#[path = "mamba2_tests.rs"]
mod tests;
