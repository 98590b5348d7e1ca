//! xLSTM of the form of xLSTM 7B (Beck et al., "xLSTM 7B: A Recurrent LLM for Fast and Efficient
//! Inference", 2025): each layer is an mLSTM block and a feed-forward block.

use super::Family;
use crate::config::Fields;
use crate::frame::{BACKBONE, Frame, FrameDefaults, FrameNames, divide, equal, limit};
use crate::{
    Activation, Config, Dense, ForgetGate, Linear, MLstm, Mixer, ModelError, ModelSpec, Norm,
    TensorSpec,
};

const NAMES: FrameNames = FrameNames { norm: "backbone.out_norm", eps: "norm_eps", ..BACKBONE };

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "xlstm",
    class: "xLSTMForCausalLM",
    spec,
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    // Two fields have second names; if both are given they must agree.
    let fields = config.fields();
    let hidden = fields.size_or("embedding_dim", 4096, 1, limit::WIDTH)?;
    let layers = fields.size_or("num_blocks", 32, 1, limit::LAYERS)?;
    let defaults = FrameDefaults { hidden, vocab: 50304, layers, eps: 1e-6, tied: false };
    let mut frame = Frame::read(config, NAMES, defaults)?;
    // In the reference this family never ties, whatever the field says.
    frame.untie();
    if fields.get("embedding_dim").is_some() {
        equal("hidden_size", frame.hidden, "embedding_dim", hidden)?;
    }
    if fields.get("num_blocks").is_some() {
        equal("num_hidden_layers", frame.layers, "num_blocks", layers)?;
    }
    // Early checkpoints have fields for parts that the reference does not compute either.
    if fields.bool_or("add_qk_norm", false)? {
        return Err(fields.unsupported("add_qk_norm", "supported: queries and keys without a norm"));
    }
    if fields.str("norm_type")?.is_some_and(|name| name != "rmsnorm") {
        return Err(fields.unsupported("norm_type", "supported: rmsnorm"));
    }

    let shape = Shape::read(&frame)?;
    let mut blocks = Vec::new();
    for layer in 0..frame.layers {
        let prefix = format!("backbone.blocks.{layer}");
        for (norm, mixer) in [
            ("norm_mlstm", shape.mlstm(&format!("{prefix}.mlstm_layer"), frame.eps)),
            ("norm_ffn", shape.feed_forward(&format!("{prefix}.ffn"))),
        ] {
            let norm = format!("{prefix}.{norm}");
            let mut block = frame.block(layer, &norm, mixer);
            block.norm = Some(shape.norm(&norm, frame.hidden, frame.eps));
            blocks.push(block);
        }
    }
    // The final norm never has a bias; `add_out_norm` has no effect.
    let mut model = frame.model("xlstm", blocks)?;
    model.head.soft_cap = soft_cap(&fields, "output_logit_soft_cap", 30.0)?;
    Ok(model)
}

/// Sizes and switches of a layer.
struct Shape {
    hidden: usize,
    heads: usize,
    qk_head_dim: usize,
    v_head_dim: usize,
    /// Inner width of the feed-forward network.
    inner: usize,
    /// Whether all projections and norms have biases; the gates' projections always have one.
    bias: bool,
    /// Whether projections of the same input are one tensor.
    fused: bool,
    gate_soft_cap: Option<f32>,
    /// Epsilon in the cell's denominator.
    eps: f32,
}

impl Shape {
    fn read(frame: &Frame<'_>) -> Result<Self, ModelError> {
        let (fields, hidden) = (&frame.fields, frame.hidden);
        let heads = fields.size_or("num_heads", 8, 1, limit::HEADS)?;
        // The layer does not round these up. (The reference's cache rounds them to multiples of 64,
        // and fails if that changes them.)
        let qk = width(fields, "qk_dim_factor", 0.5, hidden, 0)?;
        let v = width(fields, "v_dim_factor", 1.0, hidden, 0)?;
        const MULTIPLE: &str = "ffn_round_up_to_multiple_of";
        let multiple = fields.size_or(MULTIPLE, 64, 1, limit::WIDTH)?;
        Ok(Self {
            hidden,
            heads,
            qk_head_dim: divide("hidden_size * qk_dim_factor", qk, "num_heads", heads)?,
            v_head_dim: divide("hidden_size * v_dim_factor", v, "num_heads", heads)?,
            inner: width(fields, "ffn_proj_factor", 2.667, hidden, multiple)?,
            bias: fields.bool_or("use_bias", false)?,
            fused: match fields.str("weight_mode")? {
                None | Some("single") => false,
                Some("fused") => true,
                Some(_) => {
                    return Err(fields.unsupported("weight_mode", "supported: single, fused"));
                }
            },
            gate_soft_cap: soft_cap(fields, "gate_soft_cap", 15.0)?,
            eps: fields.epsilon("eps", 1e-6)?,
        })
    }

    fn norm(&self, prefix: &str, width: usize, eps: f32) -> Norm {
        let bias = self.bias.then(|| TensorSpec::new(format!("{prefix}.bias"), [width]));
        Norm { bias, ..Norm::new(prefix, width, eps) }
    }

    /// Projections of the residual stream: tensors of their own, or the rows of `PREFIX.FUSED` in this order.
    fn projections<const N: usize>(
        &self,
        prefix: &str,
        fused: &str,
        names: [&str; N],
        rows: [usize; N],
        bias: bool,
    ) -> [Linear; N] {
        let linear = |name: &str, rows: usize| {
            Linear::new(&format!("{prefix}.{name}"), rows, self.hidden, bias)
        };
        if !self.fused {
            return std::array::from_fn(|part| linear(names[part], rows[part]));
        }
        let whole = linear(fused, rows.iter().sum());
        std::array::from_fn(|part| whole.rows(rows[..part].iter().sum(), rows[part]))
    }

    fn mlstm(&self, prefix: &str, norm_eps: f32) -> Mixer {
        let Self { hidden, heads, qk_head_dim, v_head_dim, bias, .. } = *self;
        let (qk, v) = (heads * qk_head_dim, heads * v_head_dim);
        let names = ["q", "k", "v", "ogate_preact"];
        let rows = [qk, qk, v, v];
        let [q, k, v_proj, ogate] = self.projections(prefix, "qkv_opreact", names, rows, bias);
        let names = ["igate_preact", "fgate_preact"];
        let [igate, fgate] = self.projections(prefix, "ifgate_preact", names, [heads, heads], true);
        Mixer::MLstm(MLstm {
            q,
            k,
            v: v_proj,
            ogate,
            igate,
            fgate,
            out_proj: Linear::new(&format!("{prefix}.out_proj"), hidden, v, bias),
            heads,
            qk_head_dim,
            v_head_dim,
            gate_soft_cap: self.gate_soft_cap,
            eps: self.eps,
            head_norm: Some(self.norm(&format!("{prefix}.multihead_norm"), v, norm_eps)),
            centred: true,
            forget_gate: ForgetGate::Sigmoid,
            qk_norm: None,
            inner: None,
        })
    }

    fn feed_forward(&self, prefix: &str) -> Mixer {
        let Self { hidden, inner, bias, .. } = *self;
        let names = ["proj_up_gate", "proj_up"];
        let [gate, up] = self.projections(prefix, "proj_up_gate_z", names, [inner, inner], bias);
        Mixer::Dense(Dense {
            gate: Some(gate),
            up,
            down: Linear::new(&format!("{prefix}.proj_down"), hidden, inner, bias),
            activation: Activation::Silu,
            adapter: None,
            out: None,
        })
    }
}

/// `hidden` times the factor in the field `key`, truncated to an integer, or rounded up to a
/// multiple of `multiple` unless that is 0.
fn width(
    fields: &Fields<'_>,
    key: &str,
    default: f64,
    hidden: usize,
    multiple: usize,
) -> Result<usize, ModelError> {
    let factor = fields.positive(key)?.unwrap_or(default);
    let exact = hidden as f64 * factor;
    let width = match multiple {
        0 => exact.floor(),
        multiple => ((exact + multiple as f64 - 1.0) / multiple as f64).floor() * multiple as f64,
    };
    if !(1.0..=limit::WIDTH as f64).contains(&width) {
        return Err(ModelError::OutOfRange {
            field: fields.path(key),
            value: factor.to_string(),
            expected: format!(
                "a factor that gives a width of 1 to {} with hidden_size = {hidden}",
                limit::WIDTH
            ),
        });
    }
    Ok(width as usize)
}

/// A soft cap; `null` means none.
fn soft_cap(fields: &Fields<'_>, key: &str, default: f64) -> Result<Option<f32>, ModelError> {
    let found = fields.positive(key)?;
    Ok(if fields.is_null(key) { None } else { Some(found.unwrap_or(default) as f32) })
}

#[cfg(test)]
#[path = "xlstm_tests.rs"]
mod tests;
