//# use matrix

/// Rows of `f32`, padded with zeros to whole units.
@group(0) @binding(_) var<storage, read> weights: array<vec4<f32>>;

const UNIT: u32 = 4u;
alias Unit = array<vec4<f32>, 1>;

/// Weights `4 quad ..` of a row.
fn weights_quad(m: Matrix, row: u32, quad: u32) -> vec4<f32> {
    return weights[m.offset + row * m.stride + quad];
}

/// The product of unit `unit` of a row with `x`.
fn dot_unit(m: Matrix, row: u32, unit: u32, x: Unit) -> f32 {
    return dot(weights[m.offset + row * m.stride + unit], x[0]);
}

//# when tiles small_tiles
/// Sixteen packed weights.
struct Raw {
    values: array<vec4<f32>, 4>,
}

/// Weights `16 granule ..` of a row, still packed; zeros after its end.
fn fetch(m: Matrix, row: u32, granule: u32) -> Raw {
    var raw: Raw;
    let first = 4u * granule;
    let at = m.offset + row * m.stride + first;
    raw.values[0] = weights[at];
    if first + 1u < m.stride {
        raw.values[1] = weights[at + 1u];
    }
    if first + 2u < m.stride {
        raw.values[2] = weights[at + 2u];
    }
    if first + 3u < m.stride {
        raw.values[3] = weights[at + 3u];
    }
    return raw;
}

/// Decodes packed weights.
fn decode(raw: Raw) -> array<vec4<f32>, 4> {
    return raw.values;
}
//# end
