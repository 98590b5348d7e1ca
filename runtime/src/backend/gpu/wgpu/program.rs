//! [`Program`]: a plan's dispatches with the memory that they share, and how a step of it is recorded.

#![deny(clippy::wildcard_enum_match_arm)]

use std::sync::{Arc, Mutex};

use kinglet_shaders::Kernel;

use super::device::Device;
use super::dispatch::{Dispatch, Over, STEP_BYTES, STEP_STRIDE};
use super::memory::{Memory, Rotation};
use super::profile::Stamps;
use super::readback::Spare;
use super::sample::Sampling;
use super::state::{SpareTensors, StateLayout, WgpuState};
use crate::plan::Plan;
use crate::plan::op::Op;

/// What an executable and its states share.
pub(super) struct Program {
    pub device: Arc<Device>,
    pub plan: Arc<Plan>,
    pub dispatches: Vec<Dispatch>,
    /// Where the states of a session lie.
    pub layout: StateLayout,
    pub tensors: SpareTensors,
    /// Most tokens of a step.
    pub chunk: usize,
    pub rotations: Vec<Rotation>,
    pub memory: Memory,
    /// `None` where the host must choose.
    pub sampling: Option<Arc<Sampling>>,
    /// Most rows of logits that are computed at once.
    pub logit_rows: usize,
    /// Writes to shared buffers and the submission that uses them belong together. Whose tokens the last one has left: the number
    /// of a sequence that decodes ahead, or 0.
    pub recording: Mutex<u64>,
    pub spare: Spare,
    /// For tokens that the device chooses.
    pub spare_tokens: Spare,
}

/// The kernels' `Step`: the first token or row, how many there are, the position of the first, and which half of a state that is
/// held twice is read.
pub(super) type Step = [u32; 4];

/// Where dispatches are recorded.
pub(super) enum Recorder<'a> {
    /// One behind the other.
    Pass(Box<wgpu::ComputePass<'a>>),
    /// Each between two time stamps.
    Timed(&'a mut wgpu::CommandEncoder, &'a mut Stamps),
}

impl<'a> Recorder<'a> {
    /// Into a pass of its own, with time stamps where some are given.
    pub(super) fn new(
        encoder: &'a mut wgpu::CommandEncoder,
        stamps: Option<&'a mut Stamps>,
    ) -> Self {
        match stamps {
            None => Self::Pass(Box::new(encoder.begin_compute_pass(&Default::default()))),
            Some(stamps) => Self::Timed(encoder, stamps),
        }
    }

    /// Records a dispatch over so many `tokens`, which reads the `Step` with this number.
    pub(super) fn record(
        &mut self,
        dispatch: &Dispatch,
        bind_group: Option<&wgpu::BindGroup>,
        step: usize,
        tokens: usize,
    ) {
        // Every kernel was made ready when the plan was compiled.
        let Some(pipeline) = dispatch.kernel.pipeline() else {
            debug_assert!(false, "{} is not ready", dispatch.kernel.name);
            return;
        };
        let [x, y] = dispatch.groups(tokens);
        let into = |pass: &mut wgpu::ComputePass<'_>| {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bind_group, &[(step * STEP_STRIDE) as u32]);
            pass.dispatch_workgroups(x, y, 1);
        };
        match self {
            Self::Pass(pass) => into(pass),
            Self::Timed(encoder, stamps) => {
                let writes = stamps.next(&dispatch.kernel.name);
                into(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: writes,
                }));
            }
        }
    }
}

impl Program {
    /// Writes what kernels know of a step: first all of it, then each of its `runs`, then the logits by pieces; and the
    /// rotations of the runs' positions.
    pub(super) fn write_steps(&self, steps: &[Step], runs: usize) {
        let mut bytes = vec![0u8; steps.len() * STEP_STRIDE];
        for (slot, step) in bytes.chunks_mut(STEP_STRIDE).zip(steps) {
            slot[..STEP_BYTES as usize].copy_from_slice(bytemuck::cast_slice(step));
        }
        let queue = &self.device.queue;
        queue.write_buffer(&self.memory.step, 0, &bytes);
        for rotation in &self.rotations {
            let turns = rotation.turns(&steps[1..=runs]);
            queue.write_buffer(&rotation.buffer, 0, bytemuck::cast_slice(&turns));
        }
    }

    /// Writes `vectors`, `[tokens, width]`, where a step that has tokens embeds them.
    pub(super) fn write_vectors(&self, vectors: &[f32]) {
        let Some(Op::Embed(embed)) = self.plan.ops.first() else { return };
        let (cols, buffer) = (embed.table.cols, &self.plan.buffers[embed.output.0]);
        let rows = vectors.chunks_exact(cols).flat_map(|vector| {
            let scaled = vector.iter().map(|x| x * embed.scale);
            scaled.chain(std::iter::repeat_n(0.0, buffer.width - cols))
        });
        let rows: Vec<f32> = rows.collect();
        self.device.queue.write_buffer(
            &self.memory.slots[buffer.slot],
            0,
            bytemuck::cast_slice(&rows),
        );
    }

    /// Records a step up to its logits; `runs` are the states and numbers of tokens, of which there are `tokens`
    /// together. `embedded` is whether what they are embedded as is there already.
    pub(super) fn record_step(
        &self,
        recorder: &mut Recorder<'_>,
        runs: &[(&WgpuState, usize)],
        tokens: usize,
        embedded: bool,
    ) {
        let left = |d: &Dispatch| !(embedded && d.kernel.variant.kernel() == Kernel::Embed);
        // Dispatches on states that follow one another hand their run's data on in memory that the next run uses, too.
        let alike = |a: &Dispatch, b: &Dispatch| (a.over == Over::Runs) == (b.over == Over::Runs);
        let mut first = 0;
        for dispatches in self.dispatches.chunk_by(alike) {
            if dispatches.iter().any(|dispatch| dispatch.over == Over::Runs) {
                for (run, (state, len)) in runs.iter().enumerate() {
                    for (index, dispatch) in (first..).zip(dispatches) {
                        if dispatch.holds_for(*len, tokens) {
                            recorder.record(dispatch, state.bind_group(index), 1 + run, *len);
                        }
                    }
                }
            } else {
                for dispatch in dispatches {
                    if dispatch.over == Over::Step && dispatch.holds(tokens) && left(dispatch) {
                        recorder.record(dispatch, dispatch.bind_group.as_ref(), 0, tokens);
                    }
                }
            }
            first += dispatches.len();
        }
    }

    /// Records `rows` of logits, whose `Step` is at `place`, and what comes behind them.
    pub(super) fn record_logits<'d>(
        &'d self,
        recorder: &mut Recorder<'_>,
        place: usize,
        rows: usize,
        behind: impl Iterator<Item = &'d Dispatch>,
    ) {
        let logits = self.dispatches.iter();
        let logits = logits.filter(|d| d.over == Over::Logits && d.holds(rows));
        for dispatch in logits.chain(behind) {
            recorder.record(dispatch, dispatch.bind_group.as_ref(), place, rows);
        }
    }
}
