// Shared by the quantized formats. Codes of all rows come first, then the scales.
//# use matrix

/// Packed codes, rows padded with zeros to whole units, and scales.
@group(0) @binding(_) var<storage, read> weights: array<vec4<u32>>;

const UNIT: u32 = 32u;
alias Unit = array<vec4<f32>, 8>;

/// Word `i` of the binding.
fn word(i: u32) -> u32 {
    return weights[i / 4u][i % 4u];
}

/// Four codes of four bits each, from the lowest bits.
fn nibbles(bits: u32) -> vec4<u32> {
    return (vec4(bits) >> vec4(0u, 4u, 8u, 12u)) & vec4(15u);
}

/// Four codes of a byte each, from the lowest byte.
fn bytes(bits: u32) -> vec4<u32> {
    return (vec4(bits) >> vec4(0u, 8u, 16u, 24u)) & vec4(255u);
}

/// E2M1: a sign, two bits of exponent, one of mantissa.
fn e2m1(code: vec4<u32>) -> vec4<f32> {
    let magnitude = code & vec4(7u);
    let normal = bitcast<vec4<f32>>((magnitude << vec4(22u)) + vec4(126u << 23u));
    let value = select(normal, 2.0 * (normal - 0.5), magnitude < vec4(2u));
    return select(value, -value, code > vec4(7u));
}

/// E4M3: a sign, four bits of exponent, three of mantissa; no infinities.
fn e4m3(code: vec4<u32>) -> vec4<f32> {
    let magnitude = code & vec4(127u);
    let normal = bitcast<vec4<f32>>((magnitude << vec4(20u)) + vec4(120u << 23u));
    let value = select(normal, 2.0 * (normal - 0.0078125), magnitude < vec4(8u));
    return select(value, -value, code > vec4(127u));
}

/// E8M0, a power of two; computed from two factors, neither of which is subnormal.
fn e8m0(code: u32) -> f32 {
    let low = code / 2u;
    return bitcast<f32>((low + 64u) << 23u) * bitcast<f32>((code - low + 63u) << 23u);
}

//# when int8
/// Twice the values of four E2M1 codes, each in the low half of a byte: integers from -12 to 12.
fn twice_e2m1(codes: u32) -> u32 {
    let ones = 0x01010101u;
    let mantissa = codes & ones;
    let low = (codes >> 1u) & ones;
    let high = (codes >> 2u) & ones;
    // With exponent 0 there is no leading bit; each exponent above 1 doubles.
    var value = mantissa + (low | high) * 2u;
    value += value & (high * 255u);
    value += value & ((high & low) * 255u);
    // There is no negative 0: its increment would carry into the next byte.
    let negative = (codes >> 3u) & (mantissa | low | high);
    return (value ^ (negative * 255u)) + negative;
}
//# end

//# when tiles small_tiles
/// Sixteen packed weights: their codes from the lowest bit, and their shared scale.
struct Raw {
    codes: vec4<u32>,
    scales: vec2<f32>,
}

/// Four codes of four bits each as numbers, from the lowest bits: placed into the mantissas of numbers from 1 to 2,
/// which is cheaper than a conversion.
fn nibbles_as_floats(bits: u32) -> vec4<f32> {
    let placed = (vec4(bits << 19u, bits << 15u, bits << 11u, bits << 7u) & vec4(0x780000u)) | vec4(0x3f800000u);
    return 16.0 * (bitcast<vec4<f32>>(placed) - 1.0);
}
//# end
