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

//# when int8
/// Eight rounded elements in the order of the codes: even elements belong to the low halves of the codes' bytes.
fn pack_codes(low: vec4<i32>, high: vec4<i32>) -> vec2<u32> {
    return vec2(
        pack4xI8(vec4(low.x, low.z, high.x, high.z)),
        pack4xI8(vec4(low.y, low.w, high.y, high.w)),
    );
}

/// The part of a row that a thread loads at once.
struct Raw {
    codes: vec4<u32>,
    scale: vec2<u32>,
}

/// Unit `unit` of a row, still packed.
fn load_raw(m: Matrix, row: u32, unit: u32) -> Raw {
    return Raw(weights[m.offset + row * m.stride + unit], load_scale(m, row, unit));
}

/// The product of a loaded unit with a rounded unit and its scales.
fn dot_raw(m: Matrix, raw: Raw, x: Rounded) -> f32 {
    let low = raw.codes & vec4(0x0f0f0f0fu);
    let high = (raw.codes >> vec4(4u)) & vec4(0x0f0f0f0fu);
    var product = dot4I8Packed(low.x, x.a.x) + dot4I8Packed(high.x, x.a.y);
    product += dot4I8Packed(low.y, x.b.x) + dot4I8Packed(high.y, x.b.y);
    product += dot4I8Packed(low.z, x.c.x) + dot4I8Packed(high.z, x.c.y);
    product += dot4I8Packed(low.w, x.d.x) + dot4I8Packed(high.w, x.d.y);
    let s = scale_of(m, raw.scale);
    return s.x * x.scale * f32(product) + s.y * x.sum;
}
//# end

//# when tiles small_tiles
/// Weights `16 granule ..` of a row, still packed.
fn fetch(m: Matrix, row: u32, granule: u32) -> Raw {
    let codes = weights[m.offset + row * m.stride + granule / 2u];
    let own = select(codes.xy, codes.zw, (granule & 1u) == 1u);
    return Raw(vec4(own, 0u, 0u), scale_and_bias(m, row, granule / 2u));
}

/// Decodes packed weights.
fn decode(raw: Raw) -> array<vec4<f32>, 4> {
    let s = raw.scales;
    return array(
        s.x * nibbles_as_floats(raw.codes.x) + s.y,
        s.x * nibbles_as_floats(raw.codes.x >> 16u) + s.y,
        s.x * nibbles_as_floats(raw.codes.y) + s.y,
        s.x * nibbles_as_floats(raw.codes.y >> 16u) + s.y,
    );
}
//# end
