//! [`Plan`]: how a model is computed, on any device.
//!
//! A [`ModelSpec`] is lowered once into a list of fused ops over buffers and state tensors. A plan
//! is plain data: it can be printed, compared and tested, and every backend runs the same one.
//! `plan/lower/NAME.rs` lowers each kind of layer.

#![deny(clippy::wildcard_enum_match_arm)]

pub(crate) mod estimate;
mod lower;
pub mod op;
mod state;
pub(crate) mod traffic;

use std::fmt;

use kinglet_models::{Block, Input, ModelSpec, PredictionHead, Residual, Target};

use self::op::{BufferId, Op, Slice, StateId};
pub use state::{CACHE_GROUP, State, StateFormat, StateKind};

/// How a model is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Logits per token; token ids are below this.
    pub vocab: usize,
    /// The ops, in order.
    pub ops: Vec<Op>,
    /// The buffers that the ops read and write.
    pub buffers: Vec<Buffer>,
    /// Widths of the memory areas that the buffers share, in elements per token.
    pub slots: Vec<usize>,
    /// The states that a session carries from step to step.
    pub states: Vec<State>,
}

/// A matrix `[T, width]` that lives within a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// A name for people to read.
    pub name: &'static str,
    /// Elements per token.
    pub width: usize,
    /// Its slot. Buffers whose lifetimes don't overlap share one.
    pub slot: usize,
}

impl Plan {
    /// Lowers `spec`.
    pub fn new(spec: &ModelSpec) -> Self {
        let mut builder = Builder::default();
        let x = builder.buffer("x", spec.hidden);
        let embedding = &spec.embedding;
        builder.ops.push(Op::Embed(op::Embed {
            table: Some(embedding.table.clone()),
            scale: embedding.scale,
            output: x,
        }));
        builder.ops.extend(
            embedding
                .positions
                .clone()
                .map(|table| Op::Positions(op::Positions { table, output: x })),
        );
        builder.finish(x, spec)
    }

    /// Lowers a head that predicts a further token. Each row of a step is a vector, `[2 * hidden]`:
    /// the normed embedding, then the normed output of the model.
    pub fn of_prediction_head(head: &PredictionHead) -> Self {
        let mut builder = Builder::default();
        let pair = builder.buffer("pair", head.join.weight.cols);
        builder.ops.push(Op::Embed(op::Embed { table: None, scale: 1.0, output: pair }));
        let x = builder.buffer("x", head.model.hidden);
        builder.ops.push(Op::Linear(op::Linear {
            input: builder.whole(pair),
            prologue: op::Prologue::None,
            parts: vec![head.join.clone()],
            output: builder.whole(x),
            mode: op::Output::Store,
        }));
        builder.finish(x, &head.model)
    }

    /// The residual stream that the head reads, `[T, hidden]`. Nothing overwrites it until the next
    /// step.
    pub fn stream(&self) -> Option<BufferId> {
        self.ops
            .iter()
            .rev()
            .find_map(|op| if let Op::Head(head) = op { Some(head.input) } else { None })
    }

    /// Limits attention to the last `window` positions and the first `sinks`, in layers that see
    /// more.
    pub fn with_window(mut self, window: usize, sinks: usize) -> Self {
        for op in &mut self.ops {
            let Some(cache) = op.description_mut().limit_window(window, sinks) else { continue };
            let Some(state) = self.states.get_mut(cache.0) else { continue };
            match &mut state.kind {
                StateKind::KeyValue { window: own, sinks: first, .. } => {
                    (*own, *first) = (Some(window), sinks);
                }
                StateKind::Tensor { .. } => {}
            }
        }
        self
    }

    /// Sets the formats of recurrent tensors, except for those that must be [exact](State::exact), and of key/value caches.
    pub fn with_formats(mut self, tensors: StateFormat, caches: StateFormat) -> Self {
        for state in &mut self.states {
            state.format = match state.kind {
                StateKind::Tensor { .. } if state.exact => StateFormat::F32,
                StateKind::Tensor { .. } => tensors,
                StateKind::KeyValue { .. } => caches,
            };
        }
        self
    }

    /// Gives each buffer a slot such that no two live buffers share one.
    fn share_slots(&mut self) {
        // Per buffer: the first op that writes it and the last that touches it.
        let mut lives = vec![(usize::MAX, 0); self.buffers.len()];
        for (index, op) in self.ops.iter().enumerate() {
            let uses = op.uses();
            for id in uses.reads.iter().chain(&uses.writes) {
                let (first, last) = &mut lives[id.0];
                (*first, *last) = ((*first).min(index), (*last).max(index));
            }
        }
        let mut order: Vec<usize> = (0..self.buffers.len()).collect();
        order.sort_by_key(|&id| lives[id].0);
        // Per slot: the last op of its current buffer.
        let mut busy_until: Vec<usize> = Vec::new();
        for id in order {
            let ((first, last), width) = (lives[id], self.buffers[id].width);
            let free = (0..self.slots.len()).filter(|&slot| busy_until[slot] < first);
            // The slot with the closest width wastes the least memory.
            let slot = free.min_by_key(|&slot| self.slots[slot].abs_diff(width));
            let slot = slot.unwrap_or_else(|| {
                self.slots.push(0);
                busy_until.push(0);
                self.slots.len() - 1
            });
            self.slots[slot] = self.slots[slot].max(width);
            busy_until[slot] = last;
            self.buffers[id].slot = slot;
        }
    }

    /// Bytes of a session's state at a context of `tokens` tokens.
    pub fn state_bytes(&self, tokens: usize) -> usize {
        self.states.iter().map(|state| state.bytes(tokens)).fold(0, usize::saturating_add)
    }

    /// Bytes of the buffers for a step of `tokens` tokens.
    pub fn buffer_bytes(&self, tokens: usize) -> usize {
        4 * tokens * self.slots.iter().sum::<usize>()
    }
}

/// A plan under construction.
#[derive(Default)]
struct Builder {
    ops: Vec<Op>,
    buffers: Vec<Buffer>,
    states: Vec<State>,
}

impl Builder {
    fn buffer(&mut self, name: &'static str, width: usize) -> BufferId {
        self.buffers.push(Buffer { name, width, slot: 0 });
        BufferId(self.buffers.len() - 1)
    }

    /// Adds a state named after its layer. Further ones of the same name, from other branches or
    /// blocks of that layer, are numbered.
    fn state(&mut self, layer: usize, what: &str, kind: StateKind, exact: bool) -> StateId {
        let first = format!("layer.{layer}.{what}");
        let mut name = first.clone();
        let mut number = 1;
        // A layer's states are adjacent, so earlier layers need no search.
        let prefix = format!("layer.{layer}.");
        while self
            .states
            .iter()
            .rev()
            .take_while(|state| state.name.starts_with(&prefix))
            .any(|state| state.name == name)
        {
            number += 1;
            name = format!("{first}.{number}");
        }
        self.states.push(State { name, kind, format: StateFormat::F32, exact });
        StateId(self.states.len() - 1)
    }

    /// All columns of the buffer.
    fn whole(&self, buffer: BufferId) -> Slice {
        Slice { buffer, offset: 0, width: self.buffers[buffer.0].width }
    }

    /// Adds the blocks and the head of `spec`, whose residual stream is `x`, and completes the plan.
    fn finish(mut self, x: BufferId, spec: &ModelSpec) -> Plan {
        let kept = spec.blocks.iter().any(|block| block.input == Input::WithEmbeddings);
        let embeddings = kept.then(|| self.concat("embeddings", &[x]));
        let mut streams = Streams { x, embeddings, aside: None };
        for block in &spec.blocks {
            self.block(&mut streams, block);
        }
        self.ops.push(Op::Head(op::Head {
            input: x,
            norm: Some(spec.head.norm.clone()),
            linear: spec.head.linear.clone(),
            scale: spec.head.scale,
            soft_cap: spec.head.soft_cap,
        }));
        let mut plan = Plan {
            hidden: spec.hidden,
            vocab: spec.vocab,
            ops: self.ops,
            buffers: self.buffers,
            slots: Vec::new(),
            states: self.states,
        };
        plan.share_slots();
        lower::finish(&mut plan);
        plan
    }

    /// Adds a copy of `inputs` side by side.
    fn concat(&mut self, name: &'static str, inputs: &[BufferId]) -> BufferId {
        let inputs: Vec<op::Strided> =
            inputs.iter().map(|&input| self.whole(input).into()).collect();
        let output = self.buffer(name, inputs.iter().map(|input| input.width).sum());
        self.ops.push(Op::Concat(op::Concat { inputs, output }));
        output
    }

    /// Lowers every branch before any of them adds to `x`, or to the sum that is normed before it is added.
    fn block(&mut self, streams: &mut Streams, block: &Block) {
        let x = streams.x;
        let input = match (block.input, streams.embeddings) {
            (Input::Stream, _) => x,
            (Input::Aside, _) => streams.aside.unwrap_or(x),
            (Input::WithEmbeddings, embeddings) => {
                debug_assert!(
                    embeddings.is_some(),
                    "the embeddings are kept for blocks that read them"
                );
                self.concat("both", &[x, embeddings.unwrap_or(x)])
            }
        };
        let mut lowered = Vec::new();
        for branch in &block.branches {
            let sums = lower::branch(self, input, block, branch).into_iter();
            lowered.extend(sums.map(|sum| (branch.scale, sum)));
        }
        // The branches have read `x` by now.
        let nothing = block.residual == Residual::Nothing;
        let target = match block.target {
            Target::Stream => x,
            Target::Aside if nothing => self.buffer("aside", self.buffers[x.0].width),
            Target::Aside => self.concat("aside", &[x]),
        };
        match (block.residual, block.norm.clone()) {
            (Residual::Stream | Residual::Nothing, _) => {}
            (Residual::Normed { scale }, norm) => {
                debug_assert!(norm.is_some(), "no norm for the stream");
                self.ops.extend(norm.map(|norm| {
                    Op::ResidualNorm(op::ResidualNorm { stream: target, branch: None, norm, scale })
                }));
            }
        }
        let whole = self.whole(target);
        match block.post_norm.clone() {
            // The sum of the branches is normed, then added.
            Some(norm) if !nothing => {
                let branch = self.buffer("added", whole.width);
                self.sum(lowered, self.whole(branch), 1.0, true);
                self.ops.push(Op::ResidualNorm(op::ResidualNorm {
                    stream: target,
                    branch: Some(branch),
                    norm,
                    scale: block.residual_scale,
                }));
            }
            Some(norm) => {
                self.sum(lowered, whole, 1.0, true);
                let scale = block.residual_scale;
                let norm = op::ResidualNorm { stream: target, branch: None, norm, scale };
                self.ops.push(Op::ResidualNorm(norm));
            }
            None => self.sum(lowered, whole, block.residual_scale, nothing),
        }
        self.ops.extend(block.stream_norm.clone().map(|norm| {
            Op::ResidualNorm(op::ResidualNorm { stream: target, branch: None, norm, scale: 1.0 })
        }));
        if block.target == Target::Aside {
            streams.aside = Some(target);
        }
    }

    /// Adds what branches compute, each times its factor and `scale`, to `output`; the first replaces it if `store`.
    fn sum(&mut self, sums: Vec<(f32, lower::Sum)>, output: Slice, scale: f32, store: bool) {
        for (index, (factor, sum)) in sums.into_iter().enumerate() {
            self.ops.push(sum.into_op(output, scale * factor, store && index == 0));
        }
    }
}

/// The buffers that blocks pass on.
struct Streams {
    /// The residual stream.
    x: BufferId,
    /// What it began with, if a block reads that.
    embeddings: Option<BufferId>,
    /// What the last block with [`Target::Aside`] left.
    aside: Option<BufferId>,
}

/// One line per op: number, name, buffers read and written with their widths, states, weights.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |id: &BufferId| {
            let buffer = &self.buffers[id.0];
            format!("{}[{}]@{}", buffer.name, buffer.width, buffer.slot)
        };
        let list = |ids: &[BufferId]| ids.iter().map(name).collect::<Vec<_>>().join(" ");
        for (index, op) in self.ops.iter().enumerate() {
            let uses = op.uses();
            write!(f, "{index:4}  {:<13} {}", op.name(), list(&uses.reads))?;
            write!(
                f,
                " -> {}",
                if uses.writes.is_empty() { "logits".into() } else { list(&uses.writes) }
            )?;
            for state in &uses.states {
                write!(f, "  state {}", self.states[state.0].name)?;
            }
            for matrix in &uses.matrices {
                write!(f, "  {}[{}x{}]", matrix.tensor.name, matrix.rows, matrix.cols)?;
            }
            if let Some((used, matrix)) = uses.experts.first() {
                let count = uses.experts.len();
                let (rows, cols) = (matrix.rows, matrix.cols);
                write!(
                    f,
                    "  {count} expert matrices like {}[{rows}x{cols}], {used} used",
                    matrix.tensor.name
                )?;
            }
            writeln!(f)?;
        }
        write!(f, "slots, elements per token: {:?}", self.slots)
    }
}
