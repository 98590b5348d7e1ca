//! Parameter counts by component.

use std::collections::{BTreeMap, HashSet};

use kinglet::ModelSpec;
use kinglet::models::{self, Linear, Mixer, Norm, Positions, Share, TensorSpec};

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Component {
    Embedding,
    /// A component of a layer.
    Layer(models::Component),
    /// Norms before blocks and head; norms within a mixer count for the mixer.
    Norms,
    Head,
}

impl Component {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Layer(component) => component.name,
            Self::Norms => "norms",
            Self::Head => "head",
        }
    }
}

/// Parameters of one component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) total: u64,
    /// Excludes experts that a token does not use.
    pub(super) active: u64,
}

/// Parameters of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) components: BTreeMap<Component, Count>,
    /// Whether the head uses the embedding's matrix, which then counts only there.
    pub(super) tied: bool,
}

impl Parameters {
    /// Counts the parameters of `spec`.
    pub(super) fn of(spec: &ModelSpec) -> Self {
        let mut counts =
            Self { tied: spec.head.linear.weight == spec.embedding.table, ..Self::default() };
        counts.add(Component::Embedding, spec.embedding.table.elements() as u64);
        let positions = spec.embedding.positions.as_ref().and_then(Positions::table);
        let rows = positions.map_or(0, |table| table.elements() as u64);
        counts.add(Component::Embedding, rows);
        // Layers may share tensors.
        let mut seen = HashSet::new();
        for block in &spec.blocks {
            let norms = block.norms().filter(|norm| seen.insert((&*norm.weight.name, 0)));
            norms.for_each(|one| counts.add(Component::Norms, norm(one)));
            block.branches.iter().for_each(|branch| counts.mixer(&branch.mixer, &mut seen));
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

    /// Counts the parameters of one mixer.
    pub(super) fn of_mixer(mixer: &Mixer) -> u64 {
        let mut counts = Self::default();
        counts.mixer(mixer, &mut HashSet::new());
        counts.total()
    }

    pub(super) fn total(&self) -> u64 {
        self.components.values().map(|count| count.total).sum()
    }

    pub(super) fn active(&self) -> u64 {
        self.components.values().map(|count| count.active).sum()
    }

    fn add(&mut self, component: Component, parameters: u64) {
        self.add_share(component, parameters, Share::ALL);
    }

    /// Adds `parameters`, of which `share` are active.
    fn add_share(&mut self, component: Component, parameters: u64, share: Share) {
        let count = self.components.entry(component).or_default();
        count.total += parameters;
        count.active += parameters / share.of.max(1) as u64 * share.used as u64;
    }

    /// Counts the parts of `mixer` that are not in `seen`, by tensor and first row.
    fn mixer<'a>(&mut self, mixer: &'a Mixer, seen: &mut HashSet<(&'a str, usize)>) {
        // Sum the parts of a share before dividing.
        let mut sums = BTreeMap::new();
        for part in mixer.parts() {
            let (tensor, _) = part.held.tensor();
            // Parts of one matrix share its bias, and layers may share all.
            if !seen.insert((&tensor.name, part.held.matrix().map_or(0, |rows| rows.row_offset))) {
                continue;
            }
            *sums.entry((part.component, part.share)).or_insert(0) += part.held.elements() as u64;
        }
        for ((component, share), parameters) in sums {
            self.add_share(Component::Layer(component), parameters, share);
        }
    }
}

fn tensor(tensor: &TensorSpec) -> u64 {
    tensor.elements() as u64
}

fn linear(linear: &Linear) -> u64 {
    linear.weight.elements() as u64 + linear.bias.as_ref().map_or(0, tensor)
}

fn norm(norm: &Norm) -> u64 {
    tensor(&norm.weight) + norm.bias.as_ref().map_or(0, tensor)
}
