//! Weight matrices and their products with a step's tokens.

use super::inputs::{Inputs, Means};
use super::kernel::dot::{MatMul, Rows, Vectors};
use super::kernel::elementwise::{LayerNorm, NormGate, RmsNorm, SigmoidGate, SiluGate};
use super::kernel::packed::decode::Decode;
use super::kernel::packed::exact::Exact;
use super::kernel::packed::has_whole_codes;
use super::kernel::packed::prefill::Prefill;
use super::simd::Isa;
use super::split::{Columns, chunks, columns};
use super::step::{Buffers, Scratch};
use super::team::Team;
use crate::Error;
use crate::plan::op::{Prologue, Slice};
use crate::weights::{Encoding, MatrixData, MatrixView, Weights};
use kinglet_models::{self as spec, GateActivation, TensorSpec};
use kinglet_quant::Mode;

/// From this many tokens on, rows are unpacked into a buffer.
const PREFILL_TOKENS: usize = 8;

/// `y = scale * (W x + b)`; an empty `b` is none.
pub(super) struct Projection {
    /// `W`, in memory: [`in_memory`] has seen its bytes.
    pub matrix: MatrixData,
    /// `scale * b`.
    bias: Vec<f32>,
    scale: f32,
}

/// Decodes a small tensor; empty if there is none.
pub(super) fn vector(weights: &Weights, spec: Option<&TensorSpec>) -> Result<Vec<f32>, Error> {
    Ok(spec.map(|spec| weights.vector(spec)).transpose()?.unwrap_or_default())
}

/// The matrix, if its bytes are in memory and stay there. A file is mapped or held as a whole.
fn in_memory(matrix: &spec::Matrix, weights: &Weights) -> Result<MatrixData, Error> {
    let matrix = weights.matrix(matrix)?;
    matrix.view()?;
    Ok(matrix)
}

impl Projection {
    pub(super) fn new(linear: &spec::Linear, weights: &Weights) -> Result<Self, Error> {
        let mut bias = weights.bias(linear)?.unwrap_or_default();
        bias.iter_mut().for_each(|b| *b *= linear.scale);
        Ok(Self { matrix: in_memory(&linear.weight, weights)?, bias, scale: linear.scale })
    }

    pub(super) fn weights_only(matrix: &spec::Matrix, weights: &Weights) -> Result<Self, Error> {
        Ok(Self { matrix: in_memory(matrix, weights)?, bias: Vec::new(), scale: 1.0 })
    }

    pub(super) fn rows(&self) -> usize {
        self.matrix.rows()
    }

    pub(super) fn cols(&self) -> usize {
        self.matrix.cols()
    }

    /// Whether its products use 8-bit activations, given its packed format.
    pub(super) fn takes_int8(&self) -> bool {
        matches!(self.matrix.encoding(), Encoding::Quantized(format) if format.mode() != Mode::MxFp8)
    }

    /// `out[t * out_stride + r] = (scale * (W x[t] + b))[first_row + r]` for `r < rows`.
    pub(super) fn tile(
        &self,
        isa: Isa,
        first_row: usize,
        rows: usize,
        x: Inputs<'_>,
        out: &mut [f32],
        out_stride: usize,
    ) {
        let tokens = x.tokens();
        // A failure here would be a bug in the engine, and must not give a wrong product.
        match self.matrix.view().expect("a projection's matrix is in memory") {
            MatrixView::Dense { dtype, bytes } => {
                let weight = Rows::packed(bytes, dtype, self.matrix.cols());
                let x = x.floats;
                isa.dispatch(MatMul { weight, first_row, rows, x, out: &mut *out, out_stride });
            }
            MatrixView::Quantized(weight) => {
                let out = &mut *out;
                match x.int8.filter(|_| has_whole_codes(&weight)) {
                    Some(x) if tokens < PREFILL_TOKENS => {
                        isa.dispatch(Decode { weight, first_row, rows, x, out, out_stride });
                    }
                    Some(x) => {
                        isa.dispatch(Prefill { weight, first_row, rows, x, out, out_stride });
                    }
                    None => {
                        let x = x.floats;
                        isa.dispatch(Exact { weight, first_row, rows, x, out, out_stride });
                    }
                }
            }
        }
        if self.scale != 1.0 {
            for row in out.chunks_mut(out_stride).take(tokens) {
                row.iter_mut().take(rows).for_each(|o| *o *= self.scale);
            }
        }
        if let Some(bias) = self.bias.get(first_row..first_row + rows) {
            for row in out.chunks_mut(out_stride).take(tokens) {
                row.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
            }
        }
    }
}

/// How the rows of a product are divided into tasks, and how many tokens are taken at a time.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    /// Rows per task.
    pub rows: usize,
    /// Tokens whose activations fit in the second-level cache.
    pub tokens: usize,
}

impl Tiling {
    /// For `rows` rows of `cols` columns and `row_bytes` bytes, and `tokens` tokens, on `threads`
    /// threads.
    pub(super) fn new(
        rows: usize,
        cols: usize,
        row_bytes: usize,
        tokens: usize,
        threads: usize,
    ) -> Self {
        // A task of a decode step should stream at least this much, or claiming it costs more than
        // it gains.
        const TASK_BYTES: usize = 256 << 10;
        const ACTIVATION_BYTES: usize = 384 << 10;
        let by_bytes = TASK_BYTES / row_bytes.max(1);
        let wanted = if tokens < 8 { by_bytes } else { 64 };
        // At least four tasks per thread, so that a slow thread doesn't delay the others.
        let fair = rows.div_ceil(4 * threads);
        let task_rows =
            wanted.min(fair).max(1).next_multiple_of(if tokens < PREFILL_TOKENS { 4 } else { 16 });
        let fit = ACTIVATION_BYTES / (4 * cols).max(1) / 6 * 6;
        Self { rows: task_rows, tokens: fit.clamp(6, 96).min(tokens.max(1)) }
    }

    /// Number of tasks for `rows` rows.
    pub(super) fn tasks(&self, rows: usize) -> usize {
        rows.div_ceil(self.rows)
    }

    /// Elements per tile.
    pub(super) fn elements(&self) -> usize {
        self.rows * self.tokens
    }

    /// Splits `out`, `[tokens, stride]`, into the tasks' columns.
    pub(super) fn columns<'a>(
        &self,
        out: &'a mut [f32],
        stride: usize,
        rows: usize,
    ) -> Columns<'a> {
        columns(out, stride, rows, self.rows)
    }
}

/// Calls `finish(out row, result row)` for every token and every task's rows of `parts x`, with the
/// parts' rows stacked.
pub(super) fn project(
    mut means: Means<'_>,
    parts: &[&Projection],
    x: Vectors<'_>,
    (out, out_stride): (&mut [f32], usize),
    finish: impl Fn(&mut [f32], &[f32]) + Sync,
) -> Result<(), Error> {
    let rows: usize = parts.iter().map(|part| part.rows()).sum();
    let Some(first) = parts.first() else { return Ok(()) };
    let row_bytes = first.matrix.row_bytes();
    let records = means.records(x, first.cols(), parts.iter().copied())?;
    let (x, team, isa) = (records.inputs(x), means.team, means.isa);
    let tiling = Tiling::new(rows, first.cols(), row_bytes, x.tokens(), team.threads());
    let locals = means.locals.get(tiling.elements())?;
    let split = tiling.columns(out, out_stride, rows);
    team.for_each_with(locals, tiling.tasks(rows), split, |local, _, mut block| {
        let range = block.range.clone();
        for token in (0..x.tokens()).step_by(tiling.tokens) {
            let tokens = tiling.tokens.min(x.tokens() - token);
            let x = x.slice(token, tokens);
            let mut start = 0;
            for part in parts {
                let (from, to) = (range.start.max(start), range.end.min(start + part.rows()));
                if from < to {
                    let out = &mut local[from - range.start..];
                    part.tile(isa, from - start, to - from, x, out, tiling.rows);
                }
                start += part.rows();
            }
            for t in 0..tokens {
                finish(block.row(token + t), &local[t * tiling.rows..][..range.len()]);
            }
        }
    });
    records.end(means.scratch);
    Ok(())
}

/// The computation before a projection, with its weights. `NormGate` norms parts of `part` elements, whose weight is common or one for each.
pub(super) enum Before {
    Nothing,
    Norm {
        weight: Vec<f32>,
        bias: Vec<f32>,
        eps: f32,
        centred: bool,
    },
    SiluGate {
        gate: Slice,
    },
    SigmoidGate {
        gate: Slice,
    },
    GatedNorm {
        gate: Slice,
        weight: Vec<f32>,
        eps: f32,
        groups: usize,
    },
    /// The norm of parts of `part` elements; their weight is common or one for each.
    NormGate {
        weight: Vec<f32>,
        part: usize,
        eps: f32,
        gate: Slice,
        activation: GateActivation,
    },
}

impl Before {
    pub(super) fn new(prologue: &Prologue, weights: &Weights) -> Result<Self, Error> {
        Ok(match prologue {
            Prologue::None => Self::Nothing,
            Prologue::Norm(norm) => Self::norm(Some(norm), weights)?,
            Prologue::PlainNorm { eps } => {
                Self::Norm { weight: Vec::new(), bias: Vec::new(), eps: *eps, centred: false }
            }
            Prologue::SiluGate { gate } => Self::SiluGate { gate: *gate },
            Prologue::SigmoidGate { gate } => Self::SigmoidGate { gate: *gate },
            Prologue::GatedNorm { gate, norm, groups } => Self::GatedNorm {
                gate: *gate,
                weight: weights.norm_weight(norm)?,
                eps: norm.eps,
                groups: *groups,
            },
            Prologue::NormGate { norm, groups, gate, activation } => Self::NormGate {
                weight: weights.norm_weight(norm)?,
                part: gate.width / (*groups).max(1),
                eps: norm.eps,
                gate: *gate,
                activation: *activation,
            },
        })
    }

    pub(super) fn norm(norm: Option<&spec::Norm>, weights: &Weights) -> Result<Self, Error> {
        let Some(norm) = norm else { return Ok(Self::Nothing) };
        Ok(Self::Norm {
            weight: weights.norm_weight(norm)?,
            bias: weights.norm_bias(norm)?.unwrap_or_default(),
            eps: norm.eps,
            centred: norm.centred,
        })
    }

    /// Applies it to one token: `out = f(x)`.
    fn apply(&self, isa: Isa, buffers: &Buffers, token: usize, x: &[f32], out: &mut [f32]) {
        let gate_row = |gate: &Slice| {
            let (data, stride) = buffers.slice(*gate);
            &data[token * stride..][..gate.width]
        };
        match self {
            Self::Nothing => out.copy_from_slice(x),
            Self::Norm { weight, bias, eps, centred: true } => {
                isa.dispatch(LayerNorm { x, weight, bias, eps: *eps, out });
            }
            Self::Norm { weight, bias, eps, centred: false } => {
                isa.dispatch(RmsNorm { x, weight, bias, eps: *eps, out });
            }
            Self::SiluGate { gate } => isa.dispatch(SiluGate { x, gate: gate_row(gate), out }),
            Self::SigmoidGate { gate } if gate.width == x.len() => {
                isa.dispatch(SigmoidGate { x, gate: gate_row(gate), out });
            }
            Self::SigmoidGate { gate } => {
                let part = (x.len() / gate.width.max(1)).max(1);
                let parts = out.chunks_mut(part).zip(x.chunks(part));
                for ((out, x), gate) in parts.zip(gate_row(gate)) {
                    let factor = 1.0 / (1.0 + (-gate).exp());
                    out.iter_mut().zip(x).for_each(|(o, x)| *o = x * factor);
                }
            }
            Self::GatedNorm { gate, weight, eps, groups } => {
                isa.dispatch(SiluGate { x, gate: gate_row(gate), out: &mut *out });
                let part = (x.len() / groups).max(1);
                let mut gated = [0.0; 256];
                for (out, weight) in out.chunks_mut(part).zip(weight.chunks(part)) {
                    norm_in_place(isa, out, weight, *eps, &mut gated);
                }
            }
            Self::NormGate { weight, part, eps, gate, activation } => {
                let (part, activation, eps) = ((*part).max(1), *activation, *eps);
                let parts = x.chunks(part).zip(out.chunks_mut(part));
                let weights = weight.chunks(part).cycle();
                for (((x, out), gate), weight) in
                    parts.zip(gate_row(gate).chunks(part)).zip(weights)
                {
                    isa.dispatch(NormGate { x, weight, eps, gate, activation, out });
                }
            }
        }
    }
}

/// RMS norm of `x` in place, piece by piece through `piece`.
fn norm_in_place(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32, piece: &mut [f32; 256]) {
    let sum = isa.dispatch(super::kernel::elementwise::SumOfSquares(x));
    let scale = 1.0 / (sum / x.len() as f32 + eps).sqrt();
    for (x, weight) in x.chunks_mut(256).zip(weight.chunks(256)) {
        for ((p, x), w) in piece.iter_mut().zip(x.iter()).zip(weight) {
            *p = x * scale * w;
        }
        x.copy_from_slice(&piece[..x.len()]);
    }
}

/// The activations that a projection reads: in place, or computed by [`Before`].
pub(super) enum Input<'a> {
    InPlace { x: &'a [f32], stride: usize, tokens: usize },
    Made { memory: Vec<f32>, width: usize, tokens: usize },
}

impl Input<'_> {
    pub(super) fn vectors(&self) -> Vectors<'_> {
        match self {
            Self::InPlace { x, stride, tokens } => Vectors { x, stride: *stride, tokens: *tokens },
            Self::Made { memory, width, tokens } => {
                Vectors { x: memory, stride: *width, tokens: *tokens }
            }
        }
    }

    /// Returns the memory to `scratch`.
    pub(super) fn end(self, scratch: &mut Scratch) {
        if let Self::Made { memory, .. } = self {
            scratch.give(memory);
        }
    }
}

/// Applies `before` to `input` for the tokens `which`, or for all if `None`.
pub(super) fn prepare<'a>(
    step: &mut Prepare<'_, 'a>,
    input: Slice,
    before: &Before,
    which: Option<&[usize]>,
) -> Result<Input<'a>, Error> {
    let (x, stride) = step.buffers.slice(input);
    let width = input.width;
    let tokens = which.map_or(step.tokens, <[usize]>::len);
    if let (Before::Nothing, None) = (before, which) {
        return Ok(Input::InPlace { x, stride, tokens });
    }
    let mut memory = step.scratch.take(tokens * width)?;
    let (isa, buffers) = (step.isa, step.buffers);
    let one = |i: usize, out: &mut [f32]| {
        let token = which.map_or(i, |which| which[i]);
        before.apply(isa, buffers, token, &x[token * stride..][..width], out);
    };
    let rows = &mut memory[..tokens * width];
    if tokens < 4 {
        rows.chunks_mut(width).enumerate().for_each(|(i, out)| one(i, out));
    } else {
        step.team.for_each(tokens, chunks(rows, width), one);
    }
    Ok(Input::Made { memory, width, tokens })
}

/// The parts of a step that [`prepare`] uses, so that the others can be borrowed along with its
/// result.
pub(super) struct Prepare<'s, 'b> {
    pub team: &'s Team,
    pub isa: Isa,
    pub buffers: &'b Buffers,
    pub scratch: &'s mut Scratch,
    pub tokens: usize,
}

/// Makes [`Prepare`] from a step's fields, leaving the others free.
macro_rules! prepare_from {
    ($step:expr) => {
        $crate::backend::cpu::projection::Prepare {
            team: $step.team,
            isa: $step.isa,
            buffers: &*$step.buffers,
            scratch: &mut *$step.scratch,
            tokens: $step.tokens.len(),
        }
    };
}
pub(super) use prepare_from;
