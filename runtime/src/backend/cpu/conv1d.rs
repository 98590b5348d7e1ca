//! `conv1d` on the CPU, also used for the convolution in `mamba2_scan`.

use kinglet_models as spec;

use super::CpuOp;
use super::projection::vector;
use super::simd::{Isa, Kernel, Simd, load, math, store};
use super::split::{ColumnBlock, columns};
use super::step::{Step, StepRun};
use super::team::Team;
use crate::Error;
use crate::plan::op::{self, BufferId, Slice, StateId};
use crate::weights::Weights;

/// Channels per task.
const BLOCK: usize = 256;

/// Taps and bias of a depthwise convolution.
pub(super) struct Conv {
    /// `[kernel, channels]`: the weights of a tap are adjacent.
    taps: Vec<f32>,
    bias: Vec<f32>,
    kernel: usize,
    channels: usize,
}

impl Conv {
    /// Convolutions side by side, with equally many taps.
    pub(super) fn new(convs: &[spec::Conv], weights: &Weights) -> Result<Self, Error> {
        let kernel = convs.first().map_or(1, |conv| conv.kernel);
        let channels = convs.iter().map(|conv| conv.channels).sum();
        let (mut by_channel, mut bias) = (Vec::new(), Vec::new());
        for conv in convs {
            by_channel.extend(weights.vector(&conv.weight)?);
            bias.extend(vector(weights, conv.bias.as_ref())?);
            bias.resize(by_channel.len() / kernel, 0.0);
        }
        let mut taps = vec![0.0; by_channel.len()];
        for (i, tap) in by_channel.iter().enumerate() {
            taps[i % kernel * channels + i / kernel] = *tap;
        }
        Ok(Self { taps, bias, kernel, channels })
    }

    /// Convolves the runs' rows of `input` (`channels` columns, rows `stride` apart) into `out`,
    /// `[T, channels]`.
    pub(super) fn run(
        &self,
        team: &Team,
        isa: Isa,
        runs: &mut [StepRun<'_>],
        state: StateId,
        (input, stride): (&[f32], usize),
        out: &mut [f32],
    ) {
        let channels = self.channels;
        for run in runs {
            let input = &input[run.start * stride..];
            let out = &mut out[run.start * channels..][..run.len * channels];
            // Waking the team costs more than a few thousand channels.
            let block = if run.len * channels < 1 << 14 { channels } else { BLOCK };
            let memory = run.state.dense(state);
            let state = columns(memory, channels, channels, block);
            let split = (columns(out, channels, channels, block), state);
            team.for_each(channels.div_ceil(block), split, |_, (out, state)| {
                isa.dispatch(ConvTask { conv: self, input, stride, len: run.len, out, state });
            });
        }
    }
}

/// Some channels of one run.
struct ConvTask<'a, 'o> {
    conv: &'a Conv,
    input: &'a [f32],
    stride: usize,
    len: usize,
    out: ColumnBlock<'o>,
    /// `[kernel - 1, channels]`, oldest first.
    state: ColumnBlock<'o>,
}

impl Kernel for ConvTask<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let range = self.out.range.clone();
        let (held, channels) = (self.conv.kernel.saturating_sub(1), self.conv.channels);
        let input = |t: usize| &self.input[t * self.stride..][range.clone()];
        for t in 0..self.len {
            let out = self.out.row(t);
            for start in (0..range.len()).step_by(S::LANES) {
                let end = (start + S::LANES).min(range.len());
                let bias = &self.conv.bias[range.clone()][start..end];
                let mut sum = load(s, bias);
                for k in 0..self.conv.kernel {
                    let tap = &self.conv.taps[k * channels..][range.clone()][start..end];
                    // Tap k of token t multiplies input t - held + k. Inputs before the run's first
                    // come from the state.
                    let x = match (t + k).checked_sub(held) {
                        Some(t) => &input(t)[start..end],
                        None => &self.state.row(t + k)[start..end],
                    };
                    sum = s.fma(load(s, tap), load(s, x), sum);
                }
                store(s, math::silu(s, sum), &mut out[start..end]);
            }
        }
        // The new state: the last `held` rows of the old state followed by the inputs.
        for row in 0..held {
            let from = row + self.len;
            match from.checked_sub(held) {
                Some(t) => self.state.row(row).copy_from_slice(input(t)),
                None => {
                    for i in 0..range.len() {
                        self.state.row(row)[i] = self.state.row(from)[i];
                    }
                }
            }
        }
    }
}

pub(super) struct Conv1d {
    input: Slice,
    conv: Conv,
    state: StateId,
    output: BufferId,
}

impl Conv1d {
    pub(super) fn new(op: &op::Conv1d, weights: &Weights) -> Result<Self, Error> {
        let conv = Conv::new(&op.convs, weights)?;
        Ok(Self { input: op.input, conv, state: op.state, output: op.output })
    }
}

impl CpuOp for Conv1d {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let mut output = step.buffers.take(self.output);
        let input = step.buffers.slice(self.input);
        self.conv.run(step.team, step.isa, step.runs, self.state, input, output.data());
        step.buffers.put(output);
        Ok(())
    }
}
