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

/// The part of a row that a thread loads at once: a unit has as many words as a code has bits.
struct Raw {
    codes: array<u32, BITS>,
    scale: vec2<u32>,
}

/// Unit `unit` of a row, still packed.
fn load_raw(m: Matrix, row: u32, unit: u32) -> Raw {
    let at = m.offset + row * m.stride + unit * BITS;
    var raw: Raw;
    for (var i = 0u; i < BITS; i += 1u) {
        raw.codes[i] = word(at + i);
    }
    raw.scale = load_scale(m, row, unit);
    return raw;
}

/// Codes `4 quad ..` of a unit, a byte each.
fn code_bytes(codes: array<u32, BITS>, quad: u32) -> u32 {
    let bit = quad * 4u * BITS;
    let shift = bit % 32u;
    var window = codes[bit / 32u] >> shift;
    if shift + 4u * BITS > 32u {
        window |= codes[bit / 32u + 1u] << (32u - shift);
    }
    let quads = (vec4(window) >> vec4(0u, BITS, 2u * BITS, 3u * BITS)) & vec4((1u << BITS) - 1u);
    return quads.x | (quads.y << 8u) | (quads.z << 16u) | (quads.w << 24u);
}

/// The product of a loaded unit with a rounded unit and its scales.
fn dot_raw(m: Matrix, raw: Raw, x: Rounded) -> f32 {
    var product = dot4I8Packed(code_bytes(raw.codes, 0u), x.a.x) + dot4I8Packed(code_bytes(raw.codes, 1u), x.a.y);
    product += dot4I8Packed(code_bytes(raw.codes, 2u), x.b.x) + dot4I8Packed(code_bytes(raw.codes, 3u), x.b.y);
    product += dot4I8Packed(code_bytes(raw.codes, 4u), x.c.x) + dot4I8Packed(code_bytes(raw.codes, 5u), x.c.y);
    product += dot4I8Packed(code_bytes(raw.codes, 6u), x.d.x) + dot4I8Packed(code_bytes(raw.codes, 7u), x.d.y);
    let s = scale_of(m, raw.scale);
    return s.x * x.scale * f32(product) + s.y * x.sum;
}
//# end

//# when tiles small_tiles
/// Number of words that contain sixteen codes, wherever they start.
const WORDS: u32 = (BITS + 1u) / 2u;

/// Weights `16 granule ..` of a row, still packed.
fn fetch(m: Matrix, row: u32, granule: u32) -> Raw {
    let bit = granule * 16u * BITS;
    let at = m.offset + row * m.stride + bit / 32u;
    var codes = vec4(word(at), 0u, 0u, 0u);
    if WORDS > 1u {
        codes.y = word(at + 1u);
    }
    if WORDS > 2u {
        codes.z = word(at + 2u);
    }
    if bit % 32u != 0u {
        codes = (codes >> vec4(16u)) | vec4(codes.yzw << vec3(16u), 0u);
    }
    return Raw(codes, scale_and_bias(m, row, granule / 2u));
}

/// Four codes starting at bit `bit` of `codes`.
fn four_codes(codes: vec4<u32>, bit: u32) -> vec4<f32> {
    let shift = bit % 32u;
    var window = codes[bit / 32u] >> shift;
    if shift + 4u * BITS > 32u {
        window |= codes[bit / 32u + 1u] << (32u - shift);
    }
    return vec4<f32>((vec4(window) >> vec4(0u, BITS, 2u * BITS, 3u * BITS)) & vec4((1u << BITS) - 1u));
}

/// Decodes packed weights.
fn decode(raw: Raw) -> array<vec4<f32>, 4> {
    let s = raw.scales;
    return array(
        s.x * four_codes(raw.codes, 0u) + s.y,
        s.x * four_codes(raw.codes, 4u * BITS) + s.y,
        s.x * four_codes(raw.codes, 8u * BITS) + s.y,
        s.x * four_codes(raw.codes, 12u * BITS) + s.y,
    );
}
//# end
