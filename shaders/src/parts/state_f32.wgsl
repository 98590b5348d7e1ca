// Recurrent states are stored in the precision of computation.
alias Kept = f32;
alias Kept4 = vec4<f32>;

/// A number as it is stored.
fn kept(value: f32) -> Kept {
    return value;
}

fn kept4(value: vec4<f32>) -> Kept4 {
    return value;
}
