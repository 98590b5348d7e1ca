// MXFP8: E4M3 codes, an E8M0 scale for 32. A unit is two elements of the binding.
//# use quantized

fn unit_scale(m: Matrix, row: u32, unit: u32) -> f32 {
    let four = word(m.scales + row * m.scale_stride + unit / 4u);
    return m.factor * e8m0((four >> (unit % 4u * 8u)) & 255u);
}

/// Weights `4 quad ..` of a row.
fn weights_quad(m: Matrix, row: u32, quad: u32) -> vec4<f32> {
    let codes = bytes(weights[m.offset + row * m.stride + quad / 4u][quad % 4u]);
    return unit_scale(m, row, quad / 8u) * e4m3(codes);
}

/// The product of unit `unit` of a row with `x`.
fn dot_unit(m: Matrix, row: u32, unit: u32, x: Unit) -> f32 {
    let at = m.offset + row * m.stride + 2u * unit;
    let a = weights[at];
    let b = weights[at + 1u];
    var product = dot(e4m3(bytes(a.x)), x[0]) + dot(e4m3(bytes(a.y)), x[1]);
    product += dot(e4m3(bytes(a.z)), x[2]) + dot(e4m3(bytes(a.w)), x[3]);
    product += dot(e4m3(bytes(b.x)), x[4]) + dot(e4m3(bytes(b.y)), x[5]);
    product += dot(e4m3(bytes(b.z)), x[6]) + dot(e4m3(bytes(b.w)), x[7]);
    return unit_scale(m, row, unit) * product;
}

//# when tiles small_tiles
/// Weights `16 granule ..` of a row, still packed.
fn fetch(m: Matrix, row: u32, granule: u32) -> Raw {
    return Raw(weights[m.offset + row * m.stride + granule], vec2(unit_scale(m, row, granule / 2u)));
}

/// Decodes packed weights.
fn decode(raw: Raw) -> array<vec4<f32>, 4> {
    let s = raw.scales.x;
    return array(
        s * e4m3(bytes(raw.codes.x)),
        s * e4m3(bytes(raw.codes.y)),
        s * e4m3(bytes(raw.codes.z)),
        s * e4m3(bytes(raw.codes.w)),
    );
}
//# end
