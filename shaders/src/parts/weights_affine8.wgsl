// Affine codes of 8 bits; a unit is two elements of the binding.
//# use affine

/// Weights `4 quad ..` of a row.
fn weights_quad(m: Matrix, row: u32, quad: u32) -> vec4<f32> {
    let codes = bytes(weights[m.offset + row * m.stride + quad / 4u][quad % 4u]);
    let s = scale_and_bias(m, row, quad / 8u);
    return s.x * vec4<f32>(codes) + s.y;
}

/// The product of unit `unit` of a row with `x`.
fn dot_unit(m: Matrix, row: u32, unit: u32, x: Unit) -> f32 {
    let at = m.offset + row * m.stride + 2u * unit;
    let a = weights[at];
    let b = weights[at + 1u];
    var product = dot(vec4<f32>(bytes(a.x)), x[0]) + dot(vec4<f32>(bytes(a.y)), x[1]);
    product += dot(vec4<f32>(bytes(a.z)), x[2]) + dot(vec4<f32>(bytes(a.w)), x[3]);
    product += dot(vec4<f32>(bytes(b.x)), x[4]) + dot(vec4<f32>(bytes(b.y)), x[5]);
    product += dot(vec4<f32>(bytes(b.z)), x[6]) + dot(vec4<f32>(bytes(b.w)), x[7]);
    let sum = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
    let s = scale_and_bias(m, row, unit);
    return s.x * product + s.y * dot(sum, vec4(1.0));
}

//# when int8
/// Eight rounded elements in the order of the codes.
fn pack_codes(low: vec4<i32>, high: vec4<i32>) -> vec2<u32> {
    return vec2(pack4xI8(low), pack4xI8(high));
}

/// The product of unit `unit` of a row with a rounded unit and its scales. Codes become signed by taking 128 away.
fn dot_codes(m: Matrix, row: u32, unit: u32, x: array<vec2<u32>, 4>, x_scale: vec2<f32>) -> f32 {
    let at = m.offset + row * m.stride + 2u * unit;
    let a = weights[at] ^ vec4(0x80808080u);
    let b = weights[at + 1u] ^ vec4(0x80808080u);
    var product = dot4I8Packed(a.x, x[0].x) + dot4I8Packed(a.y, x[0].y);
    product += dot4I8Packed(a.z, x[1].x) + dot4I8Packed(a.w, x[1].y);
    product += dot4I8Packed(b.x, x[2].x) + dot4I8Packed(b.y, x[2].y);
    product += dot4I8Packed(b.z, x[3].x) + dot4I8Packed(b.w, x[3].y);
    let s = scale_and_bias(m, row, unit);
    return s.x * x_scale.x * f32(product) + (s.y + 128.0 * s.x) * x_scale.y;
}
//# end
