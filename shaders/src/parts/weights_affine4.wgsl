// Affine codes of 4 bits; a unit is one element of the binding.
//# use affine

/// Weights `4 quad ..` of a row.
fn weights_quad(m: Matrix, row: u32, quad: u32) -> vec4<f32> {
    let bits = weights[m.offset + row * m.stride + quad / 8u][quad / 2u % 4u] >> (quad % 2u * 16u);
    let s = scale_and_bias(m, row, quad / 8u);
    return s.x * vec4<f32>(nibbles(bits)) + s.y;
}

/// The product of unit `unit` of a row with `x`.
fn dot_unit(m: Matrix, row: u32, unit: u32, x: Unit) -> f32 {
    let codes = weights[m.offset + row * m.stride + unit];
    let low = codes & vec4(0xffffu);
    let high = codes >> vec4(16u);
    var product = dot(vec4<f32>(nibbles(low.x)), x[0]) + dot(vec4<f32>(nibbles(high.x)), x[1]);
    product += dot(vec4<f32>(nibbles(low.y)), x[2]) + dot(vec4<f32>(nibbles(high.y)), x[3]);
    product += dot(vec4<f32>(nibbles(low.z)), x[4]) + dot(vec4<f32>(nibbles(high.z)), x[5]);
    product += dot(vec4<f32>(nibbles(low.w)), x[6]) + dot(vec4<f32>(nibbles(high.w)), x[7]);
    let sum = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
    let s = scale_and_bias(m, row, unit);
    return s.x * product + s.y * dot(sum, vec4(1.0));
}
