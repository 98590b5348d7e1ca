//! Sizes of layers with the gated delta rule, from the config.

use crate::frame::{Frame, divide, limit, product};
use crate::{
    Conv, DeltaInputs, DeltaProjection, DeltaProjections, GateActivation, GatedDelta,
    KeyHeadProjections, Linear, Matrix, ModelError, Norm, TensorSpec,
};

/// Heads of a family's gated delta rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeltaShape {
    pub(crate) key_heads: usize,
    pub(crate) value_heads: usize,
    pub(crate) key_dim: usize,
    pub(crate) value_dim: usize,
    pub(crate) kernel: usize,
}

impl DeltaShape {
    /// Reads `linear_*`; `self` has what the family has for fields that the config lacks.
    pub(crate) fn read(self, frame: &Frame<'_>) -> Result<Self, ModelError> {
        const KEY_HEADS: &str = "linear_num_key_heads";
        const VALUE_HEADS: &str = "linear_num_value_heads";
        let fields = &frame.fields;
        frame.require_silu()?;
        let size = |key, default, max| fields.size_or(key, default, 1, max);
        let shape = Self {
            key_heads: size(KEY_HEADS, self.key_heads, limit::HEADS)?,
            value_heads: size(VALUE_HEADS, self.value_heads, limit::HEADS)?,
            key_dim: size("linear_key_head_dim", self.key_dim, limit::STATE)?,
            value_dim: size("linear_value_head_dim", self.value_dim, limit::STATE)?,
            kernel: size("linear_conv_kernel_dim", self.kernel, limit::KERNEL)?,
        };
        divide(VALUE_HEADS, shape.value_heads, KEY_HEADS, shape.key_heads)?;
        let keys = [shape.key_heads, shape.key_dim];
        product("linear_num_key_heads * linear_key_head_dim", &keys, limit::ROWS / 8)?;
        let values = [shape.value_heads, shape.value_dim];
        product("linear_num_value_heads * linear_value_head_dim", &values, limit::ROWS / 8)?;
        Ok(shape)
    }

    /// Fails if `layers` such layers have too many key heads, whose rows a plan addresses one by one.
    pub(crate) fn check_layers(&self, layers: usize) -> Result<(), ModelError> {
        let heads = [layers, self.key_heads];
        product("layers of linear attention * linear_num_key_heads", &heads, limit::ALL_HEADS)
            .map(|_| ())
    }

    /// Channels of queries and of keys.
    pub(crate) fn keys(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Channels of values.
    pub(crate) fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// The layer `PREFIX` with these projections, as Qwen names its other tensors: one convolution, a decay for each head, betas up to
    /// 1, a SiLU on the gate.
    pub(crate) fn layer(&self, frame: &Frame<'_>, prefix: &str, inputs: DeltaInputs) -> GatedDelta {
        let Self { key_heads, value_heads, key_dim, value_dim, kernel } = *self;
        let vector = |name: &str| TensorSpec::new(format!("{prefix}.{name}"), [value_heads]);
        let channels = 2 * self.keys() + self.values();
        GatedDelta {
            inputs,
            convs: vec![Conv::new(&format!("{prefix}.conv1d"), channels, kernel, false)],
            beta_scale: 1.0,
            per_channel: false,
            a_log: vector("A_log"),
            dt_bias: vector("dt_bias"),
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            norm: Norm::new(&format!("{prefix}.norm"), value_dim, frame.eps),
            gate_activation: GateActivation::Silu,
            out_proj: Linear::new(
                &format!("{prefix}.out_proj"),
                frame.hidden,
                self.values(),
                false,
            ),
        }
    }

    /// The projections of `PREFIX` in two tensors, each with the rows of a key head together (Qwen3-Next).
    pub(crate) fn by_key_head(&self, prefix: &str, hidden: usize) -> DeltaInputs {
        let linear =
            |name: &str, rows: usize| Linear::new(&format!("{prefix}.{name}"), rows, hidden, false);
        DeltaInputs::ByKeyHead(Box::new(KeyHeadProjections {
            qkvg: linear("in_proj_qkvz", 2 * (self.keys() + self.values())),
            beta_decay: linear("in_proj_ba", 2 * self.value_heads),
        }))
    }

    /// The projections of `PREFIX` with queries, keys and values as rows of one tensor, the others each in its own (Qwen 3.5).
    pub(crate) fn separate(&self, prefix: &str, hidden: usize) -> DeltaInputs {
        let (keys, values) = (self.keys(), self.values());
        let name = format!("{prefix}.in_proj_qkv.weight");
        let qkv = Matrix::whole(name, 2 * keys + values, hidden);
        let linear =
            |name: &str, rows: usize| Linear::new(&format!("{prefix}.{name}"), rows, hidden, false);
        DeltaInputs::Separate(Box::new(DeltaProjections {
            q: qkv.rows(0, keys).into(),
            k: qkv.rows(keys, keys).into(),
            v: qkv.rows(2 * keys, values).into(),
            gate: DeltaProjection::Full(linear("in_proj_z", values)),
            decay: DeltaProjection::Full(linear("in_proj_a", self.value_heads)),
            beta: linear("in_proj_b", self.value_heads),
        }))
    }
}
