//! Lowers layers to ops, with one file for each kind of layer.
//!
//! All branches of a block see the same input, since nothing here can write to it: an op of a branch
//! writes its own buffers, made by [`Branch::op`]. The branch returns what it adds to `x` as a
//! [`Sum`], which becomes an op when all branches are lowered.

#![deny(clippy::wildcard_enum_match_arm)]

mod attention;
mod dense;
mod gated_delta;
mod hybrid_attention;
mod kernel_attention;
mod latent_attention;
mod linear_attention;
mod mamba;
mod mamba2;
mod mlstm;
mod moe;
mod multi_level_attention;
mod short_conv;
mod slstm;

use kinglet_models::{Adapter, Block, Conv, Linear, Matrix, Mixer, Norm, QkNorm, Rope};

use super::{Builder, Plan, StateKind};
use crate::plan::op::{self, BufferId, HeadPart, Op, Output, Prologue, Slice, StateId};

/// Lowers a branch of `block`, which reads `input`, up to what it adds to `x`: the sum of these.
pub(super) fn branch(
    builder: &mut Builder,
    input: BufferId,
    block: &Block,
    branch: &kinglet_models::Branch,
) -> Vec<Sum> {
    let b = &mut Branch { builder, input, block, input_scale: branch.input_scale };
    vec![match &branch.mixer {
        Mixer::Attention(layer) => attention::lower(b, layer),
        Mixer::LatentAttention(layer) => latent_attention::lower(b, layer),
        Mixer::Mamba(layer) => mamba::lower(b, layer),
        Mixer::Mamba2(layer) => mamba2::lower(b, layer),
        Mixer::MLstm(layer) => mlstm::lower(b, layer),
        Mixer::GatedDelta(layer) => gated_delta::lower(b, layer),
        Mixer::ShortConv(layer) => short_conv::lower(b, layer),
        Mixer::LinearAttention(layer) => linear_attention::lower(b, layer),
        Mixer::KernelAttention(layer) => kernel_attention::lower(b, layer),
        Mixer::SLstm(layer) => slstm::lower(b, layer),
        Mixer::HybridAttention(layer) => hybrid_attention::lower(b, layer),
        Mixer::MultiLevelAttention(layer) => multi_level_attention::lower(b, layer),
        Mixer::Dense(layer) => dense::lower(b, layer),
        Mixer::Moe(layer) => return moe::lower(b, layer),
    }]
}

/// Decides what depends on the ops around an op and on the slots of buffers, after all else of a plan.
pub(super) fn finish(plan: &mut Plan) {
    mlstm::defer_norms(plan);
}

/// What a branch adds to `x`.
pub(super) enum Sum {
    /// `W prologue(input)`.
    Linear {
        /// The input of the projection.
        input: Slice,
        /// The computation before the projection.
        prologue: Prologue,
        /// `W`.
        linear: Linear,
    },
    /// The down projections of experts.
    Experts {
        /// The output of the up projections.
        input: BufferId,
        /// A token's experts and their weights.
        routes: BufferId,
        /// Experts per token.
        top_k: usize,
        /// `[hidden, inner]` each.
        experts: Vec<Matrix>,
        /// The same for the expert that sees every token.
        shared: Option<Matrix>,
        /// Whether that has a weight among the routes.
        shared_gated: bool,
    },
}

impl Sum {
    /// The op that adds it to `output`, times `scale`, or that puts it there.
    pub(super) fn into_op(self, output: Slice, scale: f32, store: bool) -> Op {
        match self {
            Self::Linear { input, prologue, linear } => {
                let (linear, mode) = match store {
                    true => (linear.scaled(scale), Output::Store),
                    false => (linear, Output::Add { scale }),
                };
                Op::Linear(op::Linear { input, prologue, parts: vec![linear], output, mode })
            }
            Self::Experts { input, routes, top_k, experts, shared, shared_gated } => {
                Op::MoeDown(op::MoeDown {
                    input,
                    routes,
                    top_k,
                    experts,
                    shared,
                    shared_gated,
                    scale,
                    store,
                    output: output.buffer,
                })
            }
        }
    }
}

/// A branch that is being lowered.
struct Branch<'a> {
    builder: &'a mut Builder,
    input: BufferId,
    block: &'a Block,
    input_scale: f32,
}

impl Branch<'_> {
    /// What the block reads.
    fn input(&self) -> BufferId {
        self.input
    }

    /// The norm in front of the branch, if there is one: the block's, times the branch's factor.
    fn norm(&self) -> Option<Norm> {
        debug_assert!(self.block.norm.is_some() || self.input_scale == 1.0);
        self.block.norm.clone().map(|norm| norm.scaled(self.input_scale))
    }

    /// The same as a prologue.
    fn before(&self) -> Prologue {
        self.norm().map_or(Prologue::None, Prologue::Norm)
    }

    /// All columns of a buffer.
    fn whole(&self, buffer: BufferId) -> Slice {
        self.builder.whole(buffer)
    }

    /// Adds an op that writes a new buffer, `[T, width]`, which is passed to `op` and returned.
    fn op(
        &mut self,
        name: &'static str,
        width: usize,
        op: impl FnOnce(BufferId) -> Op,
    ) -> BufferId {
        let output = self.builder.buffer(name, width);
        let op = op(output);
        debug_assert_eq!(op.uses().writes, [output], "a branch writes nothing else");
        self.builder.ops.push(op);
        output
    }

    /// Projects the normed input with `parts`, side by side.
    fn project(&mut self, name: &'static str, parts: Vec<Linear>) -> BufferId {
        let (input, prologue) = (self.whole(self.input), self.before());
        self.linear(name, input, prologue, parts)
    }

    /// Projects `prologue(input)` with `parts`, side by side.
    fn linear(
        &mut self,
        name: &'static str,
        input: Slice,
        prologue: Prologue,
        parts: Vec<Linear>,
    ) -> BufferId {
        let width = parts.iter().map(|part| part.weight.rows).sum();
        self.op(name, width, |buffer| {
            let output = Slice { buffer, offset: 0, width };
            Op::Linear(op::Linear { input, prologue, parts, output, mode: Output::Store })
        })
    }

    /// Projects the columns `input` of each head with its own of `parts`, the results side by side.
    fn by_head(
        &mut self,
        name: &'static str,
        input: impl Fn(usize) -> Slice,
        prologue: &Prologue,
        parts: &[Linear],
    ) -> BufferId {
        let width = parts.iter().map(|part| part.weight.rows).sum();
        let buffer = self.builder.buffer(name, width);
        let mut offset = 0;
        for (head, part) in parts.iter().enumerate() {
            let width = part.weight.rows;
            self.builder.ops.push(Op::Linear(op::Linear {
                input: input(head),
                prologue: prologue.clone(),
                parts: vec![part.clone()],
                output: Slice { buffer, offset, width },
                mode: Output::Store,
            }));
            offset += width;
        }
        buffer
    }

    /// Adds `adapter`s of the normed input to columns of `buffer`, which are theirs from the first on.
    fn adapt(&mut self, buffer: BufferId, adapters: &[&Adapter]) {
        debug_assert_ne!(buffer, self.input, "a branch can't write to what others read");
        let downs = adapters.iter().map(|adapter| adapter.down.clone()).collect();
        let narrow = self.project("narrow", downs);
        let (mut from, mut to) = (0, 0);
        for Adapter { down, up } in adapters {
            let (rank, width) = (down.weight.rows, up.weight.rows);
            self.builder.ops.push(Op::Linear(op::Linear {
                input: Slice { buffer: narrow, offset: from, width: rank },
                prologue: Prologue::None,
                parts: vec![up.clone()],
                output: Slice { buffer, offset: to, width },
                mode: Output::Add { scale: 1.0 },
            }));
            (from, to) = (from + rank, to + width);
        }
    }

    /// Adds a recurrent tensor.
    fn state(&mut self, what: &str, shape: &[usize]) -> StateId {
        let kind = StateKind::Tensor { shape: shape.to_vec() };
        self.builder.state(self.block.layer, what, kind, false)
    }

    /// Adds a recurrent tensor that is always stored in f32.
    fn exact_state(&mut self, what: &str, shape: &[usize]) -> StateId {
        let kind = StateKind::Tensor { shape: shape.to_vec() };
        self.builder.state(self.block.layer, what, kind, true)
    }

    /// Adds the state of a convolution: its last inputs.
    fn conv_state(&mut self, conv: &Conv) -> StateId {
        self.conv_states(std::slice::from_ref(conv))
    }

    /// The same of convolutions side by side, with equally many taps.
    fn conv_states(&mut self, convs: &[Conv]) -> StateId {
        let held = convs.first().map_or(0, |conv| conv.kernel.saturating_sub(1));
        self.state("conv", &[held, convs.iter().map(|conv| conv.channels).sum()])
    }

    /// Adds a cache of keys and values of these widths.
    fn cache(
        &mut self,
        kv_heads: usize,
        [key_dim, value_dim]: [usize; 2],
        window: Option<usize>,
    ) -> StateId {
        let kind = StateKind::KeyValue { kv_heads, key_dim, value_dim, window, sinks: 0 };
        self.builder.state(self.block.layer, "kv", kind, false)
    }

    /// Norms and rotates the heads of width `dim` in the first columns of `input`, `queries` of queries and `keys` of keys. Returns the buffer
    /// that holds them in the same columns.
    fn heads(
        &mut self,
        input: BufferId,
        [queries, keys, dim]: [usize; 3],
        norm: Option<&QkNorm>,
        rope: Option<&Rope>,
    ) -> BufferId {
        if norm.is_none() && rope.is_none() {
            return input;
        }
        let part = |offset, width, norm: Option<&Norm>| HeadPart {
            input: Slice { buffer: input, offset, width },
            head_dim: dim,
            norm: norm.cloned(),
            rotated: rope.is_some(),
        };
        let parts = vec![
            part(0, queries, norm.map(|norm| &norm.q)),
            part(queries, keys, norm.map(|norm| &norm.k)),
        ];
        let rope = rope.cloned();
        self.op("qk", queries + keys, |output| Op::HeadNorm(op::HeadNorm { parts, rope, output }))
    }

    /// What the branch adds: `linear` of `prologue(input)`.
    fn sum(&self, input: BufferId, prologue: Prologue, linear: &Linear) -> Sum {
        Sum::Linear { input: self.whole(input), prologue, linear: linear.clone() }
    }
}
