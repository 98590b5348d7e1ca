//! What a model's layers are, equal neighbours together.

use std::collections::HashMap;

use kinglet::ModelSpec;
use kinglet::models::{Activation, Block, Dense, Mixer};
use kinglet::plan::Plan;

use super::parameters::Parameters;

/// Layers one behind the other that are made of the same blocks.
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
    /// Kinds of its branches: `mamba2`, `attention + dense`.
    pub(super) kind: String,
    /// Its sizes, in words.
    pub(super) sizes: String,
    /// Of the mixers and the norm in front of them.
    pub(super) parameters: u64,
    /// Ops that it runs as.
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
    /// By what describes a block: lowering every expert of every layer again would take seconds.
    known: HashMap<String, usize>,
}

impl Dispatches<'_> {
    fn of(&mut self, block: &Block, description: String) -> usize {
        if let Some(&known) = self.known.get(&description) {
            return known;
        }
        let ops = |blocks| Plan::new(&ModelSpec { blocks, ..self.frame() }).ops.len();
        let dispatches = ops(vec![block.clone()]) - ops(Vec::new());
        self.known.insert(description, dispatches);
        dispatches
    }

    /// The model without its blocks.
    fn frame(&self) -> ModelSpec {
        let spec = self.spec;
        ModelSpec {
            model_type: String::new(),
            hidden: spec.hidden,
            vocab: spec.vocab,
            max_positions: None,
            embedding: spec.embedding.clone(),
            blocks: Vec::new(),
            head: spec.head.clone(),
            ignored: Vec::new(),
        }
    }
}

fn info(block: &Block, dispatches: &mut Dispatches<'_>) -> BlockInfo {
    let mixers = || block.branches.iter().map(|branch| &branch.mixer);
    let kind = mixers().map(kind).collect::<Vec<_>>().join(" + ");
    let sizes = mixers().map(sizes).collect::<Vec<_>>().join("; ");
    let norm = block.norm.weight.elements() + block.norm.bias.as_ref().map_or(0, |b| b.elements());
    BlockInfo {
        parameters: mixers().map(Parameters::of_mixer).sum::<u64>() + norm as u64,
        dispatches: dispatches.of(block, format!("{kind}: {sizes}")),
        kind,
        sizes,
    }
}

fn kind(mixer: &Mixer) -> &'static str {
    match mixer {
        Mixer::Attention(_) => "attention",
        Mixer::Mamba(_) => "mamba",
        Mixer::Mamba2(_) => "mamba2",
        Mixer::MLstm(_) => "mlstm",
        Mixer::Dense(_) => "dense ffn",
        Mixer::Moe(_) => "moe",
    }
}

fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu (tanh)",
        Activation::Relu => "relu",
    }
}

fn inner(dense: &Dense) -> usize {
    dense.gate.weight.rows
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn sizes(mixer: &Mixer) -> String {
    match mixer {
        Mixer::Attention(a) => {
            let mut text = format!("{} of {}", plural(a.heads, "head"), a.head_dim);
            if a.kv_heads != a.heads {
                text += &format!(", {} for keys and values", a.kv_heads);
            }
            match a.rope.as_ref().map(|rope| 2 * rope.inv_freq.len()) {
                None => text += ", no positions",
                Some(rotated) if rotated == a.head_dim => text += ", rope",
                Some(rotated) => text += &format!(", rope on {rotated}"),
            }
            if let Some(qk) = &a.qk_norm {
                text += if qk.per_head { ", heads normed" } else { ", q and k normed" };
            }
            if let Some(clip) = a.clip {
                text += &format!(", clipped at {clip}");
            }
            if let Some(window) = a.window {
                text += &format!(", window {window}");
            }
            text
        }
        Mixer::Mamba(m) => {
            let norm = if m.bcdt_norm_eps.is_some() { ", B C dt normed" } else { "" };
            let (inner, state, rank) = (m.inner, m.state, m.dt_rank);
            format!("{inner} channels, state {state}, dt rank {rank}, conv {}{norm}", m.conv.kernel)
        }
        Mixer::Mamba2(m) => format!(
            "{} of {}, {}, state {}, conv {}",
            plural(m.heads, "head"),
            m.head_dim,
            plural(m.groups, "group"),
            m.state,
            m.conv.kernel
        ),
        Mixer::MLstm(m) => {
            let heads = plural(m.heads, "head");
            format!("{heads}, queries of {}, values of {}", m.qk_head_dim, m.v_head_dim)
        }
        Mixer::Dense(d) => format!("{} wide, {}", inner(d), activation(d.activation)),
        Mixer::Moe(m) => {
            let first = m.experts.first();
            let (width, act) = first.map_or((0, ""), |e| (inner(e), activation(e.activation)));
            let shared = m.shared.as_ref();
            let shared = shared.map_or(String::new(), |s| format!(", one of {} for all", inner(s)));
            format!("{} of {} experts, {width} wide{shared}, {act}", m.top_k, m.experts.len())
        }
    }
}
