// The part of a step that a dispatch computes: all of it, one run, or some of the wanted logits.
//# use absent

struct Step {
    /// First row in the step's buffers (for logits, the first of the wanted rows).
    start: u32,
    /// Number of rows.
    tokens: u32,
    /// Number of tokens in the sequence before this step.
    position: u32,
    /// The half of a double-buffered state that the last step wrote.
    parity: u32,
}

/// One for the step and one for each of its runs, selected by a dynamic offset.
@group(0) @binding(_) var<uniform> step: Step;
