//! Softmax arithmetic with the same results on every platform.

/// `e^x` for `x <= 0`, with a relative error below 2e-7; 0 below the smallest normal number.
///
/// Uses only products, sums and bit operations, so that the compiler can vectorize it and the
/// result doesn't depend on a platform's `libm`: `x = n ln 2 + r` with `|r| <= ln 2 / 2`, and a
/// polynomial for `e^r` whose first terms are those of the series.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // For smaller x the result is not a normal number.
    let small = x < -87.3;
    let x = if small { 0.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + term;
    }
    // 2^n from its exponent. The low bits of the rounded number hold n, in -126..=0.
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let scale = f32::from_bits(exponent << 23);
    if small { 0.0 } else { p * scale }
}

/// The sum of [`exp`] of `(logit - max) / temperature`.
pub(super) fn exp_sum(logits: &[f32], max: f32, temperature: f32) -> f64 {
    // Eight partial sums, which the compiler can vectorize without changing the order.
    let mut sums = [0.0f64; 8];
    let (whole, rest) = logits.as_chunks::<8>();
    for lane in whole {
        let lane = lane.map(|logit| exp((logit - max) / temperature));
        for (sum, value) in sums.iter_mut().zip(lane) {
            *sum += f64::from(value);
        }
    }
    for (sum, &logit) in sums.iter_mut().zip(rest) {
        *sum += f64::from(exp((logit - max) / temperature));
    }
    sums.iter().sum()
}

/// Draws an index with a number in `[0, 1)`: where it falls in the cumulative weights, [`exp`] of
/// `(logit - max) / temperature`. `None` if all weights are 0.
pub(super) fn draw(logits: &[f32], max: f32, temperature: f32, number: f64) -> Option<usize> {
    // Skip whole blocks first, so that most weights are summed with vector instructions.
    const BLOCK: usize = 256;
    let target = number * exp_sum(logits, max, temperature);
    let mut sum = 0.0;
    let mut last = None;
    for (block, logits) in logits.chunks(BLOCK).enumerate() {
        let mass = exp_sum(logits, max, temperature);
        if mass == 0.0 {
            continue;
        }
        if sum + mass <= target {
            // Rounding may push the target past the end; then take the last token with a weight.
            last = logits.iter().rposition(|&logit| exp((logit - max) / temperature) > 0.0);
            last = last.map(|place| block * BLOCK + place);
            sum += mass;
            continue;
        }
        for (place, logit) in logits.iter().enumerate() {
            let weight = f64::from(exp((logit - max) / temperature));
            if weight > 0.0 {
                sum += weight;
                last = Some(block * BLOCK + place);
                if sum > target {
                    return last;
                }
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0.0f64;
        for step in 0..=873_000 {
            let x = -(step as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "relative error {worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn exp_sum_is_the_sum() {
        let logits: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exact: f64 = logits.iter().map(|&l| (f64::from(l - max) / 0.7).exp()).sum();
        let sum = exp_sum(&logits, max, 0.7);
        assert!((sum - exact).abs() / exact < 1e-6, "{sum} {exact}");
    }
}
