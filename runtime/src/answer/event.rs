//! What happens on the way to an answer.

use std::fmt;
use std::time::Duration;

use crate::session::speculate::SpeculationStats;

/// What happens on the way to an answer, in this order: the prompt, the tokens, one end.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// How far the prompt has got: once before its first token is computed, then after each piece of a few hundred. At the last, where both
    /// are equal, the session is at the prompt's end.
    Prompt {
        /// Tokens computed so far.
        done: usize,
        /// Tokens to compute: those of the prompt whose state was not there.
        total: usize,
    },
    /// A token of the answer.
    Token {
        /// Its id.
        id: u32,
        /// The text that is certain with it; often empty, never half a character. Always empty without a tokenizer.
        text: String,
    },
    /// The end of the answer.
    End(AnswerEnd),
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AnswerEnd {
    /// Why.
    pub reason: EndReason,
    /// Text that was held back until now; only of an answer that was stopped from outside.
    pub text: String,
    /// What it took.
    pub stats: AnswerStats,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended it with this token.
    StopToken(u32),
    /// This text was about to appear.
    StopString(String),
    /// It has as many tokens as it may have.
    MaxTokens,
    /// Prompt and answer have as many tokens as they may have.
    ContextFull,
    /// It was stopped from outside.
    Stopped,
}

impl EndReason {
    /// For machines: `stop_token`, `stop_string`, `max_tokens`, `context_full`, `stopped`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StopToken(_) => "stop_token",
            Self::StopString(_) => "stop_string",
            Self::MaxTokens => "max_tokens",
            Self::ContextFull => "context_full",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the model ended it: with a stop token, or by a stop string.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::StopToken(_) | Self::StopString(_))
    }
}

/// What an answer took: tokens and times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerStats {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Those of them whose state was there already.
    pub reused: usize,
    /// Those of them that were computed.
    pub computed: usize,
    /// Tokens generated, with the one that ended the answer.
    pub generated: usize,
    /// Time for the tokens of the prompt.
    pub prefill: Duration,
    /// From the first call to the first token; `None` if there was none.
    pub first_token: Option<Duration>,
    /// From the first token to the last.
    pub decode: Duration,
    /// How guesses went, where tokens were guessed.
    pub speculation: Option<SpeculationStats>,
}

impl AnswerStats {
    /// Tokens of the prompt computed in a second; `None` if none was computed.
    pub fn prefill_rate(&self) -> Option<f64> {
        rate(self.computed, self.prefill)
    }

    /// Tokens generated in a second; `None` for fewer than two.
    pub fn decode_rate(&self) -> Option<f64> {
        // The first one is the prompt's doing.
        rate(self.generated.saturating_sub(1), self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

impl fmt::Display for AnswerStats {
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
        let mut stats = AnswerStats {
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
        assert_eq!(stats.decode_rate(), Some(4.0));
        stats.computed = 0;
        stats.generated = 1;
        assert_eq!((stats.prefill_rate(), stats.decode_rate()), (None, None));
    }
}
