//! How checkpoints name and stack the tensors of a model.
//!
//! Each family's file names its tensors in one way, usually that of its first checkpoints on the
//! hub. Other checkpoints store the same weights differently: experts separately or as stacks, the
//! halves of a feed-forward network in one tensor or two, a module under its name in a later
//! version of `transformers`, everything under the prefix of a larger model or without the usual
//! prefix. config.json does not tell; the stored names do. The tables in this file list all these
//! names.

use crate::aliases;
use crate::family::FAMILIES;
use crate::layer::{Module, Place};
use crate::{Branch, Linear, Matrix, Mixer, ModelSpec, TensorSpec};

/// Whose names and stacks a written checkpoint uses. The weights are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Names of the family's file, which most checkpoints on the hub have.
    #[default]
    Transformers,
    /// Layout of mlx-lm: experts stacked under `switch_mlp`, fused halves separated, the taps of
    /// convolutions before the single input channel. For most families it equals `Transformers`.
    Mlx,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Self; 2] = [Self::Transformers, Self::Mlx];
}

/// Names of the matrices of a module, in the order of a spec. Equal names mean one tensor that
/// holds the rows of these matrices one after another. `{e}` is the number of an expert; without it
/// the experts are stacked, `[experts, rows, cols]`.
type Way = &'static [&'static str];

/// A kind of module that checkpoints store in several ways.
struct ModuleTable {
    /// Names of the module.
    names: &'static [&'static str],
    /// Names of its matrices, relative to the module.
    ways: &'static [Way],
}

/// Stacked experts of mlx-lm.
const SWITCH: Way =
    &["switch_mlp.gate_proj.weight", "switch_mlp.up_proj.weight", "switch_mlp.down_proj.weight"];

/// The same without gates.
const PLAIN_SWITCH: Way = &["switch_mlp.fc1.weight", "switch_mlp.fc2.weight"];

/// A gated feed-forward network.
const PROJECTIONS: Way = &["gate_proj.weight", "up_proj.weight", "down_proj.weight"];

/// Gate, up and down of each expert.
const EXPERTS: ModuleTable = ModuleTable {
    names: &["mlp", "block_sparse_moe"],
    ways: &[
        &[
            "experts.{e}.gate_proj.weight",
            "experts.{e}.up_proj.weight",
            "experts.{e}.down_proj.weight",
        ],
        &["experts.{e}.w1.weight", "experts.{e}.w3.weight", "experts.{e}.w2.weight"],
        // A stack whose experts were converted one by one.
        &[
            "experts.{e}.gate_up_proj.weight",
            "experts.{e}.gate_up_proj.weight",
            "experts.{e}.down_proj.weight",
        ],
        &[
            "experts.{e}.input_linear.weight",
            "experts.{e}.input_linear.weight",
            "experts.{e}.output_linear.weight",
        ],
        // transformers 5: parameters of one module for all experts.
        &["experts.gate_up_proj", "experts.gate_up_proj", "experts.down_proj"],
        &["experts.gate_up_proj.weight", "experts.gate_up_proj.weight", "experts.down_proj.weight"],
        &["experts.gate_proj", "experts.up_proj", "experts.down_proj"],
        &["experts.gate_proj.weight", "experts.up_proj.weight", "experts.down_proj.weight"],
        SWITCH,
        &[
            "switch_mlp.gate_up_proj.weight",
            "switch_mlp.gate_up_proj.weight",
            "switch_mlp.down_proj.weight",
        ],
        // Without gates (Nemotron-H).
        &["experts.{e}.up_proj.weight", "experts.{e}.down_proj.weight"],
        &["experts.up_proj", "experts.down_proj"],
        &["experts.up_proj.weight", "experts.down_proj.weight"],
        PLAIN_SWITCH,
        // Granite's own code.
        &["input_linear.weight", "input_linear.weight", "output_linear.weight"],
    ],
};

/// The router: from the residual stream to the experts' logits.
const ROUTER: ModuleTable = ModuleTable {
    names: EXPERTS.names,
    ways: &[&["gate.weight"], &["router.weight"], &["router.layer.weight"], &["gate.layer.weight"]],
};

/// Gate, up and down of a feed-forward network that every token uses.
const FEED_FORWARD: ModuleTable = ModuleTable {
    names: &["mlp", "shared_mlp", "feed_forward", "shared_expert"],
    ways: &[
        PROJECTIONS,
        &["input_linear.weight", "input_linear.weight", "output_linear.weight"],
        &["gate_up_proj.weight", "gate_up_proj.weight", "down_proj.weight"],
        &["w1.weight", "w3.weight", "w2.weight"],
    ],
};

/// Queries, keys and values.
const ATTENTION: ModuleTable = ModuleTable {
    names: &["self_attn"],
    ways: &[
        &["q_proj.weight", "k_proj.weight", "v_proj.weight"],
        &["qkv_proj.weight", "qkv_proj.weight", "qkv_proj.weight"],
    ],
};

/// Norms of a layer, each with its other name. A layer has at most one of each pair.
const NORMS: &[[&str; 2]] = &[
    // OLMo's own code.
    ["input_layernorm.weight", "attention_layer_norm.weight"],
    ["post_attention_layernorm.weight", "feedforward_layer_norm.weight"],
];

/// Embedding tables, relative to the model. The third is that of the first Mamba checkpoints.
const EMBEDDING: &[&str] = &["embed_tokens.weight", "embeddings.weight", "embedding.weight"];

/// The head, next to the model or in one of the modules around it.
const HEAD: &str = "lm_head";

/// Maximum number of prefixes to consider. Real files have one or two.
const MOST_PREFIXES: usize = 64;

/// Names of stored tensors, sorted.
pub(crate) struct Names<'a>(&'a [&'a str]);

impl Names<'_> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.binary_search(&name).is_ok()
    }

    /// How many of `names` are stored, in thousandths.
    fn share(&self, names: &[String]) -> usize {
        let found = names.iter().filter(|name| self.has(name)).count();
        1000 * found / names.len().max(1)
    }
}

impl ModelSpec {
    /// Renames and restacks the tensors of a spec to match a checkpoint, as far as the names are
    /// recognized. `stored` are the names of the checkpoint's tensors, sorted. Unrecognized tensors
    /// keep the family's own names, and are reported as missing later.
    ///
    /// Structure and order do not change: the [`matrices`](ModelSpec::matrices) are the same in the
    /// same order.
    pub fn fit_names(&mut self, stored: &[&str]) {
        debug_assert!(stored.is_sorted());
        let stored = Names(stored);
        let tied = self.head.linear.weight == self.embedding.table;
        fit_prefix(self, &stored);
        fit_embedding(self, &stored);
        fit_norms(self, &stored);
        for branch in branches(self) {
            for (module, mut linears) in modules(&mut branch.mixer) {
                if let Some(table) = table(module) {
                    fit(table, &mut linears, module == Module::Experts, &stored);
                }
            }
            aliases::fit(&mut branch.mixer, &stored);
        }
        if tied {
            self.head.linear.weight = self.embedding.table.clone();
        }
    }

    /// The same spec in mlx-lm's layout.
    pub(crate) fn into_mlx(mut self) -> Self {
        // Quantized checkpoints of families that mlx-lm lacks use the family's own names.
        let family = FAMILIES.iter().find(|family| family.model_type == self.model_type);
        if !family.is_some_and(|family| family.in_mlx) {
            return self;
        }
        for place in self.places() {
            if let Place::Conv(conv) = place {
                conv.shape = match *conv.shape {
                    [channels, 1, kernel] => vec![channels, kernel, 1],
                    _ => continue,
                };
            }
        }
        let numbered = self.model_type == "lfm2_moe";
        for branch in branches(&mut self) {
            for (module, mut linears) in modules(&mut branch.mixer) {
                match module {
                    Module::Experts => {
                        if let Some(path) = own_path(&EXPERTS, &linears) {
                            let gated = linears.iter().all(|expert| expert.len() > 2);
                            let way = if gated { SWITCH } else { PLAIN_SWITCH };
                            place(&path, way, &mut linears, true);
                        }
                    }
                    // In a model without experts, mlx-lm stores the shared expert as an ordinary
                    // network.
                    Module::FeedForward => {
                        let own = own_path(&FEED_FORWARD, &linears);
                        let outer = own.as_deref().and_then(|path| path.strip_suffix("shared_mlp"));
                        if let Some(outer) = outer {
                            place(&format!("{outer}mlp"), PROJECTIONS, &mut linears, false);
                        }
                    }
                    Module::Own | Module::Attention | Module::SharedExpert | Module::Router => {}
                }
            }
            aliases::to_mlx(&mut branch.mixer, numbered);
        }
        self
    }
}

fn branches(spec: &mut ModelSpec) -> impl Iterator<Item = &mut Branch> {
    spec.blocks.iter_mut().flat_map(|block| &mut block.branches)
}

/// The layouts of a module.
fn table(module: Module) -> Option<&'static ModuleTable> {
    match module {
        Module::Own => None,
        Module::Attention => Some(&ATTENTION),
        Module::FeedForward | Module::SharedExpert => Some(&FEED_FORWARD),
        Module::Experts => Some(&EXPERTS),
        Module::Router => Some(&ROUTER),
    }
}

/// The projections of each module of a layer: of its experts one by one, of others all in one. A part with a role that came before
/// belongs to the next expert.
fn modules(mixer: &mut Mixer) -> Vec<(Module, Vec<Vec<&mut Linear>>)> {
    let mut all: Vec<(Module, Vec<Vec<&mut Linear>>)> = Vec::new();
    let mut roles = Vec::new();
    for part in mixer.places() {
        let Place::Linear(linear) = part.place else { continue };
        let known = roles.contains(&part.role);
        match all.last_mut() {
            Some((module, linears)) if *module == part.module => match linears.last_mut() {
                Some(last) if !known => last.push(linear),
                _ => {
                    roles.clear();
                    linears.push(vec![linear]);
                }
            },
            _ => {
                roles.clear();
                all.push((part.module, vec![vec![linear]]));
            }
        }
        roles.push(part.role);
    }
    all
}

/// The prefix of the model's tensors with its dot: `model.` or `backbone.` in a spec before
/// fitting.
fn base(spec: &ModelSpec) -> String {
    let name = &spec.embedding.table.tensor.name;
    name.split_once('.').map_or(String::new(), |(base, _)| format!("{base}."))
}

/// Renames the tensors of a model that is stored under another prefix: none, or one within a larger
/// model. Candidates are the prefixes of a few tensors that every layout has; the one with the most
/// of the model's tensors wins.
fn fit_prefix(spec: &mut ModelSpec, stored: &Names<'_>) {
    let base = base(spec);
    // Names that no layout stacks or changes.
    let known: Vec<String> = spec
        .places()
        .into_iter()
        .filter_map(|place| match place {
            Place::Vector(tensor) | Place::Conv(tensor) => Some(&tensor.name),
            Place::Linear(..) | Place::Table(_) => None,
        })
        .filter_map(|name| name.strip_prefix(&base).map(String::from))
        .collect();
    let first = spec.blocks.first().and_then(|block| block.norms().next());
    let first = first.and_then(|norm| norm.weight.name.strip_prefix(&base));
    let anchors: Vec<&str> = EMBEDDING.iter().copied().chain(first).collect();
    let mut prefixes = vec![base.as_str()];
    for name in stored.0 {
        for prefix in anchors.iter().filter_map(|anchor| name.strip_suffix(anchor)) {
            let whole = prefix.is_empty() || prefix.ends_with('.');
            if whole && !prefixes.contains(&prefix) && prefixes.len() < MOST_PREFIXES {
                prefixes.push(prefix);
            }
        }
    }
    let score = |prefix: &str| {
        let has = |name: &&str| stored.has(&format!("{prefix}{name}"));
        let table = EMBEDDING.iter().any(&has);
        known.iter().filter(|name| has(&name.as_str())).count() + usize::from(table)
    };
    // On a tie the first, usual prefix wins.
    let mut best = (0, base.as_str());
    for prefix in prefixes {
        let score = score(prefix);
        if score > best.0 {
            best = (score, prefix);
        }
    }
    let prefix = best.1;
    for place in spec.places() {
        let tensors = match place {
            Place::Linear(linear) => {
                vec![Some(&mut linear.weight.tensor), linear.bias.as_mut()]
            }
            Place::Table(matrix) => vec![Some(&mut matrix.tensor)],
            Place::Vector(tensor) | Place::Conv(tensor) => vec![Some(tensor)],
        };
        for tensor in tensors.into_iter().flatten() {
            if let Some(name) = tensor.name.strip_prefix(&base) {
                tensor.name = format!("{prefix}{name}");
            }
        }
    }
    fit_head(spec, &base, prefix, stored);
}

/// The name of the head: next to the model, or next to one of the modules that contain it.
fn fit_head(spec: &mut ModelSpec, base: &str, prefix: &str, stored: &Names<'_>) {
    let outer = prefix.strip_suffix(base).unwrap_or_default();
    let mut places = vec![prefix];
    while let Some((rest, _)) = places.last().and_then(|last| {
        let inner = last.strip_suffix('.')?;
        Some((inner.rfind('.').map_or("", |dot| &inner[..=dot]), inner))
    }) {
        places.push(rest);
    }
    let found = places.into_iter().find(|at| stored.has(&format!("{at}{HEAD}.weight")));
    let path = format!("{}{HEAD}", found.unwrap_or(outer));
    let own = format!("{HEAD}.weight");
    for linear in [Some(&mut spec.head.linear), spec.head.untied.as_mut()].into_iter().flatten() {
        if linear.weight.tensor.name == own {
            rename(linear, &format!("{path}.weight"));
        }
    }
    for pattern in &mut spec.ignored {
        if *pattern == own {
            *pattern = format!("{path}.weight");
        }
    }
}

fn fit_embedding(spec: &mut ModelSpec, stored: &Names<'_>) {
    let table = &mut spec.embedding.table.tensor;
    if stored.has(&table.name) {
        return;
    }
    let Some(prefix) = EMBEDDING.iter().find_map(|own| table.name.strip_suffix(own)) else {
        return;
    };
    let names = EMBEDDING.iter().map(|other| format!("{prefix}{other}"));
    if let Some(found) = names.into_iter().find(|name| stored.has(name)) {
        table.name = found;
    }
}

/// Gives the norms around the branches their other names where a checkpoint has only these.
fn fit_norms(spec: &mut ModelSpec, stored: &Names<'_>) {
    for block in &mut spec.blocks {
        for norm in block.norms_mut() {
            let name = &norm.weight.name;
            let mut others = NORMS
                .iter()
                .filter_map(|[own, other]| Some(format!("{}{other}", name.strip_suffix(own)?)));
            let found = others.find(|other| !stored.has(name) && stored.has(other));
            norm.weight.name = found.unwrap_or_else(|| name.clone());
        }
    }
}

/// Renames a linear map stored as a tensor of its own, and its bias.
fn rename(linear: &mut Linear, weight: &str) {
    if let (Some(bias), Some(stem)) = (&mut linear.bias, weight.strip_suffix(".weight")) {
        bias.name = format!("{stem}.bias");
    }
    linear.weight.tensor.name = weight.into();
}

/// Switches a module to the layout that matches the most stored names; on a tie it keeps its own.
/// `modules` are the modules of all experts, or a single one.
fn fit(module: &ModuleTable, modules: &mut [Vec<&mut Linear>], experts: bool, stored: &Names<'_>) {
    let Some(own) = own_path(module, modules) else { return };
    let now = names_of(modules);
    let mut best = (stored.share(&now), None);
    if best.0 == 1000 {
        return;
    }
    let (outer, name) = own.rsplit_once('.').map_or(("", &*own), |(outer, name)| (outer, name));
    let others = module.names.iter().filter(|other| **other != name);
    // A module whose name no layout knows keeps it.
    let others = others.filter(|_| module.names.contains(&name));
    let dot = if outer.is_empty() { "" } else { "." };
    let paths: Vec<String> = [own.clone()]
        .into_iter()
        .chain(others.map(|other| format!("{outer}{dot}{other}")))
        .collect();
    for way in module.ways {
        if !can_be(way, modules, experts) {
            continue;
        }
        for path in &paths {
            let share = stored.share(&names_in(path, way, modules.len()));
            if share > best.0 {
                best = (share, Some((path, *way)));
            }
        }
    }
    if let (_, Some((path, way))) = best {
        place(path, way, modules, experts);
    }
}

/// The path of a module, from the name of its first matrix.
fn own_path(module: &ModuleTable, modules: &[Vec<&mut Linear>]) -> Option<String> {
    let first = &modules.first()?.first()?.weight.tensor.name;
    let paths = module.ways.iter().filter_map(|way| {
        let name = expert_name(way.first()?, 0);
        first.strip_suffix(&name)?.strip_suffix('.')
    });
    // The longest suffix leaves the shortest path.
    paths.min_by_key(|path| path.len()).map(String::from)
}

fn expert_name(name: &str, expert: usize) -> String {
    name.replace("{e}", &expert.to_string())
}

/// Whether a layout is possible: a tensor of several matrices has no bias here, and only experts
/// are numbered.
fn can_be(way: Way, modules: &[Vec<&mut Linear>], experts: bool) -> bool {
    let numbered = way.iter().any(|name| name.contains("{e}"));
    let shared = |name: &str| way.iter().filter(|other| **other == name).count() > 1;
    let apart = |parts: &Vec<&mut Linear>| {
        parts.len() == way.len()
            && parts.iter().zip(way).all(|(part, name)| {
                part.bias.is_none() || name.ends_with(".weight") && !shared(name)
            })
    };
    (experts || !numbered) && modules.iter().all(apart)
}

/// The first and the last of numbered modules, which suffice to distinguish layouts.
fn ends(count: usize) -> [usize; 2] {
    [0, count.saturating_sub(1)]
}

fn names_of(modules: &[Vec<&mut Linear>]) -> Vec<String> {
    let ends = ends(modules.len()).into_iter().filter_map(|index| modules.get(index));
    ends.flatten().map(|part| part.weight.tensor.name.clone()).collect()
}

fn names_in(path: &str, way: Way, count: usize) -> Vec<String> {
    let ends = ends(count).into_iter();
    ends.flat_map(|e| way.iter().map(move |name| format!("{path}.{}", expert_name(name, e))))
        .collect()
}

/// Renames the matrices of a module, or of all experts, to the layout `way`.
fn place(path: &str, way: Way, modules: &mut [Vec<&mut Linear>], experts: bool) {
    let count = modules.len();
    for (expert, parts) in modules.iter_mut().enumerate() {
        let rows: Vec<usize> = parts.iter().map(|part| part.weight.rows).collect();
        let sum = |of: &str, parts: &[usize]| -> usize {
            let named = way.iter().zip(parts).filter(|(name, _)| **name == of);
            named.map(|(_, rows)| *rows).sum()
        };
        for (index, (part, name)) in parts.iter_mut().zip(way).enumerate() {
            let (total, before) = (sum(name, &rows), sum(name, &rows[..index]));
            let (rows, cols) = (part.weight.rows, part.weight.cols);
            rename(part, &format!("{path}.{}", expert_name(name, expert)));
            let name = part.weight.tensor.name.clone();
            let stacked = experts && !way.iter().any(|name| name.contains("{e}"));
            // Families with experts bound the rows of all of them.
            let (tensor, first) = match stacked {
                true => (TensorSpec::new(name, [count, total, cols]), expert * total),
                false => (TensorSpec::new(name, [total, cols]), 0),
            };
            part.weight = Matrix { tensor, row_offset: first + before, rows, cols };
        }
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
