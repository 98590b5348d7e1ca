//! `linear`: `y = s (W f(x) + b)`, with the cheap thing `f` that stands before the projection and a factor `s` of the config,
//! stored or added to `y`.

use kinglet_models::{self as spec, Activation, GateActivation, Norm};

use super::{
    Cut, Describe, MatrixSite, Preparation, ProjectionInput, Scratch, Slice, StateId, SteppedState,
    Uses, Widths, Work,
};

/// One or several projections of the same input, their outputs side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `x`, `[T, cols]`.
    pub input: Slice,
    /// `f`, applied to `x` first.
    pub prologue: Prologue,
    /// Matrices of equal `cols`; their rows are stacked in this order.
    pub parts: Vec<spec::Linear>,
    /// `y`, `[T, sum of rows]`.
    pub output: Slice,
    /// What happens to the result.
    pub mode: Output,
}

/// The computation before a projection.
#[derive(Clone, Debug, PartialEq)]
pub enum Prologue {
    /// Nothing.
    None,
    /// RMS norm over the input's width.
    Norm(Norm),
    /// RMS norm without a weight (FalconMamba's step sizes).
    PlainNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `x * silu(gate)`.
    SiluGate {
        /// As wide as the input.
        gate: Slice,
    },
    /// `x * sigmoid(gate)`, each gate for an equal part of `x`: gated attention (Qiu et al., "Gated Attention for Large Language Models",
    /// 2025, section 2.2).
    SigmoidGate {
        /// As wide as the input, or as many as it has heads.
        gate: Slice,
    },
    /// RMS norm of `x * silu(gate)` over each of `groups` equal parts, times the weight (Mamba-2, section 7.2).
    GatedNorm {
        /// As wide as the input.
        gate: Slice,
        /// Weight and epsilon.
        norm: Norm,
        /// Parts that are normed separately.
        groups: usize,
    },
    /// RMS norm of each of `groups` equal parts of `x`, times the weight, times `activation(gate)` (the gated delta rule; MiniMax-01,
    /// arXiv:2501.08313, section 2.2: the gate comes after the norm).
    NormGate {
        /// Weight `[width / groups]`, which all parts share, or `[width]`, and epsilon.
        norm: Norm,
        /// Parts that are normed by themselves.
        groups: usize,
        /// As wide as the input.
        gate: Slice,
        /// Of the gate.
        activation: GateActivation,
    },
}

/// What happens to the result of a projection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// Overwrites the output.
    Store,
    /// It replaces what the output held, after an activation: the first half of a feed-forward network without a gate.
    Activate(Activation),
    /// It is added, times `scale`: a residual connection.
    Add {
        /// Factor on the result.
        scale: f32,
    },
}

impl Linear {
    /// Outputs per token.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.weight.rows).sum()
    }
}

impl Describe for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input.buffer);
        uses.writes.push(self.output.buffer);
        if let Output::Add { .. } = self.mode {
            uses.reads.push(self.output.buffer);
        }
        match &self.prologue {
            Prologue::None | Prologue::PlainNorm { .. } => {}
            Prologue::Norm(norm) => uses.norm(norm),
            Prologue::SiluGate { gate } | Prologue::SigmoidGate { gate } => {
                uses.reads.push(gate.buffer)
            }
            Prologue::GatedNorm { gate, norm, .. } | Prologue::NormGate { gate, norm, .. } => {
                uses.reads.push(gate.buffer);
                uses.norm(norm);
            }
        }
        self.parts.iter().for_each(|part| uses.linear(part));
    }

    fn states(&self) -> Vec<SteppedState> {
        Vec::new()
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths { prepared: self.input.width, ..Widths::NONE }
    }

    fn scratch(&self, _cut: &Cut) -> Scratch {
        Scratch::NONE
    }

    fn work(&self, _context: usize) -> Work {
        Work::NONE
    }

    fn loop_turns(&self) -> usize {
        1
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        Some(ProjectionInput {
            buffer: self.input.buffer,
            columns: Some(self.input.offset..self.input.offset + self.input.width),
            preparation: Preparation::Prologue(&self.prologue),
            experts: None,
        })
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        self.parts.iter().map(|part| MatrixSite::all(&part.weight)).collect()
    }
}
