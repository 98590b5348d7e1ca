//! A plan as dispatches: what each op's file adds to a [`Builder`], and what a step records.

use std::collections::HashMap;
use std::sync::Arc;

use kinglet_models::{self as spec, Norm, TensorSpec};
use kinglet_shaders::{Arithmetic, Kernel, Variant, WeightType};

use super::device::{CompiledKernel, Device};
use super::layout::Layout;
use super::params::{ABSENT, Params};
use super::upload::{Piece, Section, Uploader};
use crate::Error;
use crate::op::{BufferId, Prologue, Slice, StateId};
use crate::plan::Plan;
use crate::weights::{MatrixData, Weights};

/// Most tokens of a step that are computed one by one; more go in tiles.
pub(super) const FEW: usize = 4;
/// Elements of which a prepared token, and each part of it, is a multiple: what tiles take at once.
pub(super) const PREPARED: usize = 64;
/// Threads of a workgroup of the form for few tokens; the fewest that share rows; rows that they share.
const THREADS: usize = 256;
const LANES: usize = 32;
const SHARED_ROWS: usize = 4;
/// Workgroups that keep a large device busy: measured on one of 132 multiprocessors.
const ENOUGH: usize = 132;
/// Tokens, or rows of what lies between kernels, of a tile of the scans and of attention.
const SIDE: usize = 64;
/// Bytes of `Step` in the kernels.
pub(super) const STEP_BYTES: u64 = 16;

/// What a kernel's binding is.
#[derive(Clone)]
pub(super) enum Resource {
    Buffer(wgpu::Buffer),
    /// Part of a session's state: tensors have part 0, caches keys in part 0 and values in part 1.
    State(StateId, usize),
}

/// A buffer, or some of its bytes.
pub(super) struct Part {
    pub buffer: wgpu::Buffer,
    pub offset: u64,
    /// Up to the end, if not given.
    pub size: Option<wgpu::BufferSize>,
}

impl Part {
    pub(super) fn whole(buffer: &wgpu::Buffer) -> Self {
        Self { buffer: buffer.clone(), offset: 0, size: None }
    }
}

/// How many workgroups there are along an axis.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    Fixed(usize),
    /// As many as tokens, times this.
    Tokens(usize),
    /// As many as tiles of this many tokens.
    Tiles(usize),
    /// At least as many as tiles of tokens grouped by expert.
    Groups(Groups),
    /// As many as tiles of rows, of which a token has this many.
    Rows(usize),
}

/// Tokens grouped by expert, in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Groups {
    /// Most tokens of a tile.
    pub side: usize,
    pub experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// Whether there is an expert of all tokens besides.
    pub shared: bool,
}

impl Groups {
    /// Most tiles that there can be: each expert has at most one that isn't full.
    pub(super) fn tiles(self, tokens: usize) -> usize {
        let places = tokens * self.top_k;
        let shared = if self.shared { tokens.div_ceil(self.side) } else { 0 };
        places / self.side + self.experts.min(places) + shared
    }
}

impl Extent {
    fn of(self, tokens: usize) -> usize {
        match self {
            Self::Fixed(count) => count,
            Self::Tokens(times) => tokens * times,
            Self::Tiles(side) => tokens.div_ceil(side),
            Self::Groups(groups) => groups.tiles(tokens),
            Self::Rows(times) => (tokens * times).div_ceil(SIDE),
        }
    }
}

/// What a dispatch is recorded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Once for all tokens of a step.
    Step,
    /// For each run by itself, with its session's state.
    Runs,
    /// For some of the wanted logits at a time.
    Logits,
}

/// For which numbers of tokens, of the step or of the run, a dispatch is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    Few,
    Many,
    /// From the first to the last of these numbers.
    Between(usize, usize),
}

impl When {
    fn holds(self, tokens: usize) -> bool {
        match self {
            Self::Always => true,
            Self::Few => tokens <= FEW,
            Self::Many => tokens > FEW,
            Self::Between(first, last) => (first..=last).contains(&tokens),
        }
    }
}

/// One dispatch of a step.
pub(super) struct Dispatch {
    pub kernel: Arc<CompiledKernel>,
    /// In the order of the kernel's bindings.
    pub resources: Vec<Resource>,
    /// Without [`Resource::State`], made once.
    pub bind_group: Option<wgpu::BindGroup>,
    pub groups: [Extent; 2],
    pub over: Over,
    pub when: When,
}

impl Dispatch {
    /// The states that it works on.
    pub(super) fn states(&self) -> impl Iterator<Item = StateId> {
        self.resources.iter().filter_map(|resource| match resource {
            Resource::State(id, _) => Some(*id),
            Resource::Buffer(_) => None,
        })
    }

    /// Whether it is recorded where `tokens` are computed together.
    pub(super) fn holds(&self, tokens: usize) -> bool {
        self.when.holds(tokens)
    }

    /// Workgroups along x and y.
    pub(super) fn groups(&self, tokens: usize) -> [u32; 2] {
        // Bounded when the program was built.
        self.groups.map(|extent| extent.of(tokens) as u32)
    }

    /// The bindings, with the parts of a session's state from `state`.
    pub(super) fn bind(
        &self,
        device: &Device,
        state: impl Fn(StateId, usize) -> Option<Part>,
    ) -> Result<wgpu::BindGroup, Error> {
        let mut parts = Vec::new();
        for resource in &self.resources {
            parts.push(match resource {
                Resource::Buffer(buffer) => Part::whole(buffer),
                Resource::State(id, part) => state(*id, *part)
                    .ok_or_else(|| device.fault("a kernel without a session's state"))?,
            });
        }
        let bindings = self.kernel.metadata.bindings;
        let entries: Vec<_> = (0..)
            .zip(bindings.iter().zip(&parts))
            .map(|(number, (binding, part))| wgpu::BindGroupEntry {
                binding: number,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &part.buffer,
                    offset: part.offset,
                    size: (binding.name == "step").then_some(STEP_SIZE).flatten().or(part.size),
                }),
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor {
            label: Some(&self.kernel.name),
            layout: &self.kernel.layout,
            entries: &entries,
        };
        let create = || device.device.create_bind_group(&descriptor);
        match device.caught(wgpu::ErrorFilter::Validation, create) {
            (_, Some(error)) => Err(device.fault(format!("{}: {error}", self.kernel.name))),
            (group, None) => Ok(group),
        }
    }
}

const STEP_SIZE: Option<wgpu::BufferSize> = wgpu::BufferSize::new(STEP_BYTES);

/// Memory that all dispatches share.
pub(super) struct Memory {
    /// The plan's slots, `[chunk, width]`.
    pub slots: Vec<wgpu::Buffer>,
    /// `[chunk]`: the step's tokens.
    pub tokens: wgpu::Buffer,
    /// `[chunk]`: rows whose logits are wanted.
    pub wanted: wgpu::Buffer,
    /// The kernels' `Step`s, one every `step_stride` bytes.
    pub step: wgpu::Buffer,
    /// Inputs of tiled projections, made ready.
    pub prepared: wgpu::Buffer,
    /// `[chunk]`: what products with inputs in f16 are multiplied with.
    pub factors: wgpu::Buffer,
    /// Queries of an attention layer, made ready.
    pub queries: wgpu::Buffer,
    /// `[logit_rows, vocab]`.
    pub logits: wgpu::Buffer,
    pub scratch: Scratch,
}

/// What the dispatches of an op hand one another: see [`super::scratch`].
#[derive(Clone)]
pub(super) struct Scratch {
    pub tokens: wgpu::Buffer,
    pub squares: wgpu::Buffer,
    pub states: wgpu::Buffer,
    pub chunks: wgpu::Buffer,
    /// Zeros between dispatches.
    pub counters: wgpu::Buffer,
}

/// Cosines and sines of the positions of a step, for all layers that rotate alike.
pub(super) struct Rotation {
    pub rope: spec::Rope,
    /// `[chunk, pairs]` of cosine and sine.
    pub buffer: wgpu::Buffer,
}

/// A plan becoming dispatches.
pub(super) struct Builder<'a> {
    pub device: &'a Arc<Device>,
    pub plan: &'a Plan,
    pub weights: &'a Weights,
    pub memory: &'a Memory,
    pub chunk: usize,
    /// Whether activations must stay as they are.
    pub exact: bool,
    pub dispatches: Vec<Dispatch>,
    pub rotations: Vec<Rotation>,
    /// What the experts of many tokens need, and for which of that the last routes were grouped.
    pub grouping: super::grouped::Grouping,
    uploader: Uploader,
    /// What is there already: a tied head is the embedding's table.
    uploaded: HashMap<Vec<(String, usize, usize)>, Vec<Piece>>,
}

/// The op's small tensors, one behind the other.
#[derive(Default)]
pub(super) struct Vectors(Vec<f32>);

impl Vectors {
    pub(super) fn push(&mut self, values: &[f32]) -> u32 {
        // Some kernels read them four at a time.
        self.0.resize(self.0.len().next_multiple_of(4), 0.0);
        let offset = self.0.len() as u32;
        self.0.extend_from_slice(values);
        offset
    }
}

/// A prologue's parameters, its vectors already among the op's.
pub(super) struct Before {
    kind: usize,
    pub input: Slice,
    gate: Slice,
    weight: u32,
    bias: u32,
    groups: usize,
    eps: f32,
}

/// Most groups of a gated norm that kernels have room for.
const MAX_GROUPS: usize = 512;

impl<'a> Builder<'a> {
    pub(super) fn new(
        device: &'a Arc<Device>,
        plan: &'a Plan,
        weights: &'a Weights,
        memory: &'a Memory,
        chunk: usize,
        exact: bool,
    ) -> Self {
        Self {
            exact,
            device,
            plan,
            weights,
            memory,
            chunk,
            dispatches: Vec::new(),
            rotations: Vec::new(),
            grouping: Default::default(),
            uploader: Uploader::new(device.clone()),
            uploaded: HashMap::new(),
        }
    }

    /// Waits for the weights, and gives what was built.
    pub(super) fn finish(mut self) -> Result<(Vec<Dispatch>, Vec<Rotation>), Error> {
        self.uploader.finish()?;
        Ok((self.dispatches, self.rotations))
    }

    /// The memory of a buffer.
    pub(super) fn buffer(&self, id: BufferId) -> Resource {
        Resource::Buffer(self.memory.slots[self.plan.buffers[id.0].slot].clone())
    }

    /// Elements from one token to the next.
    pub(super) fn width(&self, id: BufferId) -> usize {
        self.plan.buffers[id.0].width
    }

    pub(super) fn whole(&self, buffer: BufferId) -> Slice {
        Slice { buffer, offset: 0, width: self.width(buffer) }
    }

    pub(super) fn vector(&self, vectors: &mut Vectors, tensor: &TensorSpec) -> Result<u32, Error> {
        Ok(vectors.push(&self.weights.vector(tensor)?))
    }

    pub(super) fn optional(
        &self,
        vectors: &mut Vectors,
        tensor: Option<&TensorSpec>,
    ) -> Result<u32, Error> {
        tensor.map_or(Ok(ABSENT), |tensor| self.vector(vectors, tensor))
    }

    /// The biases of projections whose rows are stacked, zeros for those that have none; [`ABSENT`] where none has.
    pub(super) fn biases(
        &self,
        vectors: &mut Vectors,
        parts: &[spec::Linear],
    ) -> Result<u32, Error> {
        if parts.iter().all(|part| part.bias.is_none()) {
            return Ok(ABSENT);
        }
        let mut all = Vec::new();
        for part in parts {
            match &part.bias {
                Some(bias) => all.extend(self.weights.vector(bias)?),
                None => all.resize(all.len() + part.weight.rows, 0.0),
            }
        }
        Ok(vectors.push(&all))
    }

    /// A buffer with the op's small tensors.
    pub(super) fn vectors(&self, vectors: &Vectors) -> Result<Resource, Error> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = self.device.buffer("small tensors", 4 * vectors.0.len() as u64, usage)?;
        if !vectors.0.is_empty() {
            self.device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&vectors.0));
        }
        Ok(Resource::Buffer(buffer))
    }

    pub(super) fn matrix(&self, matrix: &spec::Matrix) -> Result<MatrixData, Error> {
        Ok(self.weights.matrix(matrix)?)
    }

    /// Uploads a section of which each item takes one row of each of `stacks` (see [`Section`]), unless it is there already.
    pub(super) fn rows(&mut self, stacks: &[&[spec::Matrix]]) -> Result<Vec<Piece>, Error> {
        let key: Vec<_> = stacks
            .iter()
            .flat_map(|stack| {
                // A mark between stacks, which no tensor is called.
                let names = stack.iter().map(|m| (m.tensor.name.clone(), m.row_offset, m.rows));
                names.chain([(String::new(), 0, 0)])
            })
            .collect();
        if let Some(pieces) = self.uploaded.get(&key) {
            return Ok(pieces.clone());
        }
        let mut data = Vec::new();
        for stack in stacks {
            data.push(stack.iter().map(|m| self.matrix(m)).collect::<Result<_, Error>>()?);
        }
        let rows = stacks.first().map_or(0, |stack| stack.iter().map(|matrix| matrix.rows).sum());
        let section = Section { stacks: data, rows_per_item: 1 };
        let layout = Layout::common(section.matrices());
        let pieces = self.pieces(layout, &[section], rows)?;
        self.uploaded.insert(key, pieces.clone());
        Ok(pieces)
    }

    pub(super) fn pieces(
        &mut self,
        layout: Layout,
        sections: &[Section],
        items: usize,
    ) -> Result<Vec<Piece>, Error> {
        self.uploader.pieces(layout, sections, items)
    }

    /// What stands before a projection of `input`.
    pub(super) fn before(
        &self,
        vectors: &mut Vectors,
        input: Slice,
        prologue: &Prologue,
    ) -> Result<Before, Error> {
        let plain = Before {
            kind: 0,
            input,
            gate: input,
            weight: ABSENT,
            bias: ABSENT,
            groups: 1,
            eps: 0.0,
        };
        Ok(match prologue {
            Prologue::None => plain,
            Prologue::Norm(norm) => self.norm(vectors, input, Some(norm))?,
            Prologue::PlainNorm { eps } => Before { kind: 1, eps: *eps, ..plain },
            Prologue::SiluGate { gate } => Before { kind: 2, gate: *gate, ..plain },
            Prologue::GatedNorm { gate, norm, groups } => {
                if *groups > MAX_GROUPS {
                    return Err(Error::DeviceLimit {
                        what: "a norm in groups".into(),
                        needed: *groups as u64,
                        limit: MAX_GROUPS as u64,
                    });
                }
                Before {
                    kind: if *groups == 1 { 3 } else { 5 },
                    gate: *gate,
                    weight: self.vector(vectors, &norm.weight)?,
                    groups: *groups,
                    eps: norm.eps,
                    ..plain
                }
            }
        })
    }

    /// A norm, or nothing, before a projection of `input`.
    pub(super) fn norm(
        &self,
        vectors: &mut Vectors,
        input: Slice,
        norm: Option<&Norm>,
    ) -> Result<Before, Error> {
        let Some(norm) = norm else { return self.before(vectors, input, &Prologue::None) };
        let weight = self.vector(vectors, &norm.weight)?;
        let bias = self.optional(vectors, norm.bias.as_ref())?;
        let kind = if norm.bias.is_some() { 4 } else { 1 };
        Ok(Before { kind, input, gate: input, weight, bias, groups: 1, eps: norm.eps })
    }

    /// Sets a kernel's `prologue`.
    pub(super) fn set_before(&self, params: &mut Params, before: &Before) {
        params
            .set("prologue.kind", before.kind)
            .set("prologue.cols", before.input.width)
            .set("prologue.input_offset", before.input.offset)
            .set("prologue.input_stride", self.width(before.input.buffer))
            .set("prologue.gate_offset", before.gate.offset)
            .set("prologue.gate_stride", self.width(before.gate.buffer))
            .set_u32("prologue.weight", before.weight)
            .set_u32("prologue.bias", before.bias)
            .set("prologue.groups", before.groups)
            .set_f32("prologue.eps", before.eps);
    }

    /// The bindings that a prologue needs.
    pub(super) fn before_resources(
        &self,
        before: &Before,
        vectors: &Resource,
    ) -> Vec<(&'static str, Resource)> {
        vec![
            ("input", self.buffer(before.input.buffer)),
            ("gate", self.buffer(before.gate.buffer)),
            ("vectors", vectors.clone()),
        ]
    }

    /// Makes the input of tiled projections ready in [`Memory::prepared`], for kernels that multiply with `arithmetic`.
    pub(super) fn prepare(
        &mut self,
        before: &Before,
        vectors: &Resource,
        prepare: Prepare,
    ) -> Result<(), Error> {
        let mut resources = self.before_resources(before, vectors);
        resources.push(("wanted", Resource::Buffer(self.memory.wanted.clone())));
        resources.push(("output", Resource::Buffer(self.memory.prepared.clone())));
        resources.push(("factors", Resource::Buffer(self.memory.factors.clone())));
        let over = if prepare.logits { Over::Logits } else { Over::Step };
        self.dispatch_as(
            Variant::new(
                Kernel::Prepare,
                WeightType::F32,
                self.device.reduction,
                prepare.arithmetic(),
            ),
            |builder, params| {
                builder.set_before(params, before);
                params
                    .set("output_stride", prepare.stride(before.input.width))
                    .set("chosen", usize::from(prepare.logits))
                    .set("parts", prepare.parts)
                    .set("part", prepare.part)
                    .set("part_stride", prepare.part.max(1).next_multiple_of(PREPARED));
            },
            resources,
            [Extent::Tokens(1), Extent::Fixed(1)],
            (over, When::Many),
        )
    }

    /// Adds the dispatches of a projection in all its forms: for few tokens, by small tiles and by tiles. They share all
    /// parameters but those of their inputs.
    pub(super) fn projection(
        &mut self,
        [few, small, many]: [Kernel; 3],
        projection: &Projection<'_>,
        set: impl Fn(&mut Params, &Piece),
    ) -> Result<(), Error> {
        let Projection { before, vectors, pieces, output, over, share } = projection;
        for piece in *pieces {
            let mut resources = self.before_resources(before, vectors);
            resources.push(("weights", Resource::Buffer(piece.buffer.clone())));
            resources.push(("output", output.clone()));
            let rows = piece.items.len();
            let stored = self.stored(piece.weights, before);
            let lanes = self.lanes(few, stored, share * rows, before.input.width);
            self.dispatch(
                few,
                stored,
                |builder, params| {
                    builder.set_before(params, before);
                    params.set("lanes", lanes);
                    set(params, piece);
                },
                resources,
                [Extent::Fixed((share * rows).div_ceil(rows_of(lanes))), Extent::Tokens(1)],
                (*over, When::Few),
            )?;
        }
        // Pieces of a matrix are stored alike.
        let Some(piece) = pieces.first() else { return Ok(()) };
        let half = self.arithmetic(many, piece.weights.into()) != Arithmetic::F32;
        let prepare = Prepare { logits: *over == Over::Logits, half, parts: 0, part: 0 };
        self.prepare(before, vectors, prepare)?;
        for piece in *pieces {
            let rows = share * piece.items.len();
            let tile = self.tile(many, piece.weights)?;
            // A tile that is not half full costs as much as two small ones.
            let some = tile.tokens / 2;
            for (kernel, when) in
                [(small, When::Between(FEW + 1, some)), (many, When::Between(some + 1, usize::MAX))]
            {
                let resources = vec![
                    ("vectors", (*vectors).clone()),
                    ("prepared", Resource::Buffer(self.memory.prepared.clone())),
                    ("factors", Resource::Buffer(self.memory.factors.clone())),
                    ("weights", Resource::Buffer(piece.buffer.clone())),
                    ("output", output.clone()),
                ];
                let tile = self.tile(kernel, piece.weights)?;
                self.dispatch(
                    kernel,
                    piece.weights,
                    |_, params| {
                        params
                            .set("tiles.cols", before.input.width)
                            .set("tiles.stride", prepare.stride(before.input.width));
                        set(params, piece);
                    },
                    resources,
                    [Extent::Fixed(rows.div_ceil(tile.rows)), Extent::Tiles(tile.tokens)],
                    (*over, when),
                )?;
            }
        }
        Ok(())
    }

    /// The tile of a kernel.
    pub(super) fn tile(&self, kernel: Kernel, weights: WeightType) -> Result<Tile, Error> {
        let arithmetic = self.arithmetic(kernel, weights.into());
        let variant = Variant::new(kernel, weights, self.device.reduction, arithmetic);
        match kinglet_shaders::metadata(variant).map(|metadata| metadata.tile) {
            Some([tokens, rows]) if tokens > 0 && rows > 0 => {
                Ok(Tile { tokens: tokens as usize, rows: rows as usize })
            }
            _ => Err(self.device.fault(format!("{} has no tiles", variant.name()))),
        }
    }

    pub(super) fn arithmetic(&self, kernel: Kernel, stored: Stored) -> Arithmetic {
        self.device.arithmetic(kernel, stored.weights, self.exact || !stored.aligned)
    }

    /// Weights of this type for a projection behind `before`.
    pub(super) fn stored(&self, weights: WeightType, before: &Before) -> Stored {
        let four = |slice: Slice| {
            slice.offset.is_multiple_of(4) && self.width(slice.buffer).is_multiple_of(4)
        };
        Stored { weights, aligned: four(before.input) && four(before.gate) }
    }

    /// Threads that share rows in the form for few tokens, where a token's `rows` of `cols` are computed: few rows are shared by
    /// more threads, so that there are enough workgroups for all of the device.
    pub(super) fn lanes(&self, kernel: Kernel, stored: Stored, rows: usize, cols: usize) -> usize {
        let (unit, piece) = match self.arithmetic(kernel, stored) {
            Arithmetic::Int8 => (32, 7168),
            _ => (stored.weights.unit(), 1024),
        };
        let most = cols.min(piece).div_ceil(unit);
        let mut lanes = LANES;
        while lanes < THREADS && 2 * lanes <= most && rows.div_ceil(rows_of(lanes)) < ENOUGH {
            lanes *= 2;
        }
        lanes
    }

    /// Adds a dispatch. Bindings of the name `step`, `tokens` and `wanted` are known here.
    pub(super) fn dispatch(
        &mut self,
        kernel: Kernel,
        stored: impl Into<Stored>,
        set: impl FnOnce(&Self, &mut Params),
        resources: Vec<(&'static str, Resource)>,
        groups: [Extent; 2],
        when: (Over, When),
    ) -> Result<(), Error> {
        let stored = stored.into();
        let arithmetic = self.arithmetic(kernel, stored);
        let variant = Variant::new(kernel, stored.weights, self.device.reduction, arithmetic);
        self.dispatch_as(variant, set, resources, groups, when)
    }

    /// Adds a dispatch of a variant that the caller has chosen.
    fn dispatch_as(
        &mut self,
        variant: Variant,
        set: impl FnOnce(&Self, &mut Params),
        resources: Vec<(&'static str, Resource)>,
        groups: [Extent; 2],
        (over, when): (Over, When),
    ) -> Result<(), Error> {
        let kernel = self.device.kernel(variant)?;
        for extent in groups {
            let most = extent.of(self.chunk);
            if most > self.device.max_groups as usize {
                return Err(Error::DeviceLimit {
                    what: format!("the kernel {}, in workgroups,", kernel.name),
                    needed: most as u64,
                    limit: u64::from(self.device.max_groups),
                });
            }
        }
        let mut params = Params::new(kernel.metadata.params, kernel.metadata.params_bytes);
        set(self, &mut params);
        let params = params
            .finish()
            .map_err(|message| self.device.fault(format!("{}: {message}", kernel.name)))?;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniform = self.device.buffer("parameters", params.len() as u64, usage)?;
        self.device.queue.write_buffer(&uniform, 0, &params);
        let mut ordered = Vec::new();
        for binding in kernel.metadata.bindings {
            let given = resources.iter().find(|(name, _)| *name == binding.name);
            let own = match binding.name {
                "params" => Some(&uniform),
                "step" => Some(&self.memory.step),
                "tokens" => Some(&self.memory.tokens),
                "wanted" => Some(&self.memory.wanted),
                _ => None,
            };
            let resource = given
                .map(|(_, resource)| resource.clone())
                .or_else(|| own.map(|buffer| Resource::Buffer(buffer.clone())));
            ordered.push(resource.ok_or_else(|| {
                self.device.fault(format!("{}: nothing for {}", kernel.name, binding.name))
            })?);
        }
        let mut dispatch =
            Dispatch { kernel, resources: ordered, bind_group: None, groups, over, when };
        if over != Over::Runs {
            dispatch.bind_group = Some(dispatch.bind(self.device, |_, _| None)?);
        }
        self.dispatches.push(dispatch);
        Ok(())
    }
}

/// How a kernel meets its weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub weights: WeightType,
    /// Whether the input can be read four elements at a time.
    pub aligned: bool,
}

impl From<WeightType> for Stored {
    fn from(weights: WeightType) -> Self {
        Self { weights, aligned: true }
    }
}

/// Rows of weights that a workgroup of the form for few tokens computes.
pub(super) fn rows_of(lanes: usize) -> usize {
    THREADS / lanes * SHARED_ROWS
}

/// Tokens and rows of weights of a workgroup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub tokens: usize,
    pub rows: usize,
}

/// How the input of tiled projections is made ready.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepare {
    /// Whether the rows are those whose logits are wanted.
    pub logits: bool,
    /// Whether it becomes f16.
    pub half: bool,
    /// Parts that are aligned by themselves, and their width; what remains is one more.
    pub parts: usize,
    pub part: usize,
}

impl Prepare {
    fn arithmetic(self) -> Arithmetic {
        if self.half { Arithmetic::F16 } else { Arithmetic::F32 }
    }

    /// Elements of a token of `width` elements.
    pub(super) fn stride(self, width: usize) -> usize {
        let rest = width.saturating_sub(self.parts * self.part);
        self.parts * self.part.next_multiple_of(PREPARED) + rest.next_multiple_of(PREPARED)
    }
}

/// A projection for [`Builder::projection`].
pub(super) struct Projection<'a> {
    pub before: &'a Before,
    pub vectors: &'a Resource,
    pub pieces: &'a [Piece],
    pub output: Resource,
    pub over: Over,
    /// Rows of weights of an output.
    pub share: usize,
}

/// Sets the field `name` of a kernel, where a section lies.
pub(super) fn set_matrix(params: &mut Params, name: &str, piece: &Piece, section: usize) {
    let Some(placed) = piece.placed.get(section) else { return };
    params
        .set_u32(&format!("{name}.offset"), placed.offset)
        .set_u32(&format!("{name}.stride"), placed.stride)
        .set_u32(&format!("{name}.scales"), placed.scales)
        .set_u32(&format!("{name}.scale_stride"), placed.scale_stride)
        .set_u32(&format!("{name}.units"), placed.units)
        .set_u32(&format!("{name}.kind"), placed.kind)
        .set_f32(&format!("{name}.factor"), placed.factor);
}

impl Rotation {
    /// Cosine and sine of each position of `runs`, which are given as the kernels' `Step`s, times the attention factor.
    pub(super) fn turns(&self, runs: &[[u32; 4]]) -> Vec<[f32; 2]> {
        let mut turns = Vec::new();
        for &[_, len, position, _] in runs {
            for position in position..position + len {
                turns.extend(self.rope.inv_freq.iter().map(|inv| {
                    let (sin, cos) = (position as f32 * inv).sin_cos();
                    [cos * self.rope.attention_factor, sin * self.rope.attention_factor]
                }));
            }
        }
        turns
    }
}
