//! A plan becoming dispatches: what every op's file builds with.

use std::collections::HashMap;
use std::sync::Arc;

use kinglet_models::{self as spec, TensorSpec};
use kinglet_shaders::{Arithmetic, Kernel, Variant, WeightType};

use super::device::Device;
use super::dispatch::{Dispatch, Extent, Over, Resource, When};
use super::kernels::{CompiledKernel, Compiler};
use super::layout::Layout;
use super::memory::{Memory, Rotation};
use super::params::{ABSENT, Params};
use super::upload::{Piece, Section, Uploader};
use crate::Error;
use crate::plan::op::{BufferId, Slice, StateId};
use crate::plan::{Plan, StateFormat};
use crate::weights::{MatrixData, Weights};

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
    compiler: Compiler,
    /// All that were asked for.
    kernels: Vec<Arc<CompiledKernel>>,
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
            compiler: Compiler::new(device),
            kernels: Vec::new(),
            uploaded: HashMap::new(),
        }
    }

    /// Waits for the weights and the kernels, and gives what was built.
    pub(super) fn finish(mut self) -> Result<(Vec<Dispatch>, Vec<Rotation>), Error> {
        for kernel in &self.kernels {
            kernel.ready(self.device)?;
        }
        self.uploader.finish()?;
        self.device.check()?;
        self.device.keep_pipelines();
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

    /// How a state is stored, which kernels have variants for as for weights.
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

    pub(super) fn arithmetic(&self, kernel: Kernel, stored: Stored) -> Arithmetic {
        self.variant(kernel, stored).arithmetic()
    }

    /// The variant of a kernel for weights that are stored so.
    pub(super) fn variant(&self, kernel: Kernel, stored: Stored) -> Variant {
        self.device.variant(kernel, stored.weights, self.exact || !stored.aligned)
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
        self.dispatch_as(self.variant(kernel, stored.into()), set, resources, groups, when)
    }

    /// Adds a dispatch of a variant that the caller has chosen.
    pub(super) fn dispatch_as(
        &mut self,
        variant: Variant,
        set: impl FnOnce(&Self, &mut Params),
        resources: Vec<(&'static str, Resource)>,
        groups: [Extent; 2],
        (over, when): (Over, When),
    ) -> Result<(), Error> {
        let kernel = self.device.kernel(variant)?;
        self.compiler.request(&kernel);
        self.kernels.push(kernel.clone());
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
    /// Whether the input can be read four elements at a time and rounded in whole units of [`INT8_UNIT`].
    pub aligned: bool,
}

impl From<WeightType> for Stored {
    fn from(weights: WeightType) -> Self {
        Self { weights, aligned: true }
    }
}
