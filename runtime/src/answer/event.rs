//! [`Event`]: what happens while an answer is generated.

use std::fmt;
use std::time::Duration;

use crate::session::speculate::SpeculationStats;

/// What happens while an answer is generated: first the prompt, then the tokens, then one end.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Progress of the prompt: reported once before its first token is computed, then after each
    /// piece of a few hundred tokens. In the last report both numbers are equal, and the session is
    /// at the end of the prompt.
    Prompt {
        /// Tokens computed so far.
        done: usize,
        /// Tokens to compute: those of the prompt whose state was not cached.
        total: usize,
    },
    /// A token of the answer.
    Token {
        /// Its id.
        id: u32,
        /// Text that is final with this token. Often empty, never part of a character, and
        /// always empty without a tokenizer.
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
    /// Text that was held back until now. Empty unless the caller stopped the answer.
    pub text: String,
    /// Tokens and times.
    pub stats: AnswerStats,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The model generated this stop token.
    StopToken(u32),
    /// This stop string appeared. It is not part of the text.
    StopString(String),
    /// The answer reached its token limit.
    MaxTokens,
    /// Prompt and answer together reached the context limit.
    ContextFull,
    /// The caller stopped the answer.
    Stopped,
}

impl EndReason {
    /// A name for programs: `stop_token`, `stop_string`, `max_tokens`, `context_full`, `stopped`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StopToken(_) => "stop_token",
            Self::StopString(_) => "stop_string",
            Self::MaxTokens => "max_tokens",
            Self::ContextFull => "context_full",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the model finished the answer, with a stop token or a stop string.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::StopToken(_) | Self::StopString(_))
    }
}

/// Statistics of an answer: tokens and times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerStats {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Prompt tokens whose state was reused.
    pub reused: usize,
    /// Prompt tokens that were computed.
    pub computed: usize,
    /// Tokens generated, including the one that ended the answer.
    pub generated: usize,
    /// Time spent on the prompt.
    pub prefill: Duration,
    /// Time from the first call to the first token; `None` if there is no token.
    pub first_token: Option<Duration>,
    /// Time from the first token to the last.
    pub decode: Duration,
    /// Statistics of speculative decoding, if it was on.
    pub speculation: Option<SpeculationStats>,
}

impl AnswerStats {
    /// Prompt tokens computed per second; `None` if none were computed.
    pub fn prefill_rate(&self) -> Option<f64> {
        rate(self.computed, self.prefill)
    }

    /// Tokens generated per second; `None` for fewer than two.
    pub fn decode_rate(&self) -> Option<f64> {
        // The time of the first token counts towards the prompt.
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
            write!(f, " in {steps} steps, {accepted} of {drafted} drafts accepted")?;
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
