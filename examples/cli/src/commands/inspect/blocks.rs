//! A model's layers, with equal neighbours grouped.

use std::collections::HashMap;

use kinglet::ModelSpec;
use kinglet::analysis::Parameters;
use kinglet::models::{Block, TensorSpec};
use kinglet::plan::Plan;

/// Consecutive layers with the same blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LayerRun {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) blocks: Vec<BlockInfo>,
}

impl LayerRun {
    pub(super) fn layers(&self) -> usize {
        self.last - self.first + 1
    }
}

/// One residual block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockInfo {
    /// Kinds of its branches, such as `mamba2` or `attention + dense`.
    pub(super) kind: String,
    /// Its sizes as text.
    pub(super) sizes: String,
    /// Parameters of the mixers and the norms around them.
    pub(super) parameters: u64,
    /// Number of ops that it runs as.
    pub(super) dispatches: usize,
}

/// The layers of a model.
pub(super) fn layers(spec: &ModelSpec) -> Vec<LayerRun> {
    let mut dispatches = Dispatches { spec, known: HashMap::new() };
    let mut runs: Vec<LayerRun> = Vec::new();
    for layer in spec.blocks.chunk_by(|a, b| a.layer == b.layer) {
        let Some(number) = layer.first().map(|block| block.layer) else { continue };
        let blocks: Vec<_> = layer.iter().map(|block| info(block, &mut dispatches)).collect();
        match runs.last_mut() {
            Some(run) if run.blocks == blocks && run.last + 1 == number => run.last = number,
            _ => runs.push(LayerRun { first: number, last: number, blocks }),
        }
    }
    runs
}

/// Counts ops by lowering a model of one block.
struct Dispatches<'a> {
    spec: &'a ModelSpec,
    /// Counts by description: lowering equal blocks again would take seconds.
    known: HashMap<String, usize>,
}

impl Dispatches<'_> {
    fn of(&mut self, block: &Block, description: String) -> usize {
        if let Some(&known) = self.known.get(&description) {
            return known;
        }
        let ops = |blocks| Plan::new(&ModelSpec { blocks, ..self.spec.frame() }).ops.len();
        let dispatches = ops(vec![block.clone()]) - ops(Vec::new());
        self.known.insert(description, dispatches);
        dispatches
    }
}

fn info(block: &Block, dispatches: &mut Dispatches<'_>) -> BlockInfo {
    let mixers = || block.branches.iter().map(|branch| &branch.mixer);
    let kind = mixers().map(|mixer| mixer.layer().kind()).collect::<Vec<_>>().join(" + ");
    let sizes = mixers().map(|mixer| mixer.layer().sizes()).collect::<Vec<_>>().join("; ");
    let tensors = block.norms().flat_map(|norm| [&norm.weight].into_iter().chain(&norm.bias));
    let norms: usize = tensors.map(TensorSpec::elements).sum();
    let Block { input, norm, post_norm, residual, stream_norm, target, .. } = block;
    let has = [norm, post_norm, stream_norm].map(Option::is_some);
    let around = (input, has, residual, target);
    BlockInfo {
        parameters: mixers().map(Parameters::of_mixer).sum::<u64>() + norms as u64,
        dispatches: dispatches.of(block, format!("{kind}: {sizes}; {around:?}")),
        kind,
        sizes,
    }
}
