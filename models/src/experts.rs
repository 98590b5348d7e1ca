//! What the families with experts share: counts, and experts that are tensors of their own or rows of
//! stacks.

use crate::frame::{Frame, equal, limit, product};
use crate::{Activation, Dense, Linear, Matrix, ModelError, Moe, Router};

/// How many experts a layer has, and how many of them see a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
}

/// What a family has for fields that the config lacks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountDefaults {
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
}

impl Counts {
    /// The names that the number of experts has in one version or another.
    const EXPERTS: [&str; 2] = ["num_local_experts", "num_experts"];

    /// Whether the layers have experts at all: a count of zero is a dense model.
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

    /// Reads the counts, for a model of which `layers` layers have experts.
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

    /// An error unless all experts' rows can be counted through where they are one stack, gate and up together.
    pub(crate) fn check_stacks(self, [hidden, inner]: [usize; 2]) -> Result<(), ModelError> {
        let rows = [self.experts, 2, inner.max(hidden)];
        product("experts * the rows of each", &rows, limit::STACKED_ROWS).map(|_| ())
    }
}

/// Experts that are tensors `PREFIX.experts.E.NAME` each, with the names of gate, up and down.
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
            gate: Some(linear(gate, inner, hidden)),
            up: linear(up, inner, hidden),
            down: linear(down, hidden, inner),
            activation,
        }
    };
    (0..experts).map(expert).collect()
}

/// The experts `PREFIX.mlp.experts.E.{gate,up,down}_proj` behind the router `PREFIX.mlp.gate`.
pub(crate) fn named_experts(
    prefix: &str,
    counts: Counts,
    [hidden, inner]: [usize; 2],
    activation: Activation,
    renormalize: bool,
) -> Moe {
    let prefix = format!("{prefix}.mlp");
    let (names, sizes) = (["gate_proj", "up_proj", "down_proj"], [hidden, inner]);
    let router = Linear::new(&format!("{prefix}.gate"), counts.experts, hidden, false);
    Moe {
        router: Router::softmax(router, counts.top_k, renormalize),
        experts: separate_experts(&prefix, counts.experts, names, sizes, activation),
        shared: None,
        shared_gate: None,
    }
}

/// Experts that are rows of two tensors: `GATE_UP`, `[experts, 2 * inner, hidden]`, the gate's rows
/// first, and `DOWN`, `[experts, hidden, inner]`. [`Counts::check_stacks`] must have found no error.
pub(crate) fn fused_experts(
    [gate_up, down]: [&str; 2],
    experts: usize,
    [hidden, inner]: [usize; 2],
    activation: Activation,
) -> Vec<Dense> {
    let expert = |expert| {
        let gate_up = Matrix::stacked(gate_up, experts, 2 * inner, hidden, expert);
        Dense {
            gate: Some(gate_up.rows(0, inner).into()),
            up: gate_up.rows(inner, inner).into(),
            down: Matrix::stacked(down, experts, hidden, inner, expert).into(),
            activation,
        }
    };
    (0..experts).map(expert).collect()
}
