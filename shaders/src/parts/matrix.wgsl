// Where a matrix lies in the binding `weights`. A unit is the least part of a row that is read at once: `UNIT` weights.

struct Matrix {
    /// First element of the binding, in the binding's own type.
    offset: u32,
    /// Elements from one row to the next.
    stride: u32,
    /// First scale, in words.
    scales: u32,
    /// First bias, in words.
    biases: u32,
    /// Scales of a row.
    groups: u32,
}
