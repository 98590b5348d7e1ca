//! [`Builder`]: a plan becoming a recording. What every op's file builds with.

#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;
use std::sync::Arc;

use kinglet_models::{self as spec, TensorSpec};
use kinglet_shaders::{Arithmetic, BindingKind, Kernel, Variant, WeightType};

use super::api::Usage;
use super::grouped::Grouping;
use super::layout::Layout;
use super::memory::{self, Angles, Memory, Rotation, Sizes};
use super::params::{ABSENT, Params};
use super::recording::{
    Access, Allocation, AllocationId, Binding, Extent, Launch, Recording, Resource, Scope, When,
};
use super::target::Target;
use super::weights::{self, Contents, Piece, Section};
use crate::Error;
use crate::plan::op::{self, BufferId, Op, Slice, StateId};
use crate::plan::{Plan, StateFormat};
use crate::weights::{MatrixData, Weights};

/// How a recording is made.
pub(super) struct RecordOptions {
    /// Maximum number of tokens in a step, within the device's limits.
    pub chunk: usize,
    /// Most iterations of a thread in the loops of an op.
    pub most_turns: usize,
    /// Most bytes of logits that are computed at once.
    pub logit_bytes: usize,
    /// Whether activations must not be rounded.
    pub exact: bool,
}

/// What allocations hold from the beginning; the others are zero.
pub(super) type Uploads = Vec<(AllocationId, Contents)>;

/// The allocations of a recording in the making.
pub(super) struct Allocations<'a> {
    pub target: &'a Target,
    all: Vec<Allocation>,
    uploads: Uploads,
}

impl Allocations<'_> {
    /// Memory that a kernel binds as a whole, of at least 16 bytes. `what` says what kind it is, `name` what it holds.
    ///
    /// # Errors
    /// When it is larger than a kernel can bind.
    pub(super) fn bound(
        &mut self,
        what: &'static str,
        name: &str,
        bytes: u64,
        usage: Usage,
    ) -> Result<AllocationId, Error> {
        let bytes = bytes.max(16).next_multiple_of(16);
        if bytes > self.target.max_binding {
            return Err(Error::DeviceLimit {
                what: format!("a buffer for {what}"),
                needed: bytes,
                limit: self.target.max_binding,
            });
        }
        Ok(self.unbound(what, name, bytes, usage))
    }

    /// Memory of which kernels bind parts.
    pub(super) fn unbound(
        &mut self,
        what: &'static str,
        name: &str,
        bytes: u64,
        usage: Usage,
    ) -> AllocationId {
        self.all.push(Allocation { what, name: name.into(), bytes, usage });
        AllocationId(self.all.len() - 1)
    }
}

/// Records `plan` for a device. Nothing is allocated on the device yet.
///
/// # Errors
/// When a tensor of the plan is not among the weights, or an op needs more than the device allows.
pub(super) fn record(
    target: &Target,
    plan: &Plan,
    weights: &Weights,
    options: &RecordOptions,
) -> Result<(Recording, Uploads), Error> {
    let sizes = Sizes::of(plan);
    let chunk = memory::chunk(plan, &sizes, target, options.chunk, options.most_turns);
    let bound = usize::try_from(target.max_binding).unwrap_or(usize::MAX);
    let row = 4 * plan.vocab.max(1);
    let logit_rows = (options.logit_bytes.min(bound) / row).clamp(1, chunk);
    let mut allocations = Allocations { target, all: Vec::new(), uploads: Vec::new() };
    let memory = memory::memory(&mut allocations, plan, &sizes, chunk, logit_rows)?;
    weights.check_unchanged()?;
    let mut builder = Builder {
        target,
        plan,
        weights,
        memory,
        chunk,
        exact: options.exact,
        launches: Vec::new(),
        rotations: Vec::new(),
        grouping: Grouping::default(),
        deferred_norms: HashMap::new(),
        allocations,
        uploaded: HashMap::new(),
    };
    for op in &plan.ops {
        add(op, &mut builder)?;
    }
    let sampling = match target.samples() {
        true => Some(super::sample::add(&mut builder)?),
        false => None,
    };
    let Builder { launches, memory, rotations, allocations, .. } = builder;
    let Allocations { all: allocations, uploads, .. } = allocations;
    let recording =
        Recording { allocations, launches, memory, rotations, sampling, chunk, logit_rows };
    Ok((recording, uploads))
}

/// Adds the launches of an op.
fn add(op: &Op, builder: &mut Builder<'_>) -> Result<(), Error> {
    if op.uses().expert_count == 0 {
        builder.grouping.forget();
    }
    match op {
        Op::Embed(op) => super::embed::add(op, builder),
        Op::Positions(op) => super::positions::add(op, builder),
        Op::Linear(op) => super::linear::add(op, builder),
        Op::GatedLinear(op) => super::gated_linear::add(op, builder),
        Op::HeadLinear(op) => super::head_linear::add(op, builder),
        Op::Attention(op) => super::attention::add(op, builder),
        Op::Concat(op) => super::concat::add(op, builder),
        Op::Conv1d(op) => super::conv1d::add(op, builder),
        Op::MambaScan(op) => super::mamba_scan::add(op, builder),
        Op::Mamba2Scan(op) => super::mamba2_scan::add(op, builder),
        Op::MLstmScan(op) => super::mlstm_scan::add(op, builder),
        Op::GatedDeltaScan(op) => super::gated_delta_scan::add(op, builder),
        Op::LinearAttention(op) => super::linear_attention::add(op, builder),
        Op::HeadNorm(op) => super::head_norm::add(op, builder),
        Op::KernelAttention(op) => super::kernel_attention::add(op, builder),
        Op::SLstmScan(op) => super::slstm_scan::add(op, builder),
        Op::HybridAttention(op) => super::hybrid_attention::add(op, builder),
        Op::MultiLevelAttention(op) => super::multi_level_attention::add(op, builder),
        Op::MoeRoute(op) => super::moe_route::add(op, builder),
        Op::ExpertNorm(op) => super::expert_norm::add(op, builder),
        Op::MoeUp(op) => super::moe_up::add(op, builder),
        Op::MoeDown(op) => super::moe_down::add(op, builder),
        Op::ResidualNorm(op) => super::residual_norm::add(op, builder),
        Op::Head(op) => super::head::add(op, builder),
    }
}

/// A plan becoming a recording.
pub(super) struct Builder<'a> {
    pub target: &'a Target,
    pub plan: &'a Plan,
    pub weights: &'a Weights,
    pub memory: Memory,
    /// Most tokens of a step.
    pub chunk: usize,
    /// Whether activations must not be rounded.
    pub exact: bool,
    pub launches: Vec<Launch>,
    pub rotations: Vec<Rotation>,
    /// What experts of many tokens share.
    pub grouping: Grouping,
    /// By output: scans that leave their norm to the projection that follows.
    pub deferred_norms: HashMap<BufferId, op::MLstmScan>,
    pub allocations: Allocations<'a>,
    /// Matrices that are placed already: a tied head is the embedding's table.
    uploaded: HashMap<Vec<(String, usize, usize)>, Vec<Piece>>,
}

/// The op's small tensors, concatenated.
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

impl Builder<'_> {
    /// The memory of a buffer of the plan.
    pub(super) fn buffer(&self, id: BufferId) -> Resource {
        Resource::Memory(self.memory.slots[self.plan.buffers[id.0].slot])
    }

    /// Elements from one token to the next.
    pub(super) fn width(&self, id: BufferId) -> usize {
        self.plan.buffers[id.0].width
    }

    pub(super) fn whole(&self, buffer: BufferId) -> Slice {
        Slice { buffer, offset: 0, width: self.width(buffer) }
    }

    /// Storage memory that a kernel binds as a whole.
    ///
    /// # Errors
    /// When it is larger than a kernel can bind.
    pub(super) fn storage(
        &mut self,
        what: &'static str,
        name: &str,
        bytes: u64,
    ) -> Result<AllocationId, Error> {
        self.allocations.bound(what, name, bytes, Usage::Storage)
    }

    /// The table of cosines and sines of `angles`, shared by all that turn alike.
    pub(super) fn rotation(&mut self, angles: Angles) -> Result<Resource, Error> {
        if let Some(known) = self.rotations.iter().find(|known| known.angles == angles) {
            return Ok(Resource::Memory(known.memory));
        }
        let bytes = 8 * (self.chunk * angles.pairs()) as u64;
        let name = format!("rotation {}", self.rotations.len());
        let memory = self.storage("rotations", &name, bytes)?;
        self.rotations.push(Rotation { angles, memory });
        Ok(Resource::Memory(memory))
    }

    /// How a state is stored. Kernels have variants for it, as for the types of weights.
    pub(super) fn state_type(&self, id: StateId) -> WeightType {
        match self.plan.states.get(id.0).map(|state| state.format).unwrap_or_default() {
            StateFormat::F32 => WeightType::F32,
            StateFormat::F16 => WeightType::F16,
            StateFormat::Affine8 => WeightType::Affine8,
            StateFormat::Affine4 => WeightType::Affine4,
        }
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

    /// What a norm multiplies by and adds.
    pub(super) fn norm_vectors(
        &self,
        vectors: &mut Vectors,
        norm: &spec::Norm,
    ) -> Result<(u32, u32), Error> {
        let weight = vectors.push(&self.weights.norm_weight(norm)?);
        let bias = self.weights.norm_bias(norm)?;
        Ok((weight, bias.map_or(ABSENT, |bias| vectors.push(&bias))))
    }

    /// The factors on the rows of projections that are stacked; [`ABSENT`] where all are 1.
    pub(super) fn factors(&self, vectors: &mut Vectors, parts: &[spec::Linear]) -> u32 {
        if parts.iter().all(|part| part.scale == 1.0) {
            return ABSENT;
        }
        let factors = parts.iter().map(|part| vec![part.scale; part.weight.rows]);
        vectors.push(&factors.collect::<Vec<_>>().concat())
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
            match self.weights.bias(part)? {
                Some(bias) => all.extend(bias),
                None => all.resize(all.len() + part.weight.rows, 0.0),
            }
        }
        Ok(vectors.push(&all))
    }

    /// A buffer with the op's small tensors.
    pub(super) fn vectors(&mut self, vectors: &Vectors) -> Result<Resource, Error> {
        self.small(bytemuck::cast_slice(&vectors.0).to_vec())
    }

    /// A buffer with whole numbers of an op.
    pub(super) fn words(&mut self, words: &[u32]) -> Result<Resource, Error> {
        self.small(bytemuck::cast_slice(words).to_vec())
    }

    fn small(&mut self, bytes: Vec<u8>) -> Result<Resource, Error> {
        let name = format!("vectors {}", self.allocations.all.len());
        let memory = self.storage("small tensors", &name, bytes.len() as u64)?;
        self.allocations.uploads.push((memory, Contents::Bytes(bytes)));
        Ok(Resource::Memory(memory))
    }

    pub(super) fn matrix(&self, matrix: &spec::Matrix) -> Result<MatrixData, Error> {
        Ok(self.weights.matrix(matrix)?)
    }

    /// Places a section of which each item takes one row of each of `stacks` (see [`Section`]), unless it is placed already.
    pub(super) fn rows(&mut self, stacks: &[&[spec::Matrix]]) -> Result<Vec<Piece>, Error> {
        let key: Vec<_> = stacks
            .iter()
            .flat_map(|stack| {
                let names = stack.iter().map(|m| (m.tensor.name.clone(), m.row_offset, m.rows));
                // A mark between stacks: no tensor has an empty name.
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
        let pieces = self.pieces(layout, vec![section], rows)?;
        self.uploaded.insert(key, pieces.clone());
        Ok(pieces)
    }

    /// Places `items` items, in as many pieces as bindings require.
    ///
    /// # Errors
    /// When one item alone is larger than a kernel can bind.
    pub(super) fn pieces(
        &mut self,
        layout: Layout,
        sections: Vec<Section>,
        items: usize,
    ) -> Result<Vec<Piece>, Error> {
        let sections: Arc<[Section]> = sections.into();
        let most = weights::fitting(layout, &sections, items, self.target.max_binding)?;
        let mut pieces = Vec::new();
        for first in (0..items).step_by(most) {
            let items = first..items.min(first + most);
            let bytes = weights::bytes_of(layout, &sections, items.len()) as u64;
            let first = sections.first().and_then(|section| section.matrices().next());
            let name = first.map_or("weights", MatrixData::name).to_string();
            let memory = self.storage("weights", &name, bytes)?;
            let placed = weights::placed(layout, &sections, items.len());
            pieces.push(Piece { memory, weights: layout.weights, items: items.clone(), placed });
            let contents = Contents::Matrices { layout, sections: sections.clone(), items };
            self.allocations.uploads.push((memory, contents));
        }
        Ok(pieces)
    }

    pub(super) fn arithmetic(&self, kernel: Kernel, stored: Stored) -> Arithmetic {
        self.variant(kernel, stored).arithmetic()
    }

    /// The variant of a kernel for weights that are stored so.
    pub(super) fn variant(&self, kernel: Kernel, stored: Stored) -> Variant {
        self.target.variant(kernel, stored.weights, self.exact || !stored.aligned)
    }

    /// Adds a launch. The bindings `params`, `step`, `runs`, `tokens` and `wanted` need not be given.
    pub(super) fn launch(
        &mut self,
        kernel: Kernel,
        stored: impl Into<Stored>,
        set: impl FnOnce(&Self, &mut Params),
        resources: &[(&'static str, Resource)],
        extent: [Extent; 2],
        when: (Scope, When),
    ) -> Result<(), Error> {
        self.launch_variant(self.variant(kernel, stored.into()), set, resources, extent, when)
    }

    /// Adds a launch of a variant that the caller has chosen.
    pub(super) fn launch_variant(
        &mut self,
        variant: Variant,
        set: impl FnOnce(&Self, &mut Params),
        resources: &[(&'static str, Resource)],
        extent: [Extent; 2],
        (scope, when): (Scope, When),
    ) -> Result<(), Error> {
        let fault = |what: String| self.target.fault(format!("{}: {what}", variant.name()));
        let metadata = kinglet_shaders::metadata(variant)
            .ok_or_else(|| self.target.fault(format!("there is no kernel {}", variant.name())))?;
        for extent in extent {
            let most = extent.of(self.chunk);
            if most > self.target.max_groups as usize {
                return Err(Error::DeviceLimit {
                    what: format!("the kernel {}, in workgroups,", variant.name()),
                    needed: most as u64,
                    limit: u64::from(self.target.max_groups),
                });
            }
        }
        let mut params = Params::new(metadata.params, metadata.params_bytes);
        set(self, &mut params);
        let params = params.finish().map_err(fault)?;
        let mut bindings = Vec::new();
        for binding in metadata.bindings {
            let given = resources.iter().find(|(name, _)| *name == binding.name);
            let own = match binding.name {
                "params" => Some(Resource::Params),
                "step" => Some(Resource::Step),
                "runs" => Some(Resource::Runs),
                "tokens" => Some(Resource::Memory(self.memory.tokens)),
                "wanted" => Some(Resource::Memory(self.memory.wanted)),
                _ => None,
            };
            let resource = given.map(|(_, resource)| *resource).or(own);
            let resource =
                resource.ok_or_else(|| fault(format!("nothing for {}", binding.name)))?;
            let access = match binding.kind {
                BindingKind::Uniform | BindingKind::Read => Access::Read,
                BindingKind::ReadWrite => Access::Write,
            };
            bindings.push(Binding { name: binding.name, resource, access });
        }
        self.launches.push(Launch { variant, params, bindings, extent, scope, when });
        Ok(())
    }
}

/// How a kernel finds its weights and its input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub weights: WeightType,
    /// Whether the input can be read four elements at a time and rounded in whole units of
    /// [`INT8_UNIT`](super::projection::INT8_UNIT).
    pub aligned: bool,
}

impl From<WeightType> for Stored {
    fn from(weights: WeightType) -> Self {
        Self { weights, aligned: true }
    }
}
