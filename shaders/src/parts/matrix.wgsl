// The position of a matrix in the binding `weights`. A unit is the part of a row that a thread multiplies at once:
// `UNIT` weights.

struct Matrix {
    /// Index of the first code, in elements of the binding (for packed codes, in words).
    offset: u32,
    /// Distance between rows, in the same unit.
    stride: u32,
    /// Index of the first word of scales.
    scales: u32,
    /// Words of scales per row.
    scale_stride: u32,
    /// Number of units that share a scale.
    units: u32,
    /// Storage of an affine scale and bias: `SCALES_F16`, ...
    kind: u32,
    /// Factor on all weights.
    factor: f32,
}
