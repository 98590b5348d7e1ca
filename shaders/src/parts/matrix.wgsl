// Where a matrix lies in the binding `weights`. A unit is the part of a row that a thread multiplies at once: `UNIT` weights.

struct Matrix {
    /// First code, in elements of the binding (of packed codes: in words).
    offset: u32,
    /// The same from one row to the next.
    stride: u32,
    /// First word of scales.
    scales: u32,
    /// Words of scales from one row to the next.
    scale_stride: u32,
    /// Units that share a scale.
    units: u32,
    /// How an affine scale and bias are stored: `SCALES_F16`, ...
    kind: u32,
    /// What all weights are multiplied with.
    factor: f32,
}
