//! Evaluation: how well a model predicts a text, and how far it is from a reference, to measure the
//! cost of quantization.
//!
//! The text's tokens are split into windows of [`EvalOptions::context`] tokens that start every
//! [`EvalOptions::stride`] tokens; the rest at the end is not used. Each window is read from an
//! empty state. If the tokenizer begins texts with a token, it replaces the window's first. Of a
//! window's predictions the last `min(stride, context - 1 - context / 2)` count, so that every
//! counted token has at least half a window before it.
//!
//! With a stride of a whole window (the default) this matches llama.cpp's `llama-perplexity`.
//! Perplexity is `exp(mean of -ln p(token))` over the counted tokens. With a reference, each
//! counted prediction also gives `KL(reference || model)`, the divergence of the model's
//! distribution from the reference's, in nats.

mod error;
mod row;
mod text;

pub use error::EvalError;
pub use text::TextTokens;

use crate::{Logits, Model, Run, Session};
use row::Row;

/// Most bytes of one model's logits held at a time, however long a window is.
const MAX_LOGITS: usize = 32 << 20;

/// Which part of a text is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Tokens per window, at least 4.
    pub context: usize,
    /// Tokens from the start of a window to the start of the next, from 1 to `context`. Defaults to
    /// `context`.
    pub stride: Option<usize>,
    /// Uses only this many tokens from the start of the text.
    pub limit: Option<usize>,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { context: 512, stride: None, limit: None }
    }
}

/// Where windows start, and which predictions count.
struct Windows {
    context: usize,
    stride: usize,
    count: usize,
    /// The number of last predictions in a window that count.
    counted: usize,
}

impl EvalOptions {
    fn windows(&self, tokens: usize) -> Result<Windows, EvalError> {
        let (context, stride) = (self.context, self.stride.unwrap_or(self.context));
        let option = |name, value, expected| Err(EvalError::Option { name, value, expected });
        if !(4..=1 << 24).contains(&context) {
            return option("context", context, "from 4 to 16777216");
        }
        if !(1..=context).contains(&stride) {
            return option("stride", stride, "at least 1 and at most the context");
        }
        let tokens = self.limit.map_or(tokens, |limit| limit.min(tokens));
        if tokens == 0 {
            return Err(EvalError::EmptyText);
        }
        if tokens < context {
            return Err(EvalError::TooShort { tokens, context });
        }
        let counted = stride.min(context - 1 - context / 2);
        Ok(Windows { context, stride, count: (tokens - context) / stride + 1, counted })
    }
}

/// How well a model predicts a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Number of counted predictions.
    pub predictions: usize,
    /// Number of windows.
    pub windows: usize,
    /// Mean of `-ln p(token)`, in nats.
    pub nll: f64,
    /// Standard error of `nll`, assuming independent tokens.
    pub nll_error: f64,
    /// The comparison with the reference, if there is one.
    pub comparison: Option<Comparison>,
}

impl Evaluation {
    /// `exp(nll)`.
    pub fn perplexity(&self) -> f64 {
        self.nll.exp()
    }
}

/// How far a model is from its reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The reference's mean of `-ln p(token)`.
    pub reference_nll: f64,
    /// Mean of `ln p_model(token) - ln p_reference(token)`.
    pub log_prob_difference: f64,
    /// `KL(reference || model)` over the predictions, in nats.
    pub divergence: Distribution,
    /// Standard error of the divergence's mean, assuming independent tokens.
    pub divergence_error: f64,
    /// Share of the predictions for which both have the same most probable token.
    pub same_top: f64,
}

/// Mean and quantiles of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distribution {
    /// Arithmetic mean.
    pub mean: f64,
    /// Half of the values are at most this.
    pub median: f64,
    /// 99 % of the values are at most this.
    pub percentile_99: f64,
    /// The largest value.
    pub max: f64,
}

impl Distribution {
    /// Summarizes `values`, sorting them. All zeros if there are none.
    fn new(values: &mut [f64]) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        // Interpolates between the two nearest values, as numpy does.
        let quantile = |q: f64| {
            let place = q * values.len().saturating_sub(1) as f64;
            let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
            let (below, part) = (place.floor() as usize, place.fract());
            let above = if part > 0.0 { at(below + 1) } else { at(below) };
            at(below) + part * (above - at(below))
        };
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        Self {
            mean,
            median: quantile(0.5),
            percentile_99: quantile(0.99),
            max: values.last().copied().unwrap_or(0.0),
        }
    }
}

/// Standard error of the mean of `values`.
fn error_of_mean(values: impl Iterator<Item = f64>, mean: f64, count: usize) -> f64 {
    let squares: f64 = values.map(|x| (x - mean) * (x - mean)).sum();
    (squares / count.saturating_sub(1).max(1) as f64 / count.max(1) as f64).sqrt()
}

/// Evaluates `model` on a text, and compares it with `reference` if given. Working memory is at
/// most 32 MiB of logits per model, one session's state each, and 32 bytes per prediction.
/// `progress` gets the tokens done and the total; `false` stops.
///
/// # Errors
/// If the text is too short, the models' vocabularies differ, an option is out of range, a result
/// is not finite, `progress` returns false, or a model fails.
pub fn evaluate(
    model: &Model,
    reference: Option<&Model>,
    text: &TextTokens,
    options: &EvalOptions,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Evaluation, EvalError> {
    let windows = options.windows(text.tokens.len())?;
    if let Some(other) = reference.filter(|other| other.vocab() != model.vocab()) {
        return Err(EvalError::Vocabulary { model: model.vocab(), reference: other.vocab() });
    }
    let mut session = model.session()?;
    let mut other = reference.map(Model::session).transpose()?;
    let piece = (MAX_LOGITS / 4 / model.vocab().max(1)).clamp(1, 512);
    let total = (windows.count * windows.context) as u64;
    let mut rows: Vec<Row> = Vec::new();
    for window in 0..windows.count {
        let start = window * windows.stride;
        let mut tokens = text.tokens[start..start + windows.context].to_vec();
        if let (Some(begin), Some(first)) = (text.begin, tokens.first_mut()) {
            *first = begin;
        }
        // The window's last token would predict a token outside it.
        let read = windows.context - 1;
        let quiet = read - windows.counted;
        session.reset()?;
        other.as_mut().map(Session::reset).transpose()?;
        let mut at = 0;
        while at < read {
            let (len, wanted) = match quiet - at.min(quiet) {
                0 => (piece.min(read - at), Logits::All),
                left => (left.min(512), Logits::None),
            };
            let part = &tokens[at..at + len];
            step(&mut session, part, wanted)?;
            if let Some(other) = &mut other {
                step(other, part, wanted)?;
            }
            if wanted == Logits::All {
                let next = &tokens[at + 1..at + 1 + len];
                let held = rows.len();
                let logits = (session.logits(), other.as_ref().map(Session::logits));
                measure(logits, model.vocab(), next, model.threads(), &mut rows);
                check_finite(&rows[held..], start + at)?;
            }
            at += len;
            if !progress((window * windows.context + at) as u64, total) {
                return Err(EvalError::Cancelled);
            }
        }
    }
    progress(total, total);
    Ok(summarize(&rows, windows.count))
}

fn step(session: &mut Session, tokens: &[u32], logits: Logits) -> Result<(), EvalError> {
    let model = session.model().clone();
    Ok(model.step(&mut [Run { session, tokens, logits }])?)
}

/// Appends the rows of some predictions. `logits` are `[next.len(), vocab]`, and so are the
/// reference's.
fn measure(
    (logits, reference): (&[f32], Option<&[f32]>),
    vocab: usize,
    next: &[u32],
    threads: usize,
    rows: &mut Vec<Row>,
) {
    let one = |i: usize| {
        let row =
            |logits| -> &[f32] { <[f32]>::get(logits, i * vocab..(i + 1) * vocab).unwrap_or(&[]) };
        row::measure(row(logits), reference.map(row), next[i])
    };
    let share = next.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..next.len())
            .step_by(share)
            .map(|start| (start, (start + share).min(next.len())))
            .map(|(start, end)| scope.spawn(move || (start..end).map(one).collect::<Vec<_>>()))
            .collect();
        for part in parts {
            // Propagate a panic, which is a bug.
            match part.join() {
                Ok(part) => rows.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
}

fn check_finite(rows: &[Row], first: usize) -> Result<(), EvalError> {
    for (i, row) in rows.iter().enumerate() {
        let which = match row.pair {
            Some(pair) if !pair.reference_log_prob.is_finite() => "reference",
            _ if !row.log_prob.is_finite() => "model",
            Some(pair) if !pair.divergence.is_finite() => "model",
            _ => continue,
        };
        return Err(EvalError::NonFinite { which, index: first + i });
    }
    Ok(())
}

fn summarize(rows: &[Row], windows: usize) -> Evaluation {
    let count = rows.len();
    let mean = |total: f64| total / count.max(1) as f64;
    let nll = mean(rows.iter().map(|row| -row.log_prob).sum());
    let pairs = || rows.iter().filter_map(|row| Some((row.log_prob, row.pair?)));
    let comparison = pairs().next().is_some().then(|| {
        let mut divergences: Vec<f64> = pairs().map(|(_, pair)| pair.divergence).collect();
        let divergence = Distribution::new(&mut divergences);
        let same = pairs().filter(|(_, pair)| pair.same_top).count();
        Comparison {
            reference_nll: mean(pairs().map(|(_, pair)| -pair.reference_log_prob).sum()),
            log_prob_difference: mean(pairs().map(|(p, pair)| p - pair.reference_log_prob).sum()),
            divergence_error: error_of_mean(divergences.into_iter(), divergence.mean, count),
            divergence,
            same_top: mean(same as f64),
        }
    });
    let nll_error = error_of_mean(rows.iter().map(|row| -row.log_prob), nll, count);
    Evaluation { predictions: count, windows, nll, nll_error, comparison }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_the_tokens_that_llama_perplexity_counts() {
        let options = |context, stride, limit| EvalOptions { context, stride, limit };
        let windows = options(512, None, None).windows(1500).unwrap();
        assert_eq!((windows.count, windows.counted), (2, 255));
        let windows = options(512, Some(255), None).windows(1500).unwrap();
        assert_eq!((windows.count, windows.counted), (4, 255));
        let windows = options(8, Some(1), Some(9)).windows(1500).unwrap();
        assert_eq!((windows.count, windows.counted), (2, 1));
        let short = options(512, None, Some(100)).windows(1500);
        assert!(matches!(short, Err(EvalError::TooShort { tokens: 100, context: 512 })));
        assert!(matches!(options(3, None, None).windows(9), Err(EvalError::Option { .. })));
        assert!(matches!(options(8, Some(9), None).windows(9), Err(EvalError::Option { .. })));
        assert!(matches!(options(8, None, None).windows(0), Err(EvalError::EmptyText)));
    }

    #[test]
    fn quantiles_lie_between_values() {
        let mut values = vec![4.0, 1.0, 3.0, 2.0];
        let all = Distribution::new(&mut values);
        assert_eq!((all.mean, all.median, all.max), (2.5, 2.5, 4.0));
        assert!((all.percentile_99 - 3.97).abs() < 1e-12);
        assert_eq!(Distribution::new(&mut [7.0]).percentile_99, 7.0);
    }
}
