// Recurrent states are stored in the precision of computation.
alias Kept = f32;
alias Kept4 = vec4<f32>;

/// Elements, and groups of four, in a unit of `step.slot`.
const KEPT_UNIT: u32 = 4u;
const KEPT4_UNIT: u32 = 1u;

/// A number as it is stored.
fn kept(value: f32) -> Kept {
    return value;
}

fn kept4(value: vec4<f32>) -> Kept4 {
    return value;
}
