//! What an answer took: tokens and times.

use std::fmt;
use std::time::Duration;

use kinglet::speculate::SpeculationStats;
use serde_json::{Value, json};

/// Counts and times of one answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Those of them that a session held already.
    pub(crate) reused: usize,
    /// Tokens of the prompt that were computed.
    pub(crate) computed: usize,
    /// Tokens generated, with the one that ended the answer.
    pub(crate) generated: usize,
    /// Time for the tokens of the prompt.
    pub(crate) prefill: Duration,
    /// From the question to the first token; `None` if there was none.
    pub(crate) first_token: Option<Duration>,
    /// From the first token to the last.
    pub(crate) decode: Duration,
    /// How guesses went, where tokens were guessed.
    pub(crate) speculation: Option<SpeculationStats>,
}

impl Stats {
    /// Tokens of the prompt per second; `None` if none was computed.
    fn prefill_rate(&self) -> Option<f64> {
        rate(self.computed, self.prefill)
    }

    /// Tokens generated per second; `None` for fewer than two.
    fn decode_rate(&self) -> Option<f64> {
        // The first one is the prompt's doing.
        rate(self.generated.saturating_sub(1), self.decode)
    }

    /// For machines.
    pub(crate) fn to_json(&self) -> Value {
        let mut json = json!({
            "tokens": {
                "prompt": self.prompt,
                "reused": self.reused,
                "computed": self.computed,
                "generated": self.generated,
            },
            "timings": {
                "prefill_seconds": self.prefill.as_secs_f64(),
                "time_to_first_token_seconds": self.first_token.map(|time| time.as_secs_f64()),
                "decode_seconds": self.decode.as_secs_f64(),
                "prefill_tokens_per_second": self.prefill_rate(),
                "decode_tokens_per_second": self.decode_rate(),
            },
        });
        if let (Some(SpeculationStats { steps, drafted, accepted }), Value::Object(fields)) =
            (self.speculation, &mut json)
        {
            let told = json!({ "steps": steps, "drafted": drafted, "accepted": accepted });
            fields.insert("speculation".into(), told);
        }
        json
    }
}

fn rate(tokens: usize, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prompt, reused, computed, generated, .. } = self;
        write!(f, "prompt: {prompt} tokens ({reused} reused, {computed} computed")?;
        if let Some(rate) = self.prefill_rate() {
            write!(f, " at {rate:.1} tokens/s")?;
        }
        write!(f, ")")?;
        if let Some(time) = self.first_token {
            write!(f, "; first token after {:.3} s", time.as_secs_f64())?;
        }
        write!(f, "; answer: {generated} tokens")?;
        if let Some(rate) = self.decode_rate() {
            write!(f, " at {rate:.1} tokens/s")?;
        }
        if let Some(SpeculationStats { steps, drafted, accepted }) = self.speculation {
            write!(f, " in {steps} steps, {accepted} of {drafted} guesses right")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_leave_out_the_first_token_and_what_was_not_done() {
        let mut stats = Stats {
            prompt: 30,
            reused: 20,
            computed: 10,
            generated: 5,
            prefill: Duration::from_secs(2),
            first_token: Some(Duration::from_millis(2500)),
            decode: Duration::from_secs(1),
            speculation: None,
        };
        assert_eq!(
            stats.to_string(),
            "prompt: 30 tokens (20 reused, 10 computed at 5.0 tokens/s); first token after 2.500 s; \
             answer: 5 tokens at 4.0 tokens/s"
        );
        assert_eq!(stats.to_json()["timings"]["decode_tokens_per_second"], 4.0);
        stats.computed = 0;
        stats.generated = 1;
        let json = stats.to_json();
        assert!(json["timings"]["prefill_tokens_per_second"].is_null());
        assert!(json["timings"]["decode_tokens_per_second"].is_null());
    }
}
