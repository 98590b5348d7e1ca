// MXFP4: E2M1 codes, an E8M0 scale for 32. A unit is one element of the binding.
//# use quantized

fn unit_scale(m: Matrix, row: u32, unit: u32) -> f32 {
    let four = word(m.scales + row * m.scale_stride + unit / 4u);
    return m.factor * e8m0((four >> (unit % 4u * 8u)) & 255u);
}

/// Weights `4 quad ..` of a row.
fn weights_quad(m: Matrix, row: u32, quad: u32) -> vec4<f32> {
    let bits = weights[m.offset + row * m.stride + quad / 8u][quad / 2u % 4u] >> (quad % 2u * 16u);
    return unit_scale(m, row, quad / 8u) * e2m1(nibbles(bits));
}

/// The product of unit `unit` of a row with `x`.
fn dot_unit(m: Matrix, row: u32, unit: u32, x: Unit) -> f32 {
    let codes = weights[m.offset + row * m.stride + unit];
    var product = dot(e2m1(nibbles(codes.x)), x[0]) + dot(e2m1(nibbles(codes.x >> 16u)), x[1]);
    product += dot(e2m1(nibbles(codes.y)), x[2]) + dot(e2m1(nibbles(codes.y >> 16u)), x[3]);
    product += dot(e2m1(nibbles(codes.z)), x[4]) + dot(e2m1(nibbles(codes.z >> 16u)), x[5]);
    product += dot(e2m1(nibbles(codes.w)), x[6]) + dot(e2m1(nibbles(codes.w >> 16u)), x[7]);
    return unit_scale(m, row, unit) * product;
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
    scale: u32,
}

/// Unit `unit` of a row, still packed.
fn load_raw(m: Matrix, row: u32, unit: u32) -> Raw {
    let scale = (word(m.scales + row * m.scale_stride + unit / 4u) >> (unit % 4u * 8u)) & 255u;
    return Raw(weights[m.offset + row * m.stride + unit], scale);
}

/// The product of eight codes and eight rounded elements.
fn dot_word(codes: u32, x: vec2<u32>) -> i32 {
    let even = dot4I8Packed(twice_e2m1(codes & 0x0f0f0f0fu), x.x);
    return even + dot4I8Packed(twice_e2m1((codes >> 4u) & 0x0f0f0f0fu), x.y);
}

/// The product of a loaded unit with a rounded unit and its scales.
fn dot_raw(m: Matrix, raw: Raw, x: Rounded) -> f32 {
    let first = dot_word(raw.codes.x, x.a) + dot_word(raw.codes.y, x.b);
    let second = dot_word(raw.codes.z, x.c) + dot_word(raw.codes.w, x.d);
    return 0.5 * m.factor * e8m0(raw.scale) * x.scale * f32(first + second);
}
//# end

//# when tiles small_tiles
/// Weights `16 granule ..` of a row, still packed.
fn fetch(m: Matrix, row: u32, granule: u32) -> Raw {
    let codes = weights[m.offset + row * m.stride + granule / 2u];
    let own = select(codes.xy, codes.zw, (granule & 1u) == 1u);
    return Raw(vec4(own, 0u, 0u), vec2(unit_scale(m, row, granule / 2u)));
}

/// Decodes packed weights.
fn decode(raw: Raw) -> array<vec4<f32>, 4> {
    let s = raw.scales.x;
    return array(
        s * e2m1(nibbles(raw.codes.x)),
        s * e2m1(nibbles(raw.codes.x >> 16u)),
        s * e2m1(nibbles(raw.codes.y)),
        s * e2m1(nibbles(raw.codes.y >> 16u)),
    );
}
//# end
