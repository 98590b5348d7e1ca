//! Sums that never decay, each kept as two numbers: the sum in f32, and what its additions rounded off (Neumaier, "Rundungsfehleranalyse
//! einiger Verfahren zur Summation endlicher Summen", 1974). Rust rounds every operation as it is written, so no compiler removes that.

use crate::backend::cpu::simd::{Kernel, Simd, load, math, store};

/// Adds `x` to `high + low`: the sum as it is rounded, and `low` plus what the rounding took away (Knuth's two-sum: exact whichever of the
/// two is larger).
#[inline(always)]
fn add<S: Simd>(s: S, high: S::F, low: S::F, x: S::F) -> (S::F, S::F) {
    let sum = s.add(high, x);
    let part = s.sub(sum, high);
    let lost = s.add(s.sub(high, s.sub(sum, part)), s.sub(x, part));
    (sum, s.add(low, lost))
}

/// `high + low += x`, element by element.
pub(crate) struct AddTo<'a> {
    pub x: &'a [f32],
    pub high: &'a mut [f32],
    pub low: &'a mut [f32],
}

impl Kernel for AddTo<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, high, low } = self;
        for start in (0..high.len()).step_by(S::LANES) {
            let part = start..(start + S::LANES).min(high.len());
            let (above, below) = (load(s, &high[part.clone()]), load(s, &low[part.clone()]));
            let (above, below) = add(s, above, below, load(s, &x[part.clone()]));
            store(s, above, &mut high[part.clone()]);
            store(s, below, &mut low[part]);
        }
    }
}

/// `out = high + low`, element by element.
pub(crate) struct Rounded<'a> {
    pub high: &'a [f32],
    pub low: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for Rounded<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { high, low, out } = self;
        for start in (0..out.len()).step_by(S::LANES) {
            let part = start..(start + S::LANES).min(out.len());
            let sum = s.add(load(s, &high[part.clone()]), load(s, &low[part.clone()]));
            store(s, sum, &mut out[part]);
        }
    }
}

/// One token's step of a memory that never decays: `S += k v^T`, then `out = S^T q` for each query.
pub(crate) struct SumStep<'a> {
    /// `[queries, keys]`.
    pub queries: &'a [f32],
    /// `k`, `[keys]`.
    pub key: &'a [f32],
    /// `v`, `[values]`.
    pub value: &'a [f32],
    /// `[queries, values]`.
    pub out: &'a mut [f32],
    /// `S`, `[keys, values]`, and what it rounded off.
    pub high: &'a mut [f32],
    pub low: &'a mut [f32],
}

impl Kernel for SumStep<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { queries, key, value, out, high, low } = self;
        let (keys, width) = (key.len(), value.len());
        // A column of vectors at a time, so that it is still near when the queries read it.
        for start in (0..width).step_by(S::LANES) {
            let part = start..(start + S::LANES).min(width);
            let v = load(s, &value[part.clone()]);
            let rows = high.chunks_mut(width).zip(low.chunks_mut(width));
            for ((high, low), &k) in rows.zip(key) {
                let (high, low) = (&mut high[part.clone()], &mut low[part.clone()]);
                let added = s.mul(s.splat(k), v);
                let (above, below) = add(s, load(s, high), load(s, low), added);
                store(s, above, high);
                store(s, below, low);
            }
            for (query, out) in queries.chunks(keys.max(1)).zip(out.chunks_mut(width)) {
                let mut sum = s.zero();
                let rows = high.chunks(width).zip(low.chunks(width));
                for ((high, low), &q) in rows.zip(query) {
                    let held = s.add(load(s, &high[part.clone()]), load(s, &low[part.clone()]));
                    sum = s.fma(s.splat(q), held, sum);
                }
                store(s, sum, &mut out[part.clone()]);
            }
        }
    }
}

/// `out = elu(x) + 1`: `x + 1` for `x > 0`, else `e^x`, since the subtraction would cancel.
pub(crate) struct EluPlusOne<'a> {
    pub x: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for EluPlusOne<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, out } = self;
        for start in (0..out.len()).step_by(S::LANES) {
            let part = start..(start + S::LANES).min(out.len());
            let x = load(s, &x[part.clone()]);
            let above = s.add(x, s.splat(1.0));
            let value = s.select_lt(s.zero(), x, above, math::exp(s, x));
            store(s, value, &mut out[part]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::Isa;

    /// In plain f32 a sum of 2^24 and a million ones stays 2^24.
    #[test]
    fn a_million_small_additions_are_not_lost() {
        const START: f32 = 16_777_216.0;
        for isa in Isa::available() {
            for width in [1, 7, 19] {
                let (mut high, mut low) = (vec![START; width], vec![0.0; width]);
                let ones = vec![1.0; width];
                for _ in 0..1_000_000 {
                    isa.dispatch(AddTo { x: &ones, high: &mut high, low: &mut low });
                }
                for (high, low) in high.iter().zip(&low) {
                    let sum = f64::from(*high) + f64::from(*low);
                    assert_eq!(sum, f64::from(START) + 1e6, "{}", isa.name());
                }
            }
        }
    }

    /// The two-sum of a step is exact for both orders of size, and its queries see all of the sum.
    #[test]
    fn a_step_keeps_what_it_rounds_off() {
        for isa in Isa::available() {
            let (mut high, mut low) = (vec![1.0f32; 3 * 5], vec![0.0f32; 3 * 5]);
            let mut out = vec![0.0; 2 * 5];
            let (key, value) = ([1e8f32, 0.25, -3.0], [1.0f32, 2.0, 4.0, 8.0, 16.0]);
            isa.dispatch(SumStep {
                queries: &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
                key: &key,
                value: &value,
                out: &mut out,
                high: &mut high,
                low: &mut low,
            });
            for (i, (high, low)) in high.iter().zip(&low).enumerate() {
                let exact = 1.0 + f64::from(key[i / 5]) * f64::from(value[i % 5]);
                assert_eq!(f64::from(*high) + f64::from(*low), exact, "{} {i}", isa.name());
            }
            for (j, v) in value.iter().enumerate() {
                assert_eq!(out[j], 1e8 * v + 1.0, "{}", isa.name());
                assert_eq!(out[5 + j], 0.25 * v + 1.0, "{}", isa.name());
            }
        }
    }
}
