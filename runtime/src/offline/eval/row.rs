//! The measurements of one prediction, from a row of logits or from two.

/// The measurements of one prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Row {
    /// `ln p(next)`.
    pub log_prob: f64,
    /// The comparison with the reference.
    pub pair: Option<Pair>,
}

/// A prediction of the reference compared with the model's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    /// `ln p_reference(next)`.
    pub reference_log_prob: f64,
    /// `KL(reference || model)` in nats.
    pub divergence: f64,
    /// Whether both have the same most probable token.
    pub same_top: bool,
}

/// `ln sum exp(logits)` in f64, since the sum over a large vocabulary needs the precision. NaN or
/// infinite if a logit is.
fn log_sum(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).sum();
    f64::from(largest) + total.ln()
}

/// Index of the first maximum.
fn top(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, &x) in logits.iter().enumerate() {
        if x > logits[best] {
            best = i;
        }
    }
    best
}

/// Measures a row of logits before the token `next`, with the reference's row if there is one. The
/// results are not finite if a logit is not.
pub(super) fn measure(logits: &[f32], reference: Option<&[f32]>, next: u32) -> Row {
    let at = |row: &[f32]| row.get(next as usize).map_or(f64::NAN, |&x| f64::from(x));
    let total = log_sum(logits);
    let pair = reference.map(|reference| {
        let largest = reference.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // One exponential per element: KL = sum p_r (r - m) + ln sum exp m - ln sum exp r.
        let (mut sum, mut weighted) = (0.0, 0.0);
        for (&r, &m) in reference.iter().zip(logits) {
            let (r, m) = (f64::from(r), f64::from(m));
            let p = (r - f64::from(largest)).exp();
            sum += p;
            weighted += p * (r - m);
        }
        let reference_total = f64::from(largest) + f64::ln(sum);
        Pair {
            reference_log_prob: at(reference) - reference_total,
            // Rounding may give a negative sum if the two are equal. NaN is kept.
            divergence: match weighted / sum + total - reference_total {
                x if x < 0.0 => 0.0,
                x => x,
            },
            same_top: top(reference) == top(logits),
        }
    });
    Row { log_prob: at(logits) - total, pair }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_definitions() {
        // p = (1, 2, 5) / 8, q = (4, 2, 2) / 8, each shifted by a different constant.
        let p = [1f32, 2.0, 5.0].map(|x| x.ln() + 70.0);
        let q = [4f32, 2.0, 2.0].map(|x| x.ln() - 90.0);
        let row = measure(&q, Some(&p), 2);
        let pair = row.pair.unwrap();
        assert!((row.log_prob - 0.25f64.ln()).abs() < 1e-5);
        assert!((pair.reference_log_prob - 0.625f64.ln()).abs() < 1e-5);
        let divergence = 0.125 * 0.25f64.ln() + 0.625 * 2.5f64.ln();
        assert!((pair.divergence - divergence).abs() < 1e-5, "{pair:?}");
        assert!(!pair.same_top);
        let same = measure(&p, Some(&p), 0).pair.unwrap();
        assert_eq!((same.divergence, same.same_top), (0.0, true));
    }

    #[test]
    fn far_logits_neither_overflow_nor_vanish() {
        let row = measure(&[-3e4, 3e4], None, 0);
        assert_eq!(row.log_prob, -6e4);
        assert!(!measure(&[f32::NAN, 0.0], None, 1).log_prob.is_finite());
        assert!(!measure(&[f32::INFINITY, 0.0], None, 1).log_prob.is_finite());
    }
}
