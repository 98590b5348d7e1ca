// Recurrent states are stored in half precision.
alias Kept = f16;
alias Kept4 = vec4<f16>;

/// Elements, and groups of four, in a unit of `step.slot`.
const KEPT_UNIT: u32 = 8u;
const KEPT4_UNIT: u32 = 2u;

/// A number as it is stored: values too large become the largest f16, since an infinity would never go away.
fn kept(value: f32) -> Kept {
    return f16(clamp(value, -65504.0, 65504.0));
}

fn kept4(value: vec4<f32>) -> Kept4 {
    return vec4<f16>(clamp(value, vec4(-65504.0), vec4(65504.0)));
}
