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
