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

/// The part of a row that a thread loads at once.
struct Raw {
    low: vec4<u32>,
    high: vec4<u32>,
    scale: vec2<u32>,
}

/// Unit `unit` of a row, still packed.
fn load_raw(m: Matrix, row: u32, unit: u32) -> Raw {
    let at = m.offset + row * m.stride + 2u * unit;
    return Raw(weights[at], weights[at + 1u], load_scale(m, row, unit));
}

/// The product of a loaded unit with a rounded unit and its scales. Codes become signed by subtracting 128.
fn dot_raw(m: Matrix, raw: Raw, x: Rounded) -> f32 {
    let low = raw.low ^ vec4(0x80808080u);
    let high = raw.high ^ vec4(0x80808080u);
    var product = dot4I8Packed(low.x, x.a.x) + dot4I8Packed(low.y, x.a.y);
    product += dot4I8Packed(low.z, x.b.x) + dot4I8Packed(low.w, x.b.y);
    product += dot4I8Packed(high.x, x.c.x) + dot4I8Packed(high.y, x.c.y);
    product += dot4I8Packed(high.z, x.d.x) + dot4I8Packed(high.w, x.d.y);
    let s = scale_of(m, raw.scale);
    return s.x * x.scale * f32(product) + (s.y + 128.0 * s.x) * x.sum;
}
//# end

//# when tiles small_tiles
/// Weights `16 granule ..` of a row, still packed.
fn fetch(m: Matrix, row: u32, granule: u32) -> Raw {
    return Raw(weights[m.offset + row * m.stride + granule], scale_and_bias(m, row, granule / 2u));
}

/// Decodes packed weights.
fn decode(raw: Raw) -> array<vec4<f32>, 4> {
    let s = raw.scales;
    return array(
        s.x * vec4<f32>(bytes(raw.codes.x)) + s.y,
        s.x * vec4<f32>(bytes(raw.codes.y)) + s.y,
        s.x * vec4<f32>(bytes(raw.codes.z)) + s.y,
        s.x * vec4<f32>(bytes(raw.codes.w)) + s.y,
    );
}
//# end
