//! Code shared by families with experts: counts, and experts stored as separate tensors or as rows
//! of stacks.

use crate::config::Fields;
use crate::frame::{Frame, divide, equal, limit, product};
use crate::{Activation, Dense, ExpertGroups, GroupRank, Linear, Matrix, ModelError, Moe, Router};

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
    const EXPERTS: [&str; 3] = ["num_local_experts", "num_experts", "n_routed_experts"];
    /// The same of the number that a token uses.
    const TOP_K: [&str; 2] = ["num_experts_per_tok", "num_experts_per_token"];

    /// Whether the layers have experts; a count of zero means a dense model.
    pub(crate) fn any(frame: &Frame<'_>, defaults: CountDefaults) -> Result<bool, ModelError> {
        Ok(Self::experts(frame, 0, defaults)? > 0)
    }

    fn experts(
        frame: &Frame<'_>,
        min: usize,
        defaults: CountDefaults,
    ) -> Result<usize, ModelError> {
        let found = named_size(&frame.fields, &Self::EXPERTS, min, limit::EXPERTS)?;
        Ok(found.map_or(defaults.experts, |(_, count)| count))
    }

    /// Reads the counts of a model in which `layers` layers have experts.
    pub(crate) fn read(
        frame: &Frame<'_>,
        layers: usize,
        defaults: CountDefaults,
    ) -> Result<Self, ModelError> {
        let experts = Self::experts(frame, 1, defaults)?;
        product("layers with experts * experts", &[layers, experts], limit::ALL_EXPERTS)?;
        let found = named_size(&frame.fields, &Self::TOP_K, 1, limit::EXPERTS)?;
        let (key, top_k) = found.unwrap_or((Self::TOP_K[0], defaults.top_k));
        if top_k > experts {
            return Err(ModelError::OutOfRange {
                field: frame.fields.path(key),
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

/// Which layers have experts, in Qwen's families with experts in some layers.
#[derive(Clone, Debug)]
pub(crate) struct SparseLayers {
    counts: Option<Counts>,
    has_experts: Vec<bool>,
}

impl SparseLayers {
    /// Reads `decoder_sparse_step`, `mlp_only_layers` and the counts; `inner` is the inner width of an expert.
    pub(crate) fn read(
        frame: &Frame<'_>,
        defaults: CountDefaults,
        inner: usize,
    ) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let step = fields.size_or("decoder_sparse_step", 1, 1, usize::MAX)?;
        let any = Counts::any(frame, defaults)?;
        let mut has_experts: Vec<bool> =
            (1..=frame.layers).map(|number| any && number.is_multiple_of(step)).collect();
        for layer in fields.sizes("mlp_only_layers", 0, usize::MAX)?.unwrap_or_default() {
            if let Some(has_experts) = has_experts.get_mut(layer) {
                *has_experts = false;
            }
        }
        let counts = match has_experts.iter().filter(|&&has_experts| has_experts).count() {
            0 => None,
            layers => {
                let counts = Counts::read(frame, layers, defaults)?;
                counts.check_stacks([frame.hidden, inner])?;
                Some(counts)
            }
        };
        Ok(Self { counts, has_experts })
    }

    /// The counts of a layer; none if it has no experts.
    pub(crate) fn counts(&self, layer: usize) -> Option<Counts> {
        self.counts.filter(|_| self.has_experts.get(layer) == Some(&true))
    }
}

/// Groups of experts, from the fields of DeepSeek-V3's router; none where all are used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grouping(pub(crate) Option<ExpertGroups>);

/// The field that a config has of `names`, which mean the same in different versions, with its value from `min` to `max`. Where it has
/// several, they must be equal.
pub(crate) fn named_size(
    fields: &Fields<'_>,
    names: &[&'static str],
    min: usize,
    max: usize,
) -> Result<Option<(&'static str, usize)>, ModelError> {
    let mut found: Option<(&'static str, usize)> = None;
    for key in names.iter().copied() {
        let Some(value) = fields.size(key, min, max)? else { continue };
        if let Some((other, known)) = found {
            equal(other, known, key, value)?;
        }
        found = found.or(Some((key, value)));
    }
    Ok(found)
}

impl Grouping {
    /// Names of the field with the number of groups, in different versions.
    pub(crate) const COUNT: [&str; 2] = ["n_group", "num_expert_group"];

    /// Reads `n_group` and `topk_group`.
    pub(crate) fn read(
        fields: &Fields<'_>,
        counts: Counts,
        rank: GroupRank,
    ) -> Result<Self, ModelError> {
        const USED: &str = "topk_group";
        let found = named_size(fields, &Self::COUNT, 1, limit::EXPERTS)?;
        let (key, count) = found.unwrap_or((Self::COUNT[0], 1));
        let used = fields.size_or(USED, 1, 1, limit::EXPERTS)?;
        let each = divide("the number of experts", counts.experts, key, count)?;
        let beyond = |key: &str, value: usize, expected: String| ModelError::OutOfRange {
            field: fields.path(key),
            value: value.to_string(),
            expected,
        };
        if used > count {
            return Err(beyond(USED, used, format!("at most the number of groups, {count}")));
        }
        if counts.top_k > used * each {
            let expected = format!("at most the {} experts of {used} groups", used * each);
            return Err(beyond("num_experts_per_tok", counts.top_k, expected));
        }
        Ok(Self((used < count).then_some(ExpertGroups { count, used, rank })))
    }
}

/// Experts without gates stored as tensors `PREFIX.experts.E.NAME`, with the names of up and down.
pub(crate) fn separate_plain_experts(
    prefix: &str,
    experts: usize,
    [up, down]: [&str; 2],
    [hidden, inner]: [usize; 2],
    activation: Activation,
) -> Vec<Dense> {
    let linear = |expert: usize, name: &str, outputs, inputs| {
        Linear::new(&format!("{prefix}.experts.{expert}.{name}"), outputs, inputs, false)
    };
    let expert = |expert: usize| Dense {
        gate: None,
        up: linear(expert, up, inner, hidden),
        down: linear(expert, down, hidden, inner),
        activation,
        adapter: None,
        out: None,
    };
    (0..experts).map(expert).collect()
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
            gate: Some(linear(gate, inner, hidden)),
            up: linear(up, inner, hidden),
            down: linear(down, hidden, inner),
            activation,
            adapter: None,
            out: None,
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
    let router = Linear::new(&format!("{prefix}.gate"), counts.experts, hidden, false);
    Moe {
        router: Router::softmax(router, counts.top_k, renormalize),
        experts: separate_experts(&prefix, counts.experts, names, sizes, activation),
        expert_norm: None,
        latent: None,
        shared: None,
        shared_gate: None,
    }
}

/// The same beside the expert `PREFIX.mlp.shared_expert`, whose weight is the sigmoid of `PREFIX.mlp.shared_expert_gate`.
pub(crate) fn with_gated_shared(
    moe: Moe,
    frame: &Frame<'_>,
    prefix: &str,
    inner: usize,
    activation: Activation,
) -> Moe {
    let name = format!("{prefix}.mlp.shared_expert");
    Moe {
        shared_gate: Some(Linear::new(&format!("{name}_gate"), 1, frame.hidden, false)),
        shared: Some(frame.dense(&name, inner, activation, false)),
        ..moe
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
            gate: Some(gate_up.rows(0, inner).into()),
            up: gate_up.rows(inner, inner).into(),
            down: Matrix::stacked(down, experts, hidden, inner, expert).into(),
            activation,
            adapter: None,
            out: None,
        }
    };
    (0..experts).map(expert).collect()
}
