//! How many parameters a model has, by component.

use std::collections::BTreeMap;

use kinglet::ModelSpec;
use kinglet::models::{
    Attention, Conv, Dense, Linear, MLstm, Mamba, Mamba2, Mamba2Gate, Matrix, Mixer, Norm,
    TensorSpec,
};

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Component {
    Embedding,
    Attention,
    Mamba,
    Mamba2,
    MLstm,
    Dense,
    Experts,
    SharedExpert,
    Router,
    /// Those in front of blocks and head; norms within a mixer are the mixer's.
    Norms,
    Head,
}

impl Component {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Mamba => "mamba",
            Self::Mamba2 => "mamba2",
            Self::MLstm => "mlstm",
            Self::Dense => "dense ffn",
            Self::Experts => "moe experts",
            Self::SharedExpert => "shared expert",
            Self::Router => "router",
            Self::Norms => "norms",
            Self::Head => "head",
        }
    }
}

/// Parameters of one component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) total: u64,
    /// Without those of the experts that a token does not use.
    pub(super) active: u64,
}

/// Parameters of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) components: BTreeMap<Component, Count>,
    /// Whether the head's matrix is the embedding's, which is where it is counted then.
    pub(super) tied: bool,
}

impl Parameters {
    /// Counts what `spec` describes.
    pub(super) fn of(spec: &ModelSpec) -> Self {
        let mut counts =
            Self { tied: spec.head.linear.weight == spec.embedding.table, ..Self::default() };
        counts.add(Component::Embedding, matrix(&spec.embedding.table));
        for block in &spec.blocks {
            counts.add(Component::Norms, norm(&block.norm));
            block.branches.iter().for_each(|branch| counts.mixer(&branch.mixer));
        }
        counts.add(Component::Norms, norm(&spec.head.norm));
        let head = if counts.tied {
            spec.head.linear.bias.as_ref().map_or(0, tensor)
        } else {
            linear(&spec.head.linear)
        };
        counts.add(Component::Head, head);
        counts.components.retain(|_, count| count.total > 0);
        counts
    }

    /// Those of one mixer alone.
    pub(super) fn of_mixer(mixer: &Mixer) -> u64 {
        let mut counts = Self::default();
        counts.mixer(mixer);
        counts.total()
    }

    pub(super) fn total(&self) -> u64 {
        self.components.values().map(|count| count.total).sum()
    }

    pub(super) fn active(&self) -> u64 {
        self.components.values().map(|count| count.active).sum()
    }

    fn add(&mut self, component: Component, parameters: u64) {
        self.add_share(component, parameters, 1, 1);
    }

    /// `used` of `of` equal parts are active.
    fn add_share(&mut self, component: Component, parameters: u64, used: usize, of: usize) {
        let count = self.components.entry(component).or_default();
        count.total += parameters;
        count.active += parameters / of.max(1) as u64 * used as u64;
    }

    fn mixer(&mut self, mixer: &Mixer) {
        match mixer {
            Mixer::Attention(attention) => {
                self.add(Component::Attention, attention_size(attention))
            }
            Mixer::Mamba(mamba) => self.add(Component::Mamba, mamba_size(mamba)),
            Mixer::Mamba2(mamba2) => self.add(Component::Mamba2, mamba2_size(mamba2)),
            Mixer::MLstm(mlstm) => self.add(Component::MLstm, mlstm_size(mlstm)),
            Mixer::Dense(ffn) => self.add(Component::Dense, dense(ffn)),
            Mixer::Moe(moe) => {
                self.add(Component::Router, linear(&moe.router));
                let experts = moe.experts.iter().map(dense).sum();
                self.add_share(Component::Experts, experts, moe.top_k, moe.experts.len());
                if let Some(shared) = &moe.shared {
                    self.add(Component::SharedExpert, dense(shared));
                }
            }
        }
    }
}

fn tensor(tensor: &TensorSpec) -> u64 {
    tensor.elements() as u64
}

fn matrix(matrix: &Matrix) -> u64 {
    matrix.elements() as u64
}

fn linear(linear: &Linear) -> u64 {
    matrix(&linear.weight) + linear.bias.as_ref().map_or(0, tensor)
}

fn norm(norm: &Norm) -> u64 {
    tensor(&norm.weight) + norm.bias.as_ref().map_or(0, tensor)
}

fn conv(conv: &Conv) -> u64 {
    tensor(&conv.weight) + conv.bias.as_ref().map_or(0, tensor)
}

fn dense(dense: &Dense) -> u64 {
    [&dense.gate, &dense.up, &dense.down].into_iter().map(linear).sum()
}

fn attention_size(a: &Attention) -> u64 {
    let norms = a.qk_norm.as_ref().map_or(0, |qk| norm(&qk.q) + norm(&qk.k));
    norms + [&a.q, &a.k, &a.v, &a.o].into_iter().map(linear).sum::<u64>()
}

fn mamba_size(m: &Mamba) -> u64 {
    let projections = [&m.in_proj, &m.x_proj, &m.dt_proj, &m.out_proj];
    projections.into_iter().map(linear).sum::<u64>()
        + conv(&m.conv)
        + tensor(&m.a_log)
        + tensor(&m.d)
}

fn mamba2_size(m: &Mamba2) -> u64 {
    let gate = match &m.gate {
        Mamba2Gate::Silu => 0,
        Mamba2Gate::NormAfter { norm: gate, .. } => norm(gate),
    };
    let vectors: u64 = [&m.a_log, &m.d, &m.dt_bias].into_iter().map(tensor).sum();
    linear(&m.in_proj) + conv(&m.conv) + vectors + gate + linear(&m.out_proj)
}

fn mlstm_size(m: &MLstm) -> u64 {
    let projections = [&m.q, &m.k, &m.v, &m.ogate, &m.igate, &m.fgate, &m.out_proj];
    projections.into_iter().map(linear).sum::<u64>() + norm(&m.head_norm)
}
