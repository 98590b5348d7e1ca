//! [`Plan`]: how a model is computed, for no device in particular.
//!
//! A [`ModelSpec`] is lowered once into a list of fused ops over buffers and state tensors. A plan is plain data:
//! it can be printed, compared and tested; every backend runs the same one.

#![deny(clippy::wildcard_enum_match_arm)]

mod state;

use std::fmt;

use kinglet_models::{
    Attention, Block, Conv, Dense, MLstm, Mamba, Mamba2, Mamba2Gate, Mixer, ModelSpec, Moe,
};

use crate::op::{self, BufferId, Op, Output, Prologue, Slice, StateId};
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
    /// What the ops read and write.
    pub buffers: Vec<Buffer>,
    /// Widths of the memory areas that the buffers share, in elements per token.
    pub slots: Vec<usize>,
    /// What a session carries from step to step.
    pub states: Vec<State>,
}

/// A matrix `[T, width]` that lives within a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// What it holds, for people.
    pub name: &'static str,
    /// Elements per token.
    pub width: usize,
    /// Where it lies: buffers whose lifetimes do not meet share a slot.
    pub slot: usize,
}

impl Plan {
    /// Lowers `spec`.
    pub fn new(spec: &ModelSpec) -> Self {
        let mut builder = Builder::default();
        let x = builder.buffer("x", spec.hidden);
        let embedding = &spec.embedding;
        builder.ops.push(Op::Embed(op::Embed {
            table: embedding.table.clone(),
            scale: embedding.scale,
            output: x,
        }));
        for block in &spec.blocks {
            builder.block(x, block);
        }
        builder.ops.push(Op::Head(op::Head {
            input: x,
            norm: Some(spec.head.norm.clone()),
            linear: spec.head.linear.clone(),
            scale: spec.head.scale,
            soft_cap: spec.head.soft_cap,
        }));
        let mut plan = Self {
            hidden: spec.hidden,
            vocab: spec.vocab,
            ops: builder.ops,
            buffers: builder.buffers,
            slots: Vec::new(),
            states: builder.states,
        };
        plan.share_slots();
        plan
    }

    /// The same with attention to the last `window` positions and the first `sinks` only, in layers that see more.
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

    /// The same with recurrent tensors and key/value caches that are stored so.
    pub fn with_formats(mut self, tensors: StateFormat, caches: StateFormat) -> Self {
        for state in &mut self.states {
            state.format = match state.kind {
                StateKind::Tensor { .. } => tensors,
                StateKind::KeyValue { .. } => caches,
            };
        }
        self
    }

    /// Gives each buffer a slot such that no two that are alive at the same time share one.
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
        // Per slot: the last op of its present tenant.
        let mut busy_until: Vec<usize> = Vec::new();
        for id in order {
            let ((first, last), width) = (lives[id], self.buffers[id].width);
            let free = (0..self.slots.len()).filter(|&slot| busy_until[slot] < first);
            // The slot whose width fits best wastes the least memory.
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

    /// Bytes of state that a session holds at a context of `tokens`.
    pub fn state_bytes(&self, tokens: usize) -> usize {
        self.states.iter().map(|state| state.bytes(tokens)).fold(0, usize::saturating_add)
    }

    /// Bytes of buffers that a step over `tokens` needs.
    pub fn buffer_bytes(&self, tokens: usize) -> usize {
        4 * tokens * self.slots.iter().sum::<usize>()
    }
}

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

    fn state(&mut self, layer: usize, what: &str, shape: &[usize]) -> StateId {
        let kind = StateKind::Tensor { shape: shape.to_vec() };
        self.states.push(State {
            name: format!("layer.{layer}.{what}"),
            kind,
            format: StateFormat::F32,
        });
        StateId(self.states.len() - 1)
    }

    fn conv_state(&mut self, layer: usize, conv: &Conv) -> StateId {
        self.state(layer, "conv", &[conv.kernel.saturating_sub(1), conv.channels])
    }

    /// All of the buffer.
    fn whole(&self, buffer: BufferId) -> Slice {
        Slice { buffer, offset: 0, width: self.buffers[buffer.0].width }
    }

    /// `x += scale * W prologue(input)`.
    fn add_linear(
        &mut self,
        x: BufferId,
        input: BufferId,
        prologue: Prologue,
        linear: &kinglet_models::Linear,
        scale: f32,
    ) {
        self.ops.push(Op::Linear(op::Linear {
            input: self.whole(input),
            prologue,
            parts: vec![linear.clone()],
            output: x,
            mode: Output::Add { scale },
        }));
    }

    /// Branches run one after the other but must all see the `x` from before the block: what reads `x` comes first,
    /// what adds to it last.
    fn block(&mut self, x: BufferId, block: &Block) {
        let mut adds = Vec::new();
        for branch in &block.branches {
            let scale = block.residual_scale * branch.scale;
            match &branch.mixer {
                Mixer::Attention(attention) => self.attention(x, block, attention, scale),
                Mixer::Mamba(mamba) => self.mamba(x, block, mamba, scale),
                Mixer::Mamba2(mamba2) => self.mamba2(x, block, mamba2, scale),
                Mixer::MLstm(mlstm) => self.mlstm(x, block, mlstm, scale),
                Mixer::Dense(dense) => self.dense(x, block, dense, scale),
                Mixer::Moe(moe) => self.moe(x, block, moe, scale),
            }
            adds.extend(self.ops.pop());
        }
        self.ops.append(&mut adds);
    }

    fn projections(
        &mut self,
        name: &'static str,
        x: BufferId,
        block: &Block,
        parts: Vec<kinglet_models::Linear>,
    ) -> BufferId {
        let output = self.buffer(name, parts.iter().map(|part| part.weight.rows).sum());
        self.ops.push(Op::Linear(op::Linear {
            input: self.whole(x),
            prologue: Prologue::Norm(block.norm.clone()),
            parts,
            output,
            mode: Output::Store,
        }));
        output
    }

    fn attention(&mut self, x: BufferId, block: &Block, a: &Attention, scale: f32) {
        let parts = vec![a.q.clone(), a.k.clone(), a.v.clone()];
        let input = self.projections("qkv", x, block, parts);
        self.states.push(State {
            name: format!("layer.{}.kv", block.layer),
            kind: StateKind::KeyValue {
                kv_heads: a.kv_heads,
                head_dim: a.head_dim,
                window: a.window,
                sinks: 0,
            },
            format: StateFormat::F32,
        });
        let cache = StateId(self.states.len() - 1);
        let output = self.buffer("attended", a.heads * a.head_dim);
        self.ops.push(Op::Attention(op::Attention {
            input,
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            scale: a.scale,
            qk_norm: a.qk_norm.clone(),
            clip: a.clip,
            rope: a.rope.clone(),
            window: a.window,
            sinks: 0,
            cache,
            output,
        }));
        self.add_linear(x, output, Prologue::None, &a.o, scale);
    }

    fn mamba(&mut self, x: BufferId, block: &Block, m: &Mamba, scale: f32) {
        let xz = self.projections("xz", x, block, vec![m.in_proj.clone()]);
        let convolved = self.buffer("convolved", m.inner);
        let conv_state = self.conv_state(block.layer, &m.conv);
        self.ops.push(Op::Conv1d(op::Conv1d {
            input: Slice { buffer: xz, offset: 0, width: m.inner },
            conv: m.conv.clone(),
            state: conv_state,
            output: convolved,
        }));
        let rbc = self.buffer("rbc", m.dt_rank + 2 * m.state);
        self.ops.push(Op::Linear(op::Linear {
            input: self.whole(convolved),
            prologue: Prologue::None,
            parts: vec![m.x_proj.clone()],
            output: rbc,
            mode: Output::Store,
        }));
        let dt = self.buffer("dt", m.inner);
        self.ops.push(Op::Linear(op::Linear {
            input: Slice { buffer: rbc, offset: 0, width: m.dt_rank },
            prologue: match m.bcdt_norm_eps {
                Some(eps) => Prologue::PlainNorm { eps },
                None => Prologue::None,
            },
            parts: vec![m.dt_proj.clone()],
            output: dt,
            mode: Output::Store,
        }));
        let state = self.state(block.layer, "ssm", &[m.state, m.inner]);
        let output = self.buffer("scanned", m.inner);
        self.ops.push(Op::MambaScan(op::MambaScan {
            x: convolved,
            z: Slice { buffer: xz, offset: m.inner, width: m.inner },
            dt,
            b: Slice { buffer: rbc, offset: m.dt_rank, width: m.state },
            c: Slice { buffer: rbc, offset: m.dt_rank + m.state, width: m.state },
            bc_norm_eps: m.bcdt_norm_eps,
            a_log: m.a_log.clone(),
            d: m.d.clone(),
            inner: m.inner,
            state_dim: m.state,
            state,
            output,
        }));
        self.add_linear(x, output, Prologue::None, &m.out_proj, scale);
    }

    fn mamba2(&mut self, x: BufferId, block: &Block, m: &Mamba2, scale: f32) {
        let input = self.projections("zxbcdt", x, block, vec![m.in_proj.clone()]);
        let inner = m.heads * m.head_dim;
        let conv_state = self.conv_state(block.layer, &m.conv);
        let state = self.state(block.layer, "ssm", &[m.heads, m.state, m.head_dim]);
        let output = self.buffer("scanned", inner);
        self.ops.push(Op::Mamba2Scan(op::Mamba2Scan {
            input,
            conv: m.conv.clone(),
            a_log: m.a_log.clone(),
            d: m.d.clone(),
            dt_bias: m.dt_bias.clone(),
            dt_limit: m.dt_limit,
            heads: m.heads,
            head_dim: m.head_dim,
            groups: m.groups,
            state_dim: m.state,
            conv_state,
            state,
            output,
        }));
        let gate = Slice { buffer: input, offset: 0, width: inner };
        let prologue = match &m.gate {
            Mamba2Gate::Silu => Prologue::SiluGate { gate },
            Mamba2Gate::NormAfter { norm, groups } => {
                Prologue::GatedNorm { gate, norm: norm.clone(), groups: *groups }
            }
        };
        self.add_linear(x, output, prologue, &m.out_proj, scale);
    }

    fn mlstm(&mut self, x: BufferId, block: &Block, m: &MLstm, scale: f32) {
        let parts = [&m.q, &m.k, &m.v, &m.ogate, &m.igate, &m.fgate];
        let input = self.projections("qkvoif", x, block, parts.map(Clone::clone).to_vec());
        let head_state = m.qk_head_dim * m.v_head_dim + m.qk_head_dim + 1;
        let state = self.state(block.layer, "mlstm", &[m.heads, head_state]);
        let output = self.buffer("scanned", m.heads * m.v_head_dim);
        self.ops.push(Op::MLstmScan(op::MLstmScan {
            input,
            heads: m.heads,
            qk_head_dim: m.qk_head_dim,
            v_head_dim: m.v_head_dim,
            gate_soft_cap: m.gate_soft_cap,
            eps: m.eps,
            head_norm: m.head_norm.clone(),
            state,
            output,
        }));
        self.add_linear(x, output, Prologue::None, &m.out_proj, scale);
    }

    fn dense(&mut self, x: BufferId, block: &Block, d: &Dense, scale: f32) {
        let output = self.buffer("inner", d.gate.weight.rows);
        self.ops.push(Op::GatedLinear(op::GatedLinear {
            input: x,
            norm: block.norm.clone(),
            gate: d.gate.clone(),
            up: d.up.clone(),
            activation: d.activation,
            output,
        }));
        self.add_linear(x, output, Prologue::None, &d.down, scale);
    }

    fn moe(&mut self, x: BufferId, block: &Block, m: &Moe, scale: f32) {
        let routes = self.buffer("routes", 2 * m.top_k);
        self.ops.push(Op::MoeRoute(op::MoeRoute {
            input: x,
            norm: block.norm.clone(),
            router: m.router.clone(),
            top_k: m.top_k,
            renormalize: m.renormalize,
            output: routes,
        }));
        let pair = |dense: &Dense| (dense.gate.weight.clone(), dense.up.weight.clone());
        let mut up = op::MoeUp {
            input: x,
            norm: block.norm.clone(),
            routes,
            top_k: m.top_k,
            experts: m.experts.iter().map(pair).collect(),
            shared: m.shared.as_ref().map(pair),
            activation: m
                .experts
                .first()
                .map_or(kinglet_models::Activation::Silu, |e| e.activation),
            output: routes,
        };
        up.output = self.buffer("inner", m.top_k * up.inner() + up.shared_inner());
        let input = up.output;
        self.ops.push(Op::MoeUp(up));
        self.ops.push(Op::MoeDown(op::MoeDown {
            input,
            routes,
            top_k: m.top_k,
            experts: m.experts.iter().map(|expert| expert.down.weight.clone()).collect(),
            shared: m.shared.as_ref().map(|dense| dense.down.weight.clone()),
            scale,
            output: x,
        }));
    }
}

/// One line an op: number, name, buffers read and written with their widths, states, weights.
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
