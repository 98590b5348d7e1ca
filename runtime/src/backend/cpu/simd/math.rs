//! Elementary functions on vectors, to a few units in the last place: exp, sigmoid, SiLU, tanh, softplus.

use super::Simd;

/// `e^x`; 0 below -87.3 (where the result would be subnormal), and saturated near 1.6e38 above.
///
/// Range reduction `x = n ln 2 + r`, `|r| <= ln 2 / 2`, then the Taylor polynomial of `e^r` to
/// degree 7 (its remainder is below 6e-9).
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const LOWEST: f32 = -87.3;
    // `x` is the second operand: minimum and maximum return the second operand if either is NaN,
    // and a NaN must be preserved.
    let clamped = s.min(s.splat(88.0), s.max(s.splat(LOWEST), x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first with few enough bits that `n * HI` is exact.
    const HI: f32 = 0.693_359_4;
    const LO: f32 = (std::f64::consts::LN_2 - HI as f64) as f32;
    let r = s.fma(n, s.splat(-LO), s.fma(n, s.splat(-HI), clamped));
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.select_lt(x, s.splat(LOWEST), s.zero(), s.mul(p, s.pow2(n)))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.zero(), x))))
}

#[inline(always)]
fn abs<S: Simd>(s: S, x: S::F) -> S::F {
    s.max(x, s.sub(s.zero(), x))
}

/// `tanh x`: through `e^-2|x|`, and near zero, where that cancels, by the continued fraction `x /
/// (1 + x^2 / (3 + x^2 / (5 + x^2 / (7 + x^2 / 9))))`.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let (one, size, square) = (s.splat(1.0), abs(s, x), s.mul(x, x));
    let mut fraction = s.splat(9.0);
    for c in [7.0, 5.0, 3.0, 1.0] {
        fraction = s.add(s.splat(c), s.div(square, fraction));
    }
    let near = s.div(x, fraction);
    let e = exp(s, s.mul(size, s.splat(-2.0)));
    let far = s.div(s.sub(one, e), s.add(one, e));
    let far = s.select_lt(x, s.zero(), s.sub(s.zero(), far), far);
    s.select_lt(size, s.splat(0.5), near, far)
}

/// `ln(1 + e^x)` as `max(x, 0) + ln(1 + y)`, `y = e^-|x|`, with the series of `ln(1 + y) = 2
/// atanh(y / (2 + y))`, so that very negative `x` keep their relative accuracy.
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: S::F) -> S::F {
    let y = exp(s, s.sub(s.zero(), abs(s, x)));
    let t = s.div(y, s.add(s.splat(2.0), y));
    let square = s.mul(t, t);
    let mut p = s.splat(1.0 / 15.0);
    for c in [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        p = s.fma(p, square, s.splat(c));
    }
    s.fma(s.mul(s.splat(2.0), t), p, s.max(s.zero(), x))
}

/// The error function in f64: its Maclaurin series up to 3, a continued fraction of `erfc` beyond
/// (Abramowitz and Stegun, 7.1.6 and 7.1.14). Used for the exact GELU, which few models have.
pub(crate) fn erf(x: f64) -> f64 {
    let (size, square) = (x.abs(), x * x);
    let value = if size < 3.0 {
        let (mut term, mut sum, mut n) = (size, size, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * square / (2.0 * n + 1.0);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-square).exp() * sum
    } else {
        let mut fraction = 0.0;
        for n in (1..=60).rev() {
            fraction = f64::from(n) / 2.0 / (size + fraction);
        }
        let scale = std::f64::consts::FRAC_2_SQRT_PI / 2.0;
        1.0 - scale * (-square).exp() / (size + fraction)
    };
    value.copysign(x)
}
