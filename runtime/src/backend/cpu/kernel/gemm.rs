//! `C = A B (+ C)` in f32, with any strides for `A`, and `B` and `C` with contiguous rows: the
//! products of the chunkwise scans and of attention, whose matrices are activations and states.
//!
//! A tile of `R` rows by `V` vectors of `C` stays in registers; each step takes one row of `B` and
//! one element of `A` per row.

use crate::backend::cpu::simd::{Kernel, Simd};

/// `C[i, j] = sum_k A[i, k] B[k, j]`, added to `C` if `accumulate`.
pub(crate) struct Gemm<'a, 'c> {
    /// Rows of `A` and `C`.
    pub m: usize,
    /// Columns of `B` and `C`.
    pub n: usize,
    /// Columns of `A`, rows of `B`.
    pub k: usize,
    /// `A[i, k]` is `a[i * a_row + k * a_col]`.
    pub a: &'a [f32],
    pub a_row: usize,
    pub a_col: usize,
    /// `B[k, j]` is `b[k * b_row + j]`.
    pub b: &'a [f32],
    pub b_row: usize,
    /// `C[i, j]` is `c[i * c_row + j]`.
    pub c: &'c mut [f32],
    pub c_row: usize,
    pub accumulate: bool,
}

impl Kernel for Gemm<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let job = &mut self;
        if job.m == 0 || job.n == 0 {
            return;
        }
        let mut column = 0;
        while column < job.n {
            let left = job.n - column;
            let vectors = left / S::LANES;
            if vectors >= 4 {
                if S::WIDE {
                    rows::<S, 6, 4>(s, job, column);
                } else {
                    rows::<S, 2, 4>(s, job, column);
                }
                column += 4 * S::LANES;
            } else if vectors >= 2 {
                rows::<S, 4, 2>(s, job, column);
                column += 2 * S::LANES;
            } else if vectors == 1 {
                rows::<S, 8, 1>(s, job, column);
                column += S::LANES;
            } else {
                for row in 0..job.m {
                    last_columns(s, job, row, column);
                }
                column = job.n;
            }
        }
    }
}

#[inline(always)]
fn rows<S: Simd, const R: usize, const V: usize>(s: S, job: &mut Gemm<'_, '_>, column: usize) {
    let mut row = 0;
    while row + R <= job.m {
        tile::<S, R, V>(s, job, row, column);
        row += R;
    }
    while row + 2 <= job.m {
        tile::<S, 2, V>(s, job, row, column);
        row += 2;
    }
    if row < job.m {
        tile::<S, 1, V>(s, job, row, column);
    }
}

#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    s: S,
    job: &mut Gemm<'_, '_>,
    row: usize,
    column: usize,
) {
    let width = V * S::LANES;
    let mut sums = [[s.zero(); V]; R];
    let mut bv = [s.zero(); V];
    for k in 0..job.k {
        let start = k * job.b_row + column;
        let b = &S::blocks(&job.b[start..start + width]).0[..V];
        for v in 0..V {
            bv[v] = s.load(&b[v]);
        }
        for r in 0..R {
            let a = s.splat(job.a[(row + r) * job.a_row + k * job.a_col]);
            for v in 0..V {
                sums[r][v] = s.fma(a, bv[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let start = (row + r) * job.c_row + column;
        let c = &mut S::blocks_mut(&mut job.c[start..start + width]).0[..V];
        for v in 0..V {
            let sum = if job.accumulate { s.add(sums[r][v], s.load(&c[v])) } else { sums[r][v] };
            s.store(sum, &mut c[v]);
        }
    }
}

/// The columns of a row after the last whole vector.
#[inline(always)]
fn last_columns<S: Simd>(s: S, job: &mut Gemm<'_, '_>, row: usize, column: usize) {
    let width = job.n - column;
    let mut sum = s.zero();
    for k in 0..job.k {
        let start = k * job.b_row + column;
        let b = s.load_partial(&job.b[start..start + width]);
        sum = s.fma(s.splat(job.a[row * job.a_row + k * job.a_col]), b, sum);
    }
    let start = row * job.c_row + column;
    let c = &mut job.c[start..start + width];
    if job.accumulate {
        sum = s.add(sum, s.load_partial(c));
    }
    s.store_partial(sum, c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Isa;
    use crate::backend::cpu::test_util::Random;

    #[test]
    fn every_tile_and_edge_equals_the_plain_product() {
        let mut random = Random::new(2);
        for isa in Isa::available() {
            for (m, n, k) in [
                (1, 1, 1),
                (7, 5, 3),
                (6, 64, 9),
                (13, 150, 17),
                (3, 31, 64),
                (16, 16, 0),
                (1, 64, 24),
            ] {
                for transposed in [false, true] {
                    for accumulate in [false, true] {
                        let (a_row, a_col) = if transposed { (1, m + 2) } else { (k + 1, 1) };
                        let a = random.normal(m * a_row + k * a_col + 1);
                        let b = random.normal(k * (n + 5));
                        let before = random.normal(m * (n + 2));
                        let mut c = before.clone();
                        isa.dispatch(Gemm {
                            m,
                            n,
                            k,
                            a: &a,
                            a_row,
                            a_col,
                            b: &b,
                            b_row: n + 5,
                            c: &mut c,
                            c_row: n + 2,
                            accumulate,
                        });
                        for i in 0..m {
                            for j in 0..n {
                                let mut sum = f64::from(if accumulate {
                                    before[i * (n + 2) + j]
                                } else {
                                    0.0
                                });
                                for l in 0..k {
                                    sum += f64::from(a[i * a_row + l * a_col])
                                        * f64::from(b[l * (n + 5) + j]);
                                }
                                let got = f64::from(c[i * (n + 2) + j]);
                                assert!((got - sum).abs() < 1e-4, "{m}x{n}x{k} {}", isa.name());
                            }
                            assert_eq!(c[i * (n + 2) + n..][..2], before[i * (n + 2) + n..][..2]);
                        }
                    }
                }
            }
        }
    }
}
