//! Parameter counts by component.

use std::collections::{BTreeMap, HashSet};

use kinglet_models::{
    self as models, Linear, Mixer, ModelSpec, Norm, Positions, Share, TensorSpec,
};

/// A part of a model that parameters and work are counted for. Ordered as in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelComponent {
    /// The embedding table.
    Embedding,
    /// A component of a layer.
    Layer(models::Component),
    /// Norms before blocks and head; norms within a mixer count for the mixer.
    Norms,
    /// From the residual stream to logits.
    Head,
}

impl ModelComponent {
    /// Name in tables and JSON.
    pub fn name(self) -> &'static str {
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
pub struct ParameterCount {
    /// All of them.
    pub total: u64,
    /// Excludes experts that a token does not use.
    pub active: u64,
}

/// Parameters of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Parameters of each component that has some.
    pub components: BTreeMap<ModelComponent, ParameterCount>,
    /// Whether the head uses the embedding's matrix, which then counts only there.
    pub tied: bool,
}

impl Parameters {
    /// Counts the parameters of `spec`.
    pub fn of(spec: &ModelSpec) -> Self {
        let mut counts =
            Self { tied: spec.head.linear.weight == spec.embedding.table, ..Self::default() };
        counts.add(ModelComponent::Embedding, spec.embedding.table.elements() as u64);
        let positions = spec.embedding.positions.as_ref().and_then(Positions::table);
        let rows = positions.map_or(0, |table| table.elements() as u64);
        counts.add(ModelComponent::Embedding, rows);
        // Layers may share tensors.
        let mut seen = HashSet::new();
        for block in &spec.blocks {
            let norms = block.norms().filter(|norm| seen.insert((&*norm.weight.name, 0)));
            norms.for_each(|one| counts.add(ModelComponent::Norms, norm(one)));
            block.branches.iter().for_each(|branch| counts.mixer(&branch.mixer, &mut seen));
        }
        counts.add(ModelComponent::Norms, norm(&spec.head.norm));
        let head = if counts.tied {
            spec.head.linear.bias.as_ref().map_or(0, tensor)
        } else {
            linear(&spec.head.linear)
        };
        counts.add(ModelComponent::Head, head);
        counts.components.retain(|_, count| count.total > 0);
        counts
    }

    /// Counts the parameters of one mixer.
    pub fn of_mixer(mixer: &Mixer) -> u64 {
        let mut counts = Self::default();
        counts.mixer(mixer, &mut HashSet::new());
        counts.total()
    }

    /// All parameters.
    pub fn total(&self) -> u64 {
        self.components.values().map(|count| count.total).sum()
    }

    /// Parameters that a token uses.
    pub fn active(&self) -> u64 {
        self.components.values().map(|count| count.active).sum()
    }

    fn add(&mut self, component: ModelComponent, parameters: u64) {
        self.add_share(component, parameters, Share::ALL);
    }

    /// Adds `parameters`, of which `share` are active.
    fn add_share(&mut self, component: ModelComponent, parameters: u64, share: Share) {
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
            self.add_share(ModelComponent::Layer(component), parameters, share);
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
