//! Code shared by families with experts: counts, and experts stored as separate tensors or as rows
//! of stacks.

use crate::frame::{Frame, equal, limit, product};
use crate::{Activation, Dense, Linear, Matrix, ModelError, Moe};

/// The number of experts of a layer, and how many of them a token uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
}

/// A family's defaults for absent fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountDefaults {
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
}

impl Counts {
    /// Names of the field with the number of experts, in different versions.
    const EXPERTS: [&str; 2] = ["num_local_experts", "num_experts"];

    /// Whether the layers have experts; a count of zero means a dense model.
    pub(crate) fn any(frame: &Frame<'_>, defaults: CountDefaults) -> Result<bool, ModelError> {
        Ok(Self::experts(frame, 0, defaults)? > 0)
    }

    fn experts(
        frame: &Frame<'_>,
        min: usize,
        defaults: CountDefaults,
    ) -> Result<usize, ModelError> {
        let [one, other] = Self::EXPERTS;
        let read = |key| frame.fields.size(key, min, limit::EXPERTS);
        let found = match (read(one)?, read(other)?) {
            (Some(left), Some(right)) => {
                equal(one, left, other, right)?;
                Some(left)
            }
            (left, right) => left.or(right),
        };
        Ok(found.unwrap_or(defaults.experts))
    }

    /// Reads the counts of a model in which `layers` layers have experts.
    pub(crate) fn read(
        frame: &Frame<'_>,
        layers: usize,
        defaults: CountDefaults,
    ) -> Result<Self, ModelError> {
        const TOP_K: &str = "num_experts_per_tok";
        let experts = Self::experts(frame, 1, defaults)?;
        product("layers with experts * experts", &[layers, experts], limit::ALL_EXPERTS)?;
        let top_k = frame.fields.size_or(TOP_K, defaults.top_k, 1, limit::EXPERTS)?;
        if top_k > experts {
            return Err(ModelError::OutOfRange {
                field: frame.fields.path(TOP_K),
                value: top_k.to_string(),
                expected: format!("at most the number of experts, {experts}"),
            });
        }
        Ok(Self { experts, top_k })
    }

    /// Fails unless the rows of all experts can be counted, in case they are one stack with gate
    /// and up fused.
    pub(crate) fn check_stacks(self, [hidden, inner]: [usize; 2]) -> Result<(), ModelError> {
        let rows = [self.experts, 2, inner.max(hidden)];
        product("experts * the rows of each", &rows, limit::STACKED_ROWS).map(|_| ())
    }
}

/// Experts stored as tensors `PREFIX.experts.E.NAME`, with the names of gate, up and down.
pub(crate) fn separate_experts(
    prefix: &str,
    experts: usize,
    [gate, up, down]: [&str; 3],
    [hidden, inner]: [usize; 2],
    activation: Activation,
) -> Vec<Dense> {
    let expert = |expert| {
        let linear = |name, outputs, inputs| {
            Linear::new(&format!("{prefix}.experts.{expert}.{name}"), outputs, inputs, false)
        };
        Dense {
            gate: linear(gate, inner, hidden),
            up: linear(up, inner, hidden),
            down: linear(down, hidden, inner),
            activation,
        }
    };
    (0..experts).map(expert).collect()
}

/// The experts `PREFIX.mlp.experts.E.{gate,up,down}_proj` with the router `PREFIX.mlp.gate`.
pub(crate) fn named_experts(
    prefix: &str,
    counts: Counts,
    [hidden, inner]: [usize; 2],
    activation: Activation,
    renormalize: bool,
) -> Moe {
    let prefix = format!("{prefix}.mlp");
    let (names, sizes) = (["gate_proj", "up_proj", "down_proj"], [hidden, inner]);
    Moe {
        router: Linear::new(&format!("{prefix}.gate"), counts.experts, hidden, false),
        renormalize,
        top_k: counts.top_k,
        experts: separate_experts(&prefix, counts.experts, names, sizes, activation),
        shared: None,
    }
}

/// Experts stored as rows of two tensors: `GATE_UP`, `[experts, 2 * inner, hidden]`, the gate's
/// rows first, and `DOWN`, `[experts, hidden, inner]`. Call [`Counts::check_stacks`] first.
pub(crate) fn fused_experts(
    [gate_up, down]: [&str; 2],
    experts: usize,
    [hidden, inner]: [usize; 2],
    activation: Activation,
) -> Vec<Dense> {
    let expert = |expert| {
        let gate_up = Matrix::stacked(gate_up, experts, 2 * inner, hidden, expert);
        Dense {
            gate: gate_up.rows(0, inner).into(),
            up: gate_up.rows(inner, inner).into(),
            down: Matrix::stacked(down, experts, hidden, inner, expert).into(),
            activation,
        }
    };
    (0..experts).map(expert).collect()
}
