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
    /// `[T, channels]`, and applies SiLU.
    pub(super) fn run(
        &self,
        team: &Team,
        isa: Isa,
        runs: &mut [StepRun<'_>],
        state: StateId,
        input: (&[f32], usize),
        out: &mut [f32],
    ) {
        let source = Source { input, input_gate: None, silu: true, output_gate: None };
        self.run_source(team, isa, runs, state, source, out);
    }

    /// As [`run`](Self::run), with the gates and the activation of `source`.
    fn run_source(
        &self,
        team: &Team,
        isa: Isa,
        runs: &mut [StepRun<'_>],
        state: StateId,
        source: Source<'_>,
        out: &mut [f32],
    ) {
        let channels = self.channels;
        for run in runs {
            let source = source.skip_rows(run.start);
            let out = &mut out[run.start * channels..][..run.len * channels];
            // Waking the team costs more than a few thousand channels.
            let block = if run.len * channels < 1 << 14 { channels } else { BLOCK };
            let memory = run.state.dense(state);
            let state = columns(memory, channels, channels, block);
            let split = (columns(out, channels, channels, block), state);
            team.for_each(channels.div_ceil(block), split, |_, (out, state)| {
                isa.dispatch(ConvTask { conv: self, source, len: run.len, out, state });
            });
        }
    }
}

/// Rows of `channels` columns, and the elements from one row to the next.
type Rows<'a> = (&'a [f32], usize);

/// What a convolution reads, and what it does before and after its sum.
#[derive(Clone, Copy)]
struct Source<'a> {
    input: Rows<'a>,
    /// A factor on the input.
    input_gate: Option<Rows<'a>>,
    silu: bool,
    /// A factor on the output.
    output_gate: Option<Rows<'a>>,
}

impl<'a> Source<'a> {
    /// The same without the first `row` rows.
    fn skip_rows(self, row: usize) -> Self {
        let skip = |(rows, stride): Rows<'a>| (&rows[row * stride..], stride);
        Self {
            input: skip(self.input),
            input_gate: self.input_gate.map(skip),
            output_gate: self.output_gate.map(skip),
            ..self
        }
    }
}

/// Some channels of one run.
struct ConvTask<'a, 'o> {
    conv: &'a Conv,
    source: Source<'a>,
    len: usize,
    out: ColumnBlock<'o>,
    /// `[kernel - 1, channels]`: gated inputs, oldest first.
    state: ColumnBlock<'o>,
}

impl<'a> Kernel for ConvTask<'a, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let range = self.out.range.clone();
        let (held, channels) = (self.conv.kernel.saturating_sub(1), self.conv.channels);
        let Source { input, input_gate, silu, output_gate } = self.source;
        let row = |(rows, stride): Rows<'a>, t: usize| &rows[t * stride..][range.clone()];
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
                        Some(t) => {
                            let x = load(s, &row(input, t)[start..end]);
                            match input_gate {
                                Some(gate) => s.mul(load(s, &row(gate, t)[start..end]), x),
                                None => x,
                            }
                        }
                        None => load(s, &self.state.row(t + k)[start..end]),
                    };
                    sum = s.fma(load(s, tap), x, sum);
                }
                if silu {
                    sum = math::silu(s, sum);
                }
                if let Some(gate) = output_gate {
                    sum = s.mul(load(s, &row(gate, t)[start..end]), sum);
                }
                store(s, sum, &mut out[start..end]);
            }
        }
        // The new state: the last `held` rows of the old state followed by the gated inputs.
        for index in 0..held {
            let from = index + self.len;
            match from.checked_sub(held) {
                Some(t) => {
                    let kept = self.state.row(index);
                    kept.copy_from_slice(row(input, t));
                    if let Some(gate) = input_gate {
                        kept.iter_mut().zip(row(gate, t)).for_each(|(x, gate)| *x *= gate);
                    }
                }
                None => {
                    for i in 0..range.len() {
                        self.state.row(index)[i] = self.state.row(from)[i];
                    }
                }
            }
        }
    }
}

pub(super) struct Conv1d {
    input: Slice,
    input_gate: Option<Slice>,
    conv: Conv,
    silu: bool,
    output_gate: Option<Slice>,
    state: StateId,
    output: BufferId,
}

impl Conv1d {
    pub(super) fn new(op: &op::Conv1d, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            input: op.input,
            input_gate: op.input_gate,
            conv: Conv::new(&op.convs, weights)?,
            silu: op.silu,
            output_gate: op.output_gate,
            state: op.state,
            output: op.output,
        })
    }
}

impl CpuOp for Conv1d {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let mut output = step.buffers.take(self.output);
        let source = Source {
            input: step.buffers.slice(self.input),
            input_gate: self.input_gate.map(|gate| step.buffers.slice(gate)),
            silu: self.silu,
            output_gate: self.output_gate.map(|gate| step.buffers.slice(gate)),
        };
        self.conv.run_source(step.team, step.isa, step.runs, self.state, source, output.data());
        step.buffers.put(output);
        Ok(())
    }
}
