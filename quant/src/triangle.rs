//! Dense triangular algebra for [`crate::Feedback`]: a Cholesky factor and its inverse, in place and blocked.
//!
//! Matrices are row-major, `[n, n]`. All heavy work is one product, [`subtract_product`], which
//! processes its operands in pieces that stay in the cache.

use std::ops::{Add, Mul, Sub};

/// Rows processed at once.
const BLOCK: usize = 64;
/// Columns of a piece of a product: with [`BLOCK`] rows in f64, 128 KiB.
const STRIP: usize = 256;

/// `target[r][c] -= sum_k factors[r][k] * source[k][c]` for `c` in `0..width`. The rows of each
/// operand are `stride` apart in its slice; `r` runs over the rows of `factors`, and `k` over
/// `depth` values.
pub(crate) fn subtract_product<T>(
    (target, target_stride): (&mut [T], usize),
    (factors, factors_stride): (&[T], usize),
    (source, source_stride): (&[T], usize),
    [depth, width]: [usize; 2],
) where
    T: Copy + Mul<Output = T> + Add<Output = T> + Sub<Output = T>,
{
    for first in (0..width).step_by(STRIP) {
        let last = (first + STRIP).min(width);
        for from in (0..depth).step_by(BLOCK) {
            let to = (from + BLOCK).min(depth);
            let rows = target.chunks_mut(target_stride).zip(factors.chunks(factors_stride));
            for (target, factors) in rows {
                let target = &mut target[first..last];
                let mut k = from;
                while k + 4 <= to {
                    let [a, b, c, d] = [0, 1, 2, 3].map(|i| {
                        let start = (k + i) * source_stride;
                        &source[start + first..start + last]
                    });
                    let [fa, fb, fc, fd] = [0, 1, 2, 3].map(|i| factors[k + i]);
                    let sources = a.iter().zip(b).zip(c.iter().zip(d));
                    for (target, ((&a, &b), (&c, &d))) in target.iter_mut().zip(sources) {
                        *target = *target - ((fa * a + fb * b) + (fc * c + fd * d));
                    }
                    k += 4;
                }
                for k in k..to {
                    let source = &source[k * source_stride + first..k * source_stride + last];
                    let factor = factors[k];
                    target.iter_mut().zip(source).for_each(|(t, &s)| *t = *t - factor * s);
                }
            }
        }
    }
}

/// Replaces the lower triangle of a symmetric matrix `A` by `L`, `A = L L^T`. The rest is not read
/// and holds arbitrary values afterwards. If the matrix is not positive definite, returns the row
/// at which that was detected.
pub(crate) fn cholesky(a: &mut [f64], n: usize) -> Result<(), usize> {
    let mut transposed = vec![0.0; BLOCK.min(n) * n];
    let mut panel = vec![0.0; BLOCK.min(n) * n];
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        let width = end - start;
        // The block's columns, from the diagonal down: each row needs those above it within the
        // block.
        for i in start..n {
            let (above, row) = a.split_at_mut(i * n);
            for j in start..end.min(i + 1) {
                let dot = |other: &[f64], row: &[f64]| {
                    row[start..j].iter().zip(&other[start..j]).map(|(x, y)| x * y).sum::<f64>()
                };
                if j == i {
                    let pivot = row[i] - dot(row, row);
                    // This also refuses NaN.
                    if !(pivot > 0.0 && pivot.is_finite()) {
                        return Err(i);
                    }
                    row[i] = pivot.sqrt();
                } else {
                    let other = &above[j * n..(j + 1) * n];
                    row[j] = (row[j] - dot(other, row)) / other[j];
                }
            }
        }
        // The part below and to the right of the block: A -= P P^T, a band of rows at a time so
        // that only the triangle is computed.
        let rest = n - end;
        for r in 0..rest {
            for k in 0..width {
                let value = a[(end + r) * n + start + k];
                panel[r * width + k] = value;
                transposed[k * rest + r] = value;
            }
        }
        for band in (0..rest).step_by(BLOCK) {
            let last = (band + BLOCK).min(rest);
            let rows = &mut a[(end + band) * n..(end + last) * n];
            let factors = &panel[band * width..last * width];
            subtract_product(
                (&mut rows[end..], n),
                (factors, width),
                (&transposed, rest.max(1)),
                [width, last],
            );
        }
    }
    Ok(())
}

/// Replaces a lower triangle `L` by its inverse, and sets the part above the diagonal to zero.
pub(crate) fn invert(l: &mut [f64], n: usize) {
    for (i, row) in l.chunks_mut(n).enumerate() {
        row[i + 1..].fill(0.0);
    }
    let mut block = vec![0.0; BLOCK.min(n) * n];
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        let (above, rows) = l.split_at_mut(start * n);
        let block = &mut block[..(end - start) * n];
        block.fill(0.0);
        // -L[block][..start] X[..start]: X is triangular too, but skipping its zeros would save
        // only whole blocks.
        if start > 0 {
            subtract_product((block, n), (rows, n), (above, n), [start, start]);
        }
        for r in 0..end - start {
            let (done, row) = block.split_at_mut(r * n);
            let row = &mut row[..n];
            let factors = &rows[r * n + start..r * n + end];
            row[start + r] = 1.0;
            for (k, done) in done.chunks(n).enumerate() {
                let factor = factors[k];
                row[..end].iter_mut().zip(done).for_each(|(x, d)| *x -= factor * d);
            }
            let pivot = factors[r];
            row[..end].iter_mut().for_each(|x| *x /= pivot);
        }
        rows[..(end - start) * n].copy_from_slice(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symmetric positive definite matrix.
    fn matrix(n: usize) -> Vec<f64> {
        let x: Vec<f64> = (0..n * n).map(|i| ((i * 7919 % 1009) as f64 / 1009.0) - 0.5).collect();
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                let dot: f64 = (0..n).map(|k| x[i * n + k] * x[j * n + k]).sum();
                a[i * n + j] = dot + if i == j { 0.5 } else { 0.0 };
            }
        }
        a
    }

    #[test]
    fn factor_and_inverse_multiply_correctly() {
        // Sizes within a block, of whole blocks, and with a ragged last one; strips of columns too.
        for n in [1, 5, 64, 130, 333] {
            let a = matrix(n);
            let mut l = a.clone();
            cholesky(&mut l, n).unwrap();
            let entry = |m: &[f64], i: usize, j: usize| if j <= i { m[i * n + j] } else { 0.0 };
            for i in 0..n {
                for j in 0..=i {
                    let product: f64 = (0..=j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                    assert!((product - a[i * n + j]).abs() < 1e-9 * n as f64, "{n}: {i} {j}");
                }
            }
            let mut x = l.clone();
            invert(&mut x, n);
            for i in 0..n {
                for j in 0..n {
                    let product: f64 = (0..n).map(|k| entry(&l, i, k) * x[k * n + j]).sum();
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((product - expected).abs() < 1e-9, "{n}: {i} {j} {product}");
                }
            }
        }
    }

    #[test]
    fn indefinite_matrices_are_refused_with_the_row() {
        let mut a = matrix(100);
        a[70 * 100 + 70] = -1.0;
        assert_eq!(cholesky(&mut a, 100), Err(70));
        let mut a = matrix(3);
        a[0] = f64::NAN;
        assert_eq!(cholesky(&mut a, 3), Err(0));
    }
}
