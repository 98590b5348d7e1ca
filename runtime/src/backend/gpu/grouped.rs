//! Experts of many tokens: the tokens are grouped by expert on the device, and each group is multiplied in tiles.
//!
//! Each expert's share of a token is written to a place of its own, and the shares of a token are added up in order: results don't depend on
//! how tokens are grouped.

use std::collections::HashMap;

use kinglet_shaders::{Arithmetic, Kernel, WeightType};

use super::builder::Builder;
use super::moe_up::Experts;
use super::params::Params;
use super::projection::{Prepare, PrologueParams, set_matrix};
use super::recording::{Extent, FEW, Groups, Resource, Scope, When};
use crate::Error;
use crate::plan::op::BufferId;

/// What the layers with experts share.
#[derive(Default)]
pub(super) struct Grouping {
    /// The output of `moe_group`, and where items begin in it.
    lists: HashMap<Groups, (Resource, usize)>,
    /// `[chunk, places, rows]`, by elements of a token: each expert's share of a token.
    shares: HashMap<usize, Resource>,
    /// The groupings of the routes that were chosen last: for which tiles, and how many tokens.
    ready: Vec<(Groups, When)>,
}

impl Grouping {
    /// Other routes are chosen after this.
    pub(super) fn forget(&mut self) {
        self.ready.clear();
    }
}

/// One of the two products of experts for [`Builder::grouped`].
pub(super) struct Grouped<'a> {
    /// With small tiles, and with tiles.
    pub kernels: [Kernel; 2],
    pub pieces: &'a [Experts],
    pub prologue: &'a PrologueParams,
    pub vectors: Resource,
    pub routes: BufferId,
    pub experts: usize,
    pub top_k: usize,
    /// Whether there is a shared expert.
    pub shared: bool,
    /// Parts of the input that are an expert's each, and their width; see [`Prepare`].
    pub parts: (usize, usize),
    /// Rows of weights of an expert, of the larger if the shared one has others.
    pub rows: usize,
    pub output: Resource,
}

impl Builder<'_> {
    /// Adds the launches of experts for many tokens; `set` sets the parameters that are the op's own.
    pub(super) fn grouped(
        &mut self,
        grouped: &Grouped<'_>,
        set: impl Fn(&mut Params, &Experts, Prepare),
    ) -> Result<(), Error> {
        let mut prepared = None;
        for experts in grouped.pieces {
            let piece = &experts.piece;
            let [small, many] = grouped.kernels;
            let half = self.arithmetic(many, piece.weights.into()) != Arithmetic::F32;
            let (parts, part) = grouped.parts;
            let prepare = Prepare { logits: false, half, parts, part };
            // The arithmetic depends on the type of the weights.
            if prepared.replace(half) != Some(half) {
                self.prepare(grouped.prologue, grouped.vectors, prepare)?;
            }
            // An expert has `tokens * top_k / experts` tokens on average; a tile that is not a quarter full is too large.
            let tile = self.tile(many, piece.weights)?;
            let some = (tile.tokens * grouped.experts).div_ceil(4 * grouped.top_k);
            let few = When::Between(FEW + 1, some.max(FEW));
            let rest = When::Between(some.max(FEW) + 1, usize::MAX);
            for (kernel, when) in [(small, few), (many, rest)] {
                let tile = self.tile(kernel, piece.weights)?;
                let groups = Groups {
                    side: tile.tokens,
                    experts: grouped.experts,
                    top_k: grouped.top_k,
                    shared: grouped.shared,
                };
                let (lists, items) = self.group(grouped.routes, groups, when)?;
                let resources = [
                    ("prepared", Resource::Memory(self.memory.prepared)),
                    ("factors", Resource::Memory(self.memory.factors)),
                    ("weights", Resource::Memory(piece.memory)),
                    ("lists", lists),
                    ("output", grouped.output),
                ];
                let own = if experts.has_experts { piece.items.clone() } else { 0..0 };
                self.launch(
                    kernel,
                    piece.weights,
                    |_, params| {
                        params
                            .set("first_expert", own.start)
                            .set("experts", own.len())
                            .set("all_experts", grouped.experts)
                            .set("top_k", grouped.top_k)
                            .set("items", items)
                            .set("tiles.stride", prepare.stride(grouped.prologue.input.width));
                        set_matrix(params, "matrix", piece, 0);
                        set_matrix(params, "shared_matrix", piece, experts.shared.unwrap_or(0));
                        set(params, experts, prepare);
                    },
                    &resources,
                    [Extent::Fixed(grouped.rows.div_ceil(tile.rows)), Extent::Groups(groups)],
                    (Scope::Step, when),
                )?;
            }
        }
        Ok(())
    }

    /// Groups the tokens of a step by expert, unless that was done since the routes were chosen. Returns the lists, and where
    /// items begin.
    fn group(
        &mut self,
        routes: BufferId,
        groups: Groups,
        when: When,
    ) -> Result<(Resource, usize), Error> {
        let known = self.grouping.lists.get(&groups).copied();
        let (lists, items) = match known {
            Some(known) => known,
            None => {
                // The number of tiles, and four words of each.
                let items = 4 + 4 * groups.tiles(self.chunk);
                let words = items + self.chunk * (groups.top_k + 1);
                let name = format!("lists {}", self.grouping.lists.len());
                let memory = self.storage("lists of tokens", &name, 4 * words as u64)?;
                let made = (Resource::Memory(memory), items);
                self.grouping.lists.insert(groups, made);
                made
            }
        };
        if self.grouping.ready.contains(&(groups, when)) {
            return Ok((lists, items));
        }
        let resources = [("routes", self.buffer(routes)), ("lists", lists)];
        self.launch(
            Kernel::MoeGroup,
            WeightType::F32,
            |builder, params| {
                params
                    .set("experts", groups.experts)
                    .set("top_k", groups.top_k)
                    .set("routes_stride", builder.width(routes))
                    .set("side", groups.side)
                    .set("shared_expert", usize::from(groups.shared))
                    .set("items", items);
            },
            &resources,
            [Extent::Fixed(1), Extent::Fixed(1)],
            (Scope::Step, when),
        )?;
        self.grouping.ready.push((groups, when));
        Ok((lists, items))
    }

    /// Memory for `width` elements of each token, for the experts' shares.
    pub(super) fn shares(&mut self, width: usize) -> Result<Resource, Error> {
        if let Some(shares) = self.grouping.shares.get(&width) {
            return Ok(*shares);
        }
        let bytes = 4 * (self.chunk as u64).saturating_mul(width as u64);
        let name = format!("shares {}", self.grouping.shares.len());
        let shares = Resource::Memory(self.storage("activations", &name, bytes)?);
        self.grouping.shares.insert(width, shares);
        Ok(shares)
    }
}
