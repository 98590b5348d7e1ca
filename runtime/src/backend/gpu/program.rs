//! [`Program`]: a recording made ready on a device. What an executable and its sessions share.

use std::sync::{Arc, Mutex};

use super::api::{Compiler, Gpu, Region};
use super::builder::{RecordOptions, record};
use super::pools::Pools;
use super::readback::Pool;
use super::recording::{AllocationId, Launch, Recording, RunSize, STEP_STRIDE, Step};
use super::tensors::StateLayout;
use super::weights::Uploader;
use crate::Error;
use crate::plan::Plan;
use crate::plan::op::{Op, StateId};
use crate::weights::Weights;

/// A recording made ready on a device.
pub(super) struct Program<A: Gpu> {
    pub device: Arc<A>,
    pub plan: Arc<Plan>,
    pub recording: Recording,
    /// By [`AllocationId`].
    buffers: Vec<A::Buffer>,
    /// By index in [`Recording::launches`].
    pub ready: Vec<A::Launch>,
    /// Where the tensors of a session lie in its slot.
    pub layout: StateLayout,
    /// Locked before `turn`.
    pub pools: Mutex<Pools<A>>,
    /// Held from the first write to shared buffers to the submission that uses them. The number of the sequence that decodes ahead whose token
    /// the last step left in [`Memory::tokens`](super::memory::Memory::tokens), or 0.
    pub turn: Mutex<u64>,
    pub staging: Pool<A>,
    /// Staging memory for tokens that the device chooses.
    pub token_staging: Pool<A>,
}

impl<A: Gpu> Program<A> {
    /// Records `plan`, brings weights to the device and makes all kernels ready.
    ///
    /// # Errors
    /// When a tensor of the plan is not among the weights, an op needs more than the device allows, or the device refuses.
    pub(super) fn new(
        device: Arc<A>,
        plan: Arc<Plan>,
        weights: &Weights,
        options: &RecordOptions,
    ) -> Result<Self, Error> {
        let (recording, uploads) = record(device.target(), &plan, weights, options)?;
        // Threads compile while weights are uploaded.
        let mut compiler = device.compiler();
        recording.launches.iter().try_for_each(|launch| compiler.request(launch.variant))?;
        let mut buffers = Vec::with_capacity(recording.allocations.len());
        for memory in &recording.allocations {
            buffers.push(device.allocate(memory.what, memory.bytes, memory.usage)?);
        }
        let mut uploader = Uploader::new(&*device);
        for (memory, contents) in uploads {
            uploader.upload(&buffers[memory.0], contents)?;
        }
        let steps = &buffers[recording.memory.step.0];
        let prepare = |launch: &Launch| device.prepare(launch, &buffers, steps);
        let ready = recording.launches.iter().map(prepare).collect::<Result<_, Error>>()?;
        compiler.finish()?;
        uploader.finish()?;
        device.check()?;
        let layout = StateLayout::new(device.target(), &plan)?;
        log::trace!(
            "a decode step:\n{}",
            recording.list(&recording.step(&[RunSize { tokens: 1, pool: 0 }], false))
        );
        Ok(Self {
            device,
            plan,
            recording,
            buffers,
            ready,
            layout,
            pools: Mutex::default(),
            turn: Mutex::new(0),
            staging: Pool::new(4),
            token_staging: Pool::new(16),
        })
    }

    /// Binds a launch to what `state` gives; see [`Gpu::bind`].
    ///
    /// # Errors
    /// When the device refuses, or `state` lacks something.
    pub(super) fn bind(
        &self,
        launch: usize,
        state: &dyn Fn(StateId, usize) -> Option<Region<A::Buffer>>,
    ) -> Result<A::Bindings, Error> {
        let (own, ready) = (&self.recording.launches[launch], &self.ready[launch]);
        self.device.bind(own, ready, &self.buffers, self.steps(), state)
    }

    /// The buffer of an allocation of this recording.
    pub(super) fn buffer(&self, id: AllocationId) -> &A::Buffer {
        &self.buffers[id.0]
    }

    /// The buffer of the [`Step`]s.
    pub(super) fn steps(&self) -> &A::Buffer {
        self.buffer(self.recording.memory.step)
    }

    /// Writes to an allocation, from its beginning.
    pub(super) fn write<T: bytemuck::Pod>(&self, id: AllocationId, values: &[T]) {
        self.device.write(self.buffer(id), 0, bytemuck::cast_slice(values));
    }

    /// Writes the [`Step`]s of a step: that of all tokens, those of its `runs`, then those of the logits; and the rotations of the runs'
    /// positions.
    pub(super) fn write_steps(&self, steps: &[Step], runs: usize) {
        let mut words = vec![0u32; steps.len() * STEP_STRIDE / 4];
        for (place, step) in words.chunks_mut(STEP_STRIDE / 4).zip(steps) {
            let words = step.words();
            place[..words.len()].copy_from_slice(&words);
        }
        self.write(self.recording.memory.step, &words);
        for rotation in &self.recording.rotations {
            self.write(rotation.memory, &rotation.turns(&steps[1..=runs]));
        }
    }

    /// Writes `vectors`, `[tokens, width]`, where a step with tokens writes their embeddings.
    pub(super) fn write_vectors(&self, vectors: &[f32]) {
        let Some(Op::Embed(embed)) = self.plan.ops.first() else { return };
        let buffer = &self.plan.buffers[embed.output.0];
        let cols = embed.table.as_ref().map_or(buffer.width, |table| table.cols);
        let rows = vectors.chunks_exact(cols).flat_map(|vector| {
            let scaled = vector.iter().map(|x| x * embed.scale);
            scaled.chain(std::iter::repeat_n(0.0, buffer.width - cols))
        });
        let rows: Vec<f32> = rows.collect();
        self.write(self.recording.memory.slots[buffer.slot], &rows);
    }
}
