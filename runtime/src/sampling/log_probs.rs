//! Log-probabilities of tokens.

use super::{SamplingError, check, math};

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogProb {
    /// The token.
    pub id: u32,
    /// The natural logarithm of its probability; negative infinity for 0.
    pub log_prob: f32,
}

/// The log-probabilities of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbs {
    /// The requested token.
    pub chosen: LogProb,
    /// The most probable tokens in falling order. Ties are in order of ids.
    pub top: Vec<LogProb>,
}

/// Computes the log-softmax of the logits, before any sampling stage, for the token `chosen` and
/// the `top` most probable tokens (or all, if there are fewer).
///
/// # Errors
/// If a logit is NaN or positive infinity, all are negative infinity, or `chosen` has no logit.
pub fn log_probs(logits: &[f32], chosen: u32, top: usize) -> Result<LogProbs, SamplingError> {
    let (_, max) = check(logits)?;
    let log_total = math::exp_sum(logits, max, 1.0).ln();
    let log_prob = |logit: f32| (f64::from(logit - max) - log_total) as f32;
    let chosen_logit = usize::try_from(chosen).ok().and_then(|place| logits.get(place));
    let chosen_logit = *chosen_logit.ok_or(SamplingError::Token {
        name: "chosen",
        id: chosen,
        vocabulary: logits.len(),
    })?;
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut best: Vec<(u32, f32)> = Vec::new();
    if top > 0 {
        best.extend((0u32..).zip(logits.iter().copied()));
        if top < best.len() {
            best.select_nth_unstable_by(top - 1, order);
            best.truncate(top);
        }
        best.sort_unstable_by(order);
    }
    Ok(LogProbs {
        chosen: LogProb { id: chosen, log_prob: log_prob(chosen_logit) },
        top: best
            .into_iter()
            .map(|(id, logit)| LogProb { id, log_prob: log_prob(logit) })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_log_softmax() {
        // torch.log_softmax of these in f64.
        let logits = [1.0, -2.5, 3.0, 3.0, f32::NEG_INFINITY];
        let expected = [-2.760_535_724, -6.260_535_724, -0.760_535_724, -0.760_535_724];
        for (id, expected) in (0..).zip(expected) {
            let found = log_probs(&logits, id, 2).expect("sound logits");
            assert!((f64::from(found.chosen.log_prob) - expected).abs() < 1e-6, "{found:?}");
            assert_eq!(found.top.iter().map(|top| top.id).collect::<Vec<_>>(), [2, 3]);
        }
        let all = log_probs(&logits, 4, 10).expect("sound logits");
        assert_eq!(all.chosen.log_prob, f32::NEG_INFINITY);
        assert_eq!(all.top.len(), 5);
        assert!(matches!(log_probs(&logits, 5, 0), Err(SamplingError::Token { id: 5, .. })));
        assert!(log_probs(&[], 0, 0).is_err());
    }
}
