// Recurrent states are stored in half precision.
alias Kept = f16;
alias Kept4 = vec4<f16>;

/// A number as it is stored: values too large become the largest f16, since an infinity would never go away.
fn kept(value: f32) -> Kept {
    return f16(clamp(value, -65504.0, 65504.0));
}

fn kept4(value: vec4<f32>) -> Kept4 {
    return vec4<f16>(clamp(value, vec4(-65504.0), vec4(65504.0)));
}
