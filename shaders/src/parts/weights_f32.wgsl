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
