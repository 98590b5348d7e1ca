//! `out[t, r] = W[r] . x[t]`: products of weight rows, of any dense type, with activations.
//!
//! Weights are row-major with the inputs along the row, so every output is a dot product of two
//! contiguous vectors. A tile of `R` rows by `M` tokens keeps `R * M` vector accumulators in
//! registers: each weight is loaded and widened once per `M` tokens, each activation once per `R`
//! rows. For one token, the tile streams `R` rows of weights in parallel at the memory's speed.

use kinglet_quant::DType;

use crate::backend::cpu::simd::{Kernel, Simd};

/// Rows of a dense matrix, possibly with gaps between rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Little-endian elements without alignment.
    pub bytes: &'a [u8],
    pub dtype: DType,
    /// Elements per row.
    pub cols: usize,
    /// Bytes from the start of a row to the start of the next.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Row-major without gaps.
    pub(crate) fn packed(bytes: &'a [u8], dtype: DType, cols: usize) -> Self {
        Self { bytes, dtype, cols, stride: cols * dtype.size() }
    }

    /// `[.., cols]` of f32, with rows `stride` elements apart.
    pub(crate) fn floats(x: &'a [f32], cols: usize, stride: usize) -> Self {
        Self { bytes: bytemuck::cast_slice(x), dtype: DType::F32, cols, stride: 4 * stride }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u8] {
        let start = row * self.stride;
        &self.bytes[start..start + self.cols * self.dtype.size()]
    }
}

/// Activations: `tokens` vectors, `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Vectors<'a> {
    pub x: &'a [f32],
    pub stride: usize,
    pub tokens: usize,
}

impl<'a> Vectors<'a> {
    #[inline(always)]
    fn token(&self, token: usize, cols: usize) -> &'a [f32] {
        let start = token * self.stride;
        &self.x[start..start + cols]
    }
}

/// `out[t * out_stride + r] = W[first_row + r] . x[t]` for `r < rows` and all tokens.
pub(crate) struct MatMul<'a, 'o> {
    pub weight: Rows<'a>,
    pub first_row: usize,
    pub rows: usize,
    pub x: Vectors<'a>,
    pub out: &'o mut [f32],
    pub out_stride: usize,
}

impl Kernel for MatMul<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.weight.dtype {
            DType::F32 => matmul::<S, F32>(s, self),
            DType::F16 => matmul::<S, F16>(s, self),
            DType::BF16 => matmul::<S, BF16>(s, self),
        }
    }
}

/// How a dense type is loaded.
trait Dense {
    type Block<S: Simd>: Copy;
    const DTYPE: DType;
    /// Splits a row's bytes into whole blocks and the rest.
    fn blocks<S: Simd>(row: &[u8]) -> (&[Self::Block<S>], &[u8]);
    fn load<S: Simd>(s: S, block: &Self::Block<S>) -> S::F;
}

macro_rules! dense {
    ($name:ident, $dtype:expr, $block:ident, $blocks:ident, $load:ident) => {
        struct $name;

        impl Dense for $name {
            type Block<S: Simd> = S::$block;
            const DTYPE: DType = $dtype;
            #[inline(always)]
            fn blocks<S: Simd>(row: &[u8]) -> (&[S::$block], &[u8]) {
                S::$blocks(row)
            }
            #[inline(always)]
            fn load<S: Simd>(s: S, block: &S::$block) -> S::F {
                s.$load(block)
            }
        }
    };
}

dense!(F32, DType::F32, Bytes4, bytes4, load_f32);
dense!(F16, DType::F16, Bytes2, bytes2, load_f16);
dense!(BF16, DType::BF16, Bytes2, bytes2, load_bf16);

#[inline(always)]
fn matmul<S: Simd, D: Dense>(s: S, job: MatMul<'_, '_>) {
    if S::WIDE {
        row_tiles::<S, D, 4, 6>(s, job);
    } else {
        row_tiles::<S, D, 2, 4>(s, job);
    }
}

#[inline(always)]
fn row_tiles<S: Simd, D: Dense, const R: usize, const M: usize>(s: S, mut job: MatMul<'_, '_>) {
    let mut row = 0;
    if job.x.tokens == 1 {
        // One token: four rows in parallel on every unit, since registers are free.
        while row + 4 <= job.rows {
            tile::<S, D, 4, 1>(s, &mut job, row, 0);
            row += 4;
        }
    }
    while row + R <= job.rows {
        token_tiles::<S, D, R, M>(s, &mut job, row);
        row += R;
    }
    while row < job.rows {
        token_tiles::<S, D, 1, M>(s, &mut job, row);
        row += 1;
    }
}

#[inline(always)]
fn token_tiles<S: Simd, D: Dense, const R: usize, const M: usize>(
    s: S,
    job: &mut MatMul<'_, '_>,
    row: usize,
) {
    let (mut token, tokens) = (0, job.x.tokens);
    while token + M <= tokens {
        tile::<S, D, R, M>(s, job, row, token);
        token += M;
    }
    while token + 2 <= tokens {
        tile::<S, D, R, 2>(s, job, row, token);
        token += 2;
    }
    if token < tokens {
        tile::<S, D, R, 1>(s, job, row, token);
    }
}

#[inline(always)]
fn tile<S: Simd, D: Dense, const R: usize, const M: usize>(
    s: S,
    job: &mut MatMul<'_, '_>,
    row: usize,
    token: usize,
) {
    let cols = job.weight.cols;
    let whole = cols / S::LANES;
    let rows: [&[u8]; R] = std::array::from_fn(|r| job.weight.row(job.first_row + row + r));
    let xs: [&[f32]; M] = std::array::from_fn(|m| job.x.token(token + m, cols));
    let w: [&[D::Block<S>]; R] = std::array::from_fn(|r| &D::blocks::<S>(rows[r]).0[..whole]);
    let x: [&[S::Block]; M] = std::array::from_fn(|m| &S::blocks(xs[m]).0[..whole]);
    let mut sums = [[s.zero(); M]; R];
    let ahead = R * job.weight.stride;
    let mut xv = [s.zero(); M];
    for i in 0..whole {
        for m in 0..M {
            xv[m] = s.load(&x[m][i]);
        }
        for r in 0..R {
            if M == 1 {
                // Rows are too short for the hardware prefetcher, which restarts with each row:
                // prefetch the same position in the rows that come next.
                s.prefetch(w[r].as_ptr().wrapping_add(i).cast::<u8>().wrapping_add(ahead));
            }
            let wv = D::load(s, &w[r][i]);
            for m in 0..M {
                sums[r][m] = s.fma(wv, xv[m], sums[r][m]);
            }
        }
    }
    let tail = whole * S::LANES;
    if tail < cols {
        let xv: [S::F; M] = std::array::from_fn(|m| s.load_partial(&xs[m][tail..]));
        for r in 0..R {
            let wv = load_tail::<S, D>(s, &rows[r][tail * D::DTYPE.size()..], cols - tail);
            for m in 0..M {
                sums[r][m] = s.fma(wv, xv[m], sums[r][m]);
            }
        }
    }
    for m in 0..M {
        let start = (token + m) * job.out_stride + row;
        let out = &mut job.out[start..start + R];
        for r in 0..R {
            out[r] = s.sum(sums[r][m]);
        }
    }
}

/// Loads the last elements of a row, fewer than a vector.
#[inline(always)]
fn load_tail<S: Simd, D: Dense>(s: S, bytes: &[u8], count: usize) -> S::F {
    let mut padded = [0.0f32; 16];
    // The lengths agree by construction: `row` cuts rows of `cols` elements.
    let decoded = kinglet_quant::decode(D::DTYPE, bytes, &mut padded[..count]);
    debug_assert!(decoded.is_ok());
    s.load_partial(&padded[..count])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Isa;
    use crate::backend::cpu::test_util::Random;
    use half::{bf16, f16};

    #[test]
    fn every_type_tile_and_tail_equals_the_plain_product() {
        let mut random = Random::new(1);
        for isa in Isa::available() {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                for (rows, cols, tokens) in [
                    (1, 1, 1),
                    (5, 3, 2),
                    (4, 16, 1),
                    (9, 33, 7),
                    (13, 100, 13),
                    (7, 64, 6),
                    (3, 47, 5),
                ] {
                    let w = random.normal(rows * cols);
                    let mut bytes = vec![0u8];
                    for &v in &w {
                        match dtype {
                            DType::F32 => bytes.extend(v.to_le_bytes()),
                            DType::F16 => bytes.extend(f16::from_f32(v).to_le_bytes()),
                            DType::BF16 => bytes.extend(bf16::from_f32(v).to_le_bytes()),
                        }
                    }
                    let bytes = &bytes[1..];
                    let mut exact = vec![0.0; rows * cols];
                    kinglet_quant::decode(dtype, bytes, &mut exact).unwrap();
                    let stride = cols + 3;
                    let x = random.normal(tokens * stride);
                    let (first_row, count) = (rows / 3, rows - rows / 3);
                    let mut out = vec![f32::NAN; tokens * (count + 1)];
                    isa.dispatch(MatMul {
                        weight: Rows::packed(bytes, dtype, cols),
                        first_row,
                        rows: count,
                        x: Vectors { x: &x, stride, tokens },
                        out: &mut out,
                        out_stride: count + 1,
                    });
                    for t in 0..tokens {
                        for r in 0..count {
                            let row = &exact[(first_row + r) * cols..][..cols];
                            let products = row.iter().zip(&x[t * stride..]);
                            let expected: f64 =
                                products.map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                            let got = f64::from(out[t * (count + 1) + r]);
                            assert!(
                                (got - expected).abs() < 1e-5 * (cols as f64).sqrt(),
                                "{dtype} {} {rows}x{cols}x{tokens}",
                                isa.name()
                            );
                        }
                    }
                }
            }
        }
    }
}
