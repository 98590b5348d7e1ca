//# use matrix

/// Rows of `f16`, eight to an element, padded with zeros to whole units.
@group(0) @binding(_) var<storage, read> weights: array<vec4<u32>>;

const UNIT: u32 = 8u;
alias Unit = array<vec4<f32>, 2>;

fn four(words: vec2<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}

/// Weights `4 quad ..` of a row.
fn weights_quad(m: Matrix, row: u32, quad: u32) -> vec4<f32> {
    let words = weights[m.offset + row * m.stride + quad / 2u];
    return four(select(words.xy, words.zw, (quad & 1u) == 1u));
}

/// The product of unit `unit` of a row with `x`.
fn dot_unit(m: Matrix, row: u32, unit: u32, x: Unit) -> f32 {
    let words = weights[m.offset + row * m.stride + unit];
    return dot(four(words.xy), x[0]) + dot(four(words.zw), x[1]);
}

//# when tiles small_tiles
/// Sixteen packed weights.
struct Raw {
    first: vec4<u32>,
    second: vec4<u32>,
}

/// Weights `16 granule ..` of a row, still packed; zeros after its end.
fn fetch(m: Matrix, row: u32, granule: u32) -> Raw {
    var raw: Raw;
    let at = m.offset + row * m.stride + 2u * granule;
    raw.first = weights[at];
    if 2u * granule + 1u < m.stride {
        raw.second = weights[at + 1u];
    }
    return raw;
}

/// Decodes packed weights.
fn decode(raw: Raw) -> array<vec4<f32>, 4> {
    return array(four(raw.first.xy), four(raw.first.zw), four(raw.second.xy), four(raw.second.zw));
}
//# end
