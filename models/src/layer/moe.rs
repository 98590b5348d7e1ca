//! A mixture of experts: feed-forward networks of which each token uses a few.

use crate::spec::{Linear, Norm};

use super::{Dense, Layer, Mixer, Module, Role, Rope, Router, Section, Share, Small};

/// Mixture of experts (Shazeer et al., 2017): the experts that the router chooses, weighted as it says, beside an optional expert
/// that sees every token.
///
/// With `w` the router's weights, `y = sum of w_e E_e(x) + shared(x)`; between latent projections `y = up(sum of w_e E_e(down(x))) +
/// shared(x)`. With `expert_norm`, an expert reads `norm_e(x)`, or `norm_e(down(x))`, in place of its argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// The choice.
    pub router: Router,
    /// All of one shape, without biases and factors.
    pub experts: Vec<Dense>,
    /// RMS norm of each chosen expert's input, over the width of that; its weight is `[experts, width]`.
    pub expert_norm: Option<Norm>,
    /// Projections around the experts that the router chooses, to a narrower stream and back; router and shared expert see the whole.
    pub latent: Option<Latent>,
    /// The expert that sees every token; its inner width may differ from the experts', and it may have biases. Its activation and whether
    /// it is gated may not differ.
    pub shared: Option<Dense>,
    /// `[1, hidden]`: the shared expert's weight is the sigmoid of this (Qwen2-MoE's `shared_expert_gate`), else 1.
    pub shared_gate: Option<Linear>,
}

/// Projections to the stream that experts read and write, and back (NVIDIA, "Nemotron 3", 2025: LatentMoE).
#[derive(Clone, Debug, PartialEq)]
pub struct Latent {
    /// `[latent, hidden]`.
    pub down: Linear,
    /// `[hidden, latent]`.
    pub up: Linear,
}

/// Indices of the components.
const EXPERTS: usize = 0;
const SHARED: usize = 1;
const ROUTER: usize = 2;

describe!(Moe, |parts| Moe { router, experts, expert_norm, latent, shared, shared_gate } => {
    let Router { linear, selection_bias, top_k, score: _, groups: _, renormalize: _, epsilon: _, scale: _ } =
        router;
    let share = Share { used: *top_k, of: experts.len() };
    parts.section(Section { component: ROUTER, ..Section::of(Module::Router) });
    parts.linear(Role::Router, linear);
    if let Some(bias) = selection_bias {
        parts.vector(Role::Bias, bias);
    }
    let around = Section { component: EXPERTS, ..Section::of(Module::Own) };
    let mut up_from_latent = None;
    if let Some(Latent { down, up }) = latent {
        parts.section(around);
        parts.linear(Role::In, down);
        up_from_latent = Some(up);
    }
    if let Some(norm) = expert_norm {
        parts.section(Section { component: EXPERTS, module: Module::Own, share });
        parts.norm(norm);
    }
    parts.section(Section { component: EXPERTS, module: Module::Experts, share });
    for expert in experts {
        parts.nested(expert);
    }
    if let Some(up) = up_from_latent {
        parts.section(around);
        parts.linear(Role::Out, up);
    }
    parts.section(Section { component: SHARED, ..Section::of(Module::SharedExpert) });
    if let Some(shared) = shared {
        parts.nested(shared);
    }
    parts.section(Section { component: SHARED, ..Section::of(Module::Own) });
    if let Some(gate) = shared_gate {
        parts.linear(Role::SharedGate, gate);
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
        let (width, activation) = first.map_or((0, String::new()), |e| (e.inner(), e.words()));
        let gated = if self.shared_gate.is_some() { ", gated" } else { "" };
        let shared = self.shared.as_ref();
        let shared = shared.map_or(String::new(), |s| format!(", shared {}{gated}", s.inner()));
        let (used, count) = (self.router.top_k, self.experts.len());
        let choice = self.router.words();
        let latent = self.latent.as_ref();
        let latent = latent.map_or(String::new(), |l| format!(" on {}", l.down.weight.rows));
        let normed = if self.expert_norm.is_some() { ", inputs normed" } else { "" };
        format!(
            "{used} of {count} experts{choice}, {width} wide{latent}{shared}, {activation}{normed}"
        )
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let count = self.experts.len().min(to.experts.max(self.router.top_k));
        let sized = |expert: &Dense| expert.sized(to.hidden, to.expert_width);
        let width = |latent: &Latent| latent.down.weight.rows.min(to.width);
        // The width of the stream that the chosen experts read.
        let stream = self.latent.as_ref().map_or(to.hidden, width);
        let latent = self.latent.as_ref().map(|Latent { down, up }| Latent {
            down: down.sized(stream, to.hidden),
            up: up.sized(to.hidden, stream),
        });
        let chosen = self.experts.iter().take(count);
        Mixer::Moe(Self {
            router: self.router.sized(count, to.hidden),
            expert_norm: self
                .expert_norm
                .as_ref()
                .map(|norm| Norm { weight: norm.weight.sized([count, stream]), ..norm.clone() }),
            experts: chosen.map(|expert| expert.sized(stream, to.expert_width)).collect(),
            latent,
            shared: self.shared.as_ref().map(sized),
            shared_gate: self.shared_gate.as_ref().map(|gate| gate.sized(1, to.hidden)),
        })
    }
}
