// Affine codes of any number of bits, `BITS`; four of them are gathered from one or two words.
//# use affine

/// Codes `4 quad ..` of a row.
fn codes_quad(m: Matrix, row: u32, quad: u32) -> vec4<f32> {
    let bit = quad * 4u * BITS;
    let at = m.offset + row * m.stride + bit / 32u;
    let shift = bit % 32u;
    var window = word(at) >> shift;
    if shift + 4u * BITS > 32u {
        window |= word(at + 1u) << (32u - shift);
    }
    return vec4<f32>((vec4(window) >> vec4(0u, BITS, 2u * BITS, 3u * BITS)) & vec4((1u << BITS) - 1u));
}

/// Weights `4 quad ..` of a row.
fn weights_quad(m: Matrix, row: u32, quad: u32) -> vec4<f32> {
    let s = scale_and_bias(m, row, quad / 8u);
    return s.x * codes_quad(m, row, quad) + s.y;
}

/// The product of unit `unit` of a row with `x`.
fn dot_unit(m: Matrix, row: u32, unit: u32, x: Unit) -> f32 {
    var product = 0.0;
    var sum = vec4(0.0);
    for (var i = 0u; i < 8u; i += 1u) {
        product += dot(codes_quad(m, row, unit * 8u + i), x[i]);
        sum += x[i];
    }
    let s = scale_and_bias(m, row, unit);
    return s.x * product + s.y * dot(sum, vec4(1.0));
}

//# when int8
/// Eight rounded elements in the order of the codes.
fn pack_codes(low: vec4<i32>, high: vec4<i32>) -> vec2<u32> {
    return vec2(pack4xI8(low), pack4xI8(high));
}

/// Codes `4 quad ..` of a row, a byte each.
fn code_bytes(m: Matrix, row: u32, quad: u32) -> u32 {
    let bit = quad * 4u * BITS;
    let at = m.offset + row * m.stride + bit / 32u;
    let shift = bit % 32u;
    var window = word(at) >> shift;
    if shift + 4u * BITS > 32u {
        window |= word(at + 1u) << (32u - shift);
    }
    let codes = (vec4(window) >> vec4(0u, BITS, 2u * BITS, 3u * BITS)) & vec4((1u << BITS) - 1u);
    return codes.x | (codes.y << 8u) | (codes.z << 16u) | (codes.w << 24u);
}

/// The product of unit `unit` of a row with a rounded unit and its scales.
fn dot_codes(m: Matrix, row: u32, unit: u32, x: array<vec2<u32>, 4>, x_scale: vec2<f32>) -> f32 {
    var product = 0;
    for (var i = 0u; i < 4u; i += 1u) {
        product += dot4I8Packed(code_bytes(m, row, unit * 8u + 2u * i), x[i].x);
        product += dot4I8Packed(code_bytes(m, row, unit * 8u + 2u * i + 1u), x[i].y);
    }
    let s = scale_and_bias(m, row, unit);
    return s.x * x_scale.x * f32(product) + s.y * x_scale.y;
}
//# end
