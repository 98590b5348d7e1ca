// What of a step a dispatch computes: all of it, one run, or some of the wanted logits.

struct Step {
    /// First row in the step's buffers (for logits: first of the wanted rows).
    start: u32,
    /// Rows.
    tokens: u32,
    /// Tokens that the sequence held before.
    position: u32,
    /// Which half of a doubled state holds what the step before has left.
    parity: u32,
}

/// One of these for the step and for each of its runs, chosen by a dynamic offset.
@group(0) @binding(_) var<uniform> step: Step;

/// Stands for an offset of something that is not there.
const ABSENT: u32 = 0xffffffffu;
