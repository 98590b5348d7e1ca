// The runs that a dispatch computes, one for each `group.z`; what they have of a step, and where their sessions' states lie.
//# use absent

struct Step {
    /// First row in the step's buffers.
    start: u32,
    /// Number of rows.
    tokens: u32,
    /// Number of tokens in the sequence before this step.
    position: u32,
    /// The half of a double-buffered state that the last step wrote.
    parity: u32,
    /// Where the session's states begin in a binding, in units of 16 bytes.
    slot: u32,
    /// The same for the states of convolutions.
    @size(236) conv_slot: u32,
}

/// [64]: runs that follow one another in the step, from a dynamic offset on.
@group(0) @binding(_) var<uniform> runs: array<Step, 64>;

/// The workgroup's run, for functions: `main` sets it. Barriers may depend on `runs` only, which is known to be uniform.
var<private> step: Step;
