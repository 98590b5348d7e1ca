//! [`WorkPerToken`]: floating-point operations by component.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use kinglet_models::{Branch, Component, Matrix, Mixer, ModelSpec};

use super::ModelComponent;
use crate::plan::Plan;

/// Floating-point operations of one component for one token. A multiply-add is two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComponentWork {
    /// Products with matrices; of experts, with those that a token uses.
    pub projections: u64,
    /// Recurrences and convolutions, in their recurrent form.
    pub scans: u64,
    /// Products with keys and values.
    pub attention: u64,
}

impl ComponentWork {
    /// The sum of all.
    pub fn total(&self) -> u64 {
        self.projections.saturating_add(self.scans).saturating_add(self.attention)
    }

    fn add(&mut self, other: Self) {
        self.projections = self.projections.saturating_add(other.projections);
        self.scans = self.scans.saturating_add(other.scans);
        self.attention = self.attention.saturating_add(other.attention);
    }
}

/// Floating-point operations of the last of `context` tokens, in decode. Norms, activations and gates are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkPerToken {
    /// The context.
    pub context: usize,
    /// Work of each component that has some.
    pub components: BTreeMap<ModelComponent, ComponentWork>,
}

/// What makes the work of two mixers equal: kind, sizes, and parts by component.
type MixerKey = (&'static str, String, Vec<(Component, usize, usize)>);

impl WorkPerToken {
    /// Counts the work of a token of `spec` whose context has `context` tokens, its own included.
    pub fn of(spec: &ModelSpec, context: usize) -> Self {
        let mut work = Self { context, components: BTreeMap::new() };
        let mut known: HashMap<MixerKey, BTreeMap<Component, ComponentWork>> = HashMap::new();
        for block in &spec.blocks {
            for branch in &block.branches {
                // Lowering equal layers again would take seconds.
                let found = known.entry(key(&branch.mixer)).or_insert_with(|| {
                    let block = kinglet_models::Block {
                        branches: vec![Branch { mixer: branch.mixer.clone(), ..branch.clone() }],
                        ..block.clone()
                    };
                    of_mixer(spec, block, &branch.mixer, context)
                });
                for (component, counted) in found {
                    let component = ModelComponent::Layer(*component);
                    work.components.entry(component).or_default().add(*counted);
                }
            }
        }
        let head = ComponentWork {
            projections: matrix_flops(&spec.head.linear.weight),
            ..ComponentWork::default()
        };
        work.components.entry(ModelComponent::Head).or_default().add(head);
        work.components.retain(|_, work| work.total() > 0);
        work
    }

    /// Floating-point operations of the whole model.
    pub fn total(&self) -> u64 {
        self.sum().total()
    }

    /// The work of all components.
    pub fn sum(&self) -> ComponentWork {
        let mut sum = ComponentWork::default();
        self.components.values().for_each(|work| sum.add(*work));
        sum
    }
}

fn key(mixer: &Mixer) -> MixerKey {
    let size = |matrix: &Matrix| (matrix.rows, matrix.cols);
    let parts = mixer.parts().into_iter().map(|part| {
        let (rows, cols) = part.held.matrix().map_or((part.held.elements(), 1), size);
        (part.component, rows, cols)
    });
    (mixer.layer().kind(), mixer.layer().sizes(), parts.collect())
}

/// The work of `mixer`, the only branch of `block`. What no matrix tells the component of counts for the first.
fn of_mixer(
    spec: &ModelSpec,
    block: kinglet_models::Block,
    mixer: &Mixer,
    context: usize,
) -> BTreeMap<Component, ComponentWork> {
    let parts = mixer.parts();
    let mut work: BTreeMap<Component, ComponentWork> = BTreeMap::new();
    let Some(first) = parts.iter().map(|part| part.component).min() else { return work };
    let mut rows: HashMap<&str, Vec<(Range<usize>, Component)>> = HashMap::new();
    for part in &parts {
        if let Some(matrix) = part.held.matrix() {
            let range = matrix.row_offset..matrix.row_offset.saturating_add(matrix.rows);
            rows.entry(&matrix.tensor.name).or_default().push((range, part.component));
        }
    }
    let component = |matrix: &Matrix| {
        let found = rows.get(matrix.tensor.name.as_str());
        let found =
            found.and_then(|all| all.iter().find(|(rows, _)| rows.contains(&matrix.row_offset)));
        found.map_or(first, |(_, component)| *component)
    };
    let plan = Plan::new(&ModelSpec { blocks: vec![block], ..spec.frame() });
    // The last op is the head.
    let ops = plan.ops.split_last().map(|(_, ops)| ops).unwrap_or_default();
    for op in ops {
        let uses = op.uses();
        for matrix in &uses.matrices {
            let projections = matrix_flops(matrix);
            work.entry(component(matrix))
                .or_default()
                .add(ComponentWork { projections, ..ComponentWork::default() });
        }
        let mut experts: BTreeMap<Component, (u64, u64)> = BTreeMap::new();
        for (used, matrix) in &uses.experts {
            let (sum, share) = experts.entry(component(matrix)).or_default();
            *sum = sum.saturating_add(matrix_flops(matrix));
            *share = *used as u64;
        }
        for (component, (sum, share)) in experts {
            let projections = (sum / uses.expert_count.max(1) as u64).saturating_mul(share);
            work.entry(component)
                .or_default()
                .add(ComponentWork { projections, ..ComponentWork::default() });
        }
        let beside = op.description().work(context);
        let beside =
            ComponentWork { projections: 0, scans: beside.scan, attention: beside.attention };
        work.entry(first).or_default().add(beside);
    }
    work
}

/// A multiply-add for each element.
fn matrix_flops(matrix: &Matrix) -> u64 {
    2 * (matrix.elements() as u64).min(u64::MAX / 2)
}
