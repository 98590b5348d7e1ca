//! A mixture of experts: feed-forward networks of which each token uses a few.

use crate::spec::Linear;

use super::{Dense, Layer, Mixer, Module, Role, Rope, Section, Share, Small};

/// Mixture of experts (Shazeer et al., 2017): the `top_k` experts with the highest router
/// probability, weighted by it, plus an optional expert that every token uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// `[experts, hidden]`.
    pub router: Linear,
    /// Whether the chosen experts' probabilities are scaled to sum to 1.
    pub renormalize: bool,
    /// Experts used per token.
    pub top_k: usize,
    /// All of the same shape, without biases.
    pub experts: Vec<Dense>,
    /// Added with weight 1; its inner width may differ from the experts'.
    pub shared: Option<Dense>,
}

/// Indices of the components.
const EXPERTS: usize = 0;
const SHARED: usize = 1;
const ROUTER: usize = 2;

describe!(Moe, |parts| Moe { router, renormalize: _, top_k, experts, shared } => {
    parts.section(Section { component: ROUTER, ..Section::of(Module::Router) });
    parts.linear(Role::Router, router);
    let share = Share { used: *top_k, of: experts.len() };
    parts.section(Section { component: EXPERTS, module: Module::Experts, share });
    for expert in experts {
        parts.nested(expert);
    }
    parts.section(Section { component: SHARED, ..Section::of(Module::SharedExpert) });
    if let Some(shared) = shared {
        parts.nested(shared);
    }
});

impl Layer for Moe {
    fn kind(&self) -> &'static str {
        "moe"
    }

    fn title(&self) -> &'static str {
        "mixture of experts"
    }

    fn components(&self) -> &'static [&'static str] {
        &["moe experts", "shared expert", "router"]
    }

    fn section(&self) -> Section {
        Section { component: ROUTER, ..Section::of(Module::Router) }
    }

    fn sizes(&self) -> String {
        let first = self.experts.first();
        let (width, activation) = first.map_or((0, ""), |e| (e.inner(), e.activation.name()));
        let shared = self.shared.as_ref();
        let shared = shared.map_or(String::new(), |s| format!(", shared {}", s.inner()));
        let (used, count) = (self.top_k, self.experts.len());
        format!("{used} of {count} experts, {width} wide{shared}, {activation}")
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let count = self.experts.len().min(to.experts.max(self.top_k));
        let sized = |expert: &Dense| expert.sized(to.hidden, to.expert_width);
        Mixer::Moe(Self {
            router: self.router.sized(count, to.hidden),
            renormalize: self.renormalize,
            top_k: self.top_k,
            experts: self.experts.iter().take(count).map(sized).collect(),
            shared: self.shared.as_ref().map(sized),
        })
    }
}
