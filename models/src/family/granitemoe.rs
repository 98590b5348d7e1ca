//! GraniteMoe (IBM, Granite 3 and PowerMoE, 2024): Granite with experts, stored as stacks.

use super::Family;
use super::granite::Factors;
use crate::experts::{CountDefaults, Counts, fused_experts};
use crate::frame::{Frame, FrameDefaults, MODEL};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{Activation, Config, Dense, Linear, Matrix, Mixer, ModelError, ModelSpec, Moe, Router};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 4096, vocab: 32000, layers: 32, eps: 1e-6, tied: false },
    heads: HeadDefaults { heads: 32, kv_heads: None, head_dim: None },
    theta: 10000.0,
    max_positions: 2048,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "granitemoe",
    class: "GraniteMoeForCausalLM",
    spec: |config| model(config, "granitemoe", |_| Ok(0)),
    in_mlx: true,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes, with a shared expert of the width that `shared` reads; 0 for none.
pub(super) fn model(
    config: &Config,
    model_type: &str,
    shared: impl Fn(&Frame<'_>) -> Result<usize, ModelError>,
) -> Result<ModelSpec, ModelError> {
    let model = Transformer::read(config, MODEL, DEFAULTS)?;
    let frame = &model.frame;
    frame.refuse_window()?;
    let bias = frame.fields.bool_or("attention_bias", false)?;
    let experts = Experts::read(frame)?;
    let shared = shared(frame)?;
    let blocks = model.blocks(|_, prefix| {
        let moe = Moe {
            shared: (shared > 0).then(|| shared_expert(frame, prefix, shared, model.activation)),
            ..experts.moe(frame, prefix, model.activation)
        };
        (model.attention(prefix, (bias, bias)), Mixer::Moe(moe))
    });
    Ok(Factors::read(frame)?.apply(frame.model(model_type, blocks)?))
}

/// Number of experts where the config of a Granite model leaves it out.
pub(super) const COUNTS: CountDefaults = CountDefaults { experts: 8, top_k: 2 };

/// The experts of every layer of a Granite model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Experts {
    counts: Counts,
    inner: usize,
}

impl Experts {
    /// Reads their fields.
    pub(super) fn read(frame: &Frame<'_>) -> Result<Self, ModelError> {
        let counts = Counts::read(frame, frame.layers, COUNTS)?;
        let inner = frame.inner("intermediate_size", 11008)?;
        counts.check_stacks([frame.hidden, inner])?;
        Ok(Self { counts, inner })
    }

    /// The experts `PREFIX.block_sparse_moe`, without a shared one.
    pub(super) fn moe(self, frame: &Frame<'_>, prefix: &str, activation: Activation) -> Moe {
        let Self { counts, inner } = self;
        let prefix = format!("{prefix}.block_sparse_moe");
        let names = ["input_linear", "output_linear"].map(|n| format!("{prefix}.{n}.weight"));
        let names = names.each_ref().map(String::as_str);
        let router = format!("{prefix}.router.layer");
        let router = Linear::new(&router, counts.experts, frame.hidden, false);
        Moe {
            // The reference takes the softmax over the chosen logits alone, which is the same.
            router: Router::softmax(router, counts.top_k, true),
            experts: fused_experts(names, counts.experts, [frame.hidden, inner], activation),
            expert_norm: None,
            latent: None,
            shared: None,
            shared_gate: None,
        }
    }
}

/// The expert `PREFIX.shared_mlp` of a Granite model, which every token uses.
pub(super) fn shared_expert(
    frame: &Frame<'_>,
    prefix: &str,
    inner: usize,
    activation: Activation,
) -> Dense {
    let prefix = format!("{prefix}.shared_mlp");
    let gate_up = Matrix::whole(format!("{prefix}.input_linear.weight"), 2 * inner, frame.hidden);
    Dense {
        gate: Some(gate_up.rows(0, inner).into()),
        up: gate_up.rows(inner, inner).into(),
        down: Linear::new(&format!("{prefix}.output_linear"), frame.hidden, inner, false),
        activation,
        adapter: None,
        out: None,
    }
}

#[cfg(test)]
#[path = "granitemoe_tests.rs"]
mod tests;
