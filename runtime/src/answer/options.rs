//! [`AnswerPrompt`] and [`AnswerOptions`]: what an answer continues, and how it is generated.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::Sampling;
use crate::Cancel;

/// Default for the most draft tokens per step.
pub const DEFAULT_DRAFT_TOKENS: usize = 6;

/// The prompt of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerPrompt {
    pub(super) tokens: Vec<u32>,
    pub(super) boundaries: Vec<usize>,
    /// Whether these are all the tokens that the session is to hold. Otherwise they are appended to
    /// what it holds.
    pub(super) whole: bool,
    /// Whether the answer's text continues that of the prompt. Otherwise it is a text of its own.
    pub(super) continues: bool,
}

impl AnswerPrompt {
    /// A whole conversation. The session will hold exactly this prompt, whatever it held before;
    /// the longest prefix whose state the session or the cache has is not computed again.
    #[cfg(feature = "chat-template")]
    pub fn chat(prompt: crate::text::Prompt) -> Self {
        let crate::text::Prompt { tokens, boundaries } = prompt;
        Self { tokens, boundaries, whole: true, continues: false }
    }

    /// A whole text that the answer continues. Cached states are reused as in
    /// [`AnswerPrompt::chat`].
    pub fn text(tokens: impl Into<Vec<u32>>) -> Self {
        let tokens = tokens.into();
        Self { tokens, boundaries: Vec::new(), whole: true, continues: true }
    }

    /// Tokens to append to those that the session holds. If there are none, the answer continues
    /// from the session's logits.
    pub fn after(tokens: impl Into<Vec<u32>>) -> Self {
        let tokens = tokens.into();
        Self { tokens, boundaries: Vec::new(), whole: false, continues: true }
    }

    /// Replaces the positions, counted in tokens, at which the cache keeps states.
    pub fn boundaries(mut self, boundaries: Vec<usize>) -> Self {
        self.boundaries = boundaries;
        self
    }

    /// The tokens of the prompt.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// Most tokens of prompt and answer together. The session's own limit applies too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Context {
    /// The positions that the model was trained for ([`model_context`](super::model_context)).
    #[default]
    OfModel,
    /// No limit.
    Unlimited,
    /// This many tokens.
    Tokens(usize),
}

/// How an answer is generated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AnswerOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Seed of the random numbers. By default a new one for each answer.
    pub seed: Option<u64>,
    /// Most tokens of the answer. Defaults to the model's own limit, or else
    /// [`DEFAULT_MAX_TOKENS`](super::DEFAULT_MAX_TOKENS).
    pub max_tokens: Option<usize>,
    /// Most tokens of prompt and answer together.
    pub context: Context,
    /// Tokens that end the answer, besides the model's own.
    pub stop_tokens: Vec<u32>,
    /// Strings that end the answer, besides the model's own.
    pub stop_strings: Vec<String>,
    /// Whether to ignore the model's own stop tokens and stop strings.
    pub ignore_eos: bool,
    /// Whether the text includes special tokens.
    pub show_special: bool,
    /// Most draft tokens per step, drafted by looking up what followed the same words before
    /// ([`PromptLookup`](crate::session::speculate::PromptLookup)). 0, the default, drafts none.
    /// [`Answer::speculate`](super::Answer::speculate) takes other drafters.
    pub lookup: usize,
    /// Most steps that a device may run ahead; 0 for none, 4 by default. While it is ahead, nothing
    /// else can use the session: see [`Answer::pause`](super::Answer::pause).
    pub ahead: usize,
    /// Whether to feed the answer's last token to the session, which takes one more step unless a
    /// stop token ended the answer. If not, the session is usable but lacks the last token. True by
    /// default.
    pub keep_last: bool,
    /// Stops the work between two events. Steps of several tokens (those of the prompt) also stop
    /// midway if the backend can.
    pub cancel: Option<Cancel>,
    /// Returns the time since an arbitrary moment. Defaults to the system's monotonic clock. In the
    /// browser, where the standard library has none, all times are 0.
    pub clock: Option<fn() -> Duration>,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            sampling: Sampling::default(),
            seed: None,
            max_tokens: None,
            context: Context::default(),
            stop_tokens: Vec::new(),
            stop_strings: Vec::new(),
            ignore_eos: false,
            show_special: false,
            lookup: 0,
            ahead: crate::GenerateOptions::default().ahead,
            keep_last: true,
            cancel: None,
            clock: None,
        }
    }
}

impl AnswerOptions {
    /// The defaults that the model's authors set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Self::sampling`].
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// Sets [`Self::seed`].
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets [`Self::max_tokens`].
    pub fn max_tokens(mut self, most: usize) -> Self {
        self.max_tokens = Some(most);
        self
    }

    /// Sets [`Self::context`].
    pub fn context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// Adds to [`Self::stop_tokens`].
    pub fn stop_token(mut self, id: u32) -> Self {
        self.stop_tokens.push(id);
        self
    }

    /// Adds to [`Self::stop_strings`].
    pub fn stop_string(mut self, text: impl Into<String>) -> Self {
        self.stop_strings.push(text.into());
        self
    }

    /// Sets [`Self::ignore_eos`].
    pub fn ignore_eos(mut self, ignore: bool) -> Self {
        self.ignore_eos = ignore;
        self
    }

    /// Sets [`Self::show_special`].
    pub fn show_special(mut self, show: bool) -> Self {
        self.show_special = show;
        self
    }

    /// Sets [`Self::lookup`].
    pub fn lookup(mut self, most: usize) -> Self {
        self.lookup = most;
        self
    }

    /// Sets [`Self::ahead`].
    pub fn ahead(mut self, steps: usize) -> Self {
        self.ahead = steps;
        self
    }

    /// Sets [`Self::keep_last`].
    pub fn keep_last(mut self, keep: bool) -> Self {
        self.keep_last = keep;
        self
    }

    /// Sets [`Self::cancel`].
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Sets [`Self::clock`].
    pub fn clock(mut self, clock: fn() -> Duration) -> Self {
        self.clock = Some(clock);
        self
    }
}

/// A seed that differs from call to call. It is below 2^53, so that programs that parse it as a
/// float read it exactly. It is not cryptographically random, and in the browser, where the
/// standard library has no randomness, it is always the same.
pub fn random_seed() -> u64 {
    // The standard library seeds its hash maps from the system's randomness.
    RandomState::new().hash_one(0u8) >> 11
}
