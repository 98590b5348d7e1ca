//! What an answer goes on from, and how it is generated.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::Sampling;
use crate::Cancel;

/// Most guesses of a step where nobody says.
pub const DEFAULT_DRAFT_TOKENS: usize = 6;

/// What an answer goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerPrompt {
    pub(super) tokens: Vec<u32>,
    pub(super) boundaries: Vec<usize>,
    /// Whether these are all tokens that the session is to hold, or those that follow the ones it holds.
    pub(super) whole: bool,
    /// Whether the answer's text goes on with the prompt's, or is a text of its own.
    pub(super) continues: bool,
}

impl AnswerPrompt {
    /// All of a conversation. Whatever the session holds, it will hold this; the longest beginning whose state the session or the cache has is not
    /// computed again.
    #[cfg(feature = "chat-template")]
    pub fn chat(prompt: crate::text::Prompt) -> Self {
        let crate::text::Prompt { tokens, boundaries } = prompt;
        Self { tokens, boundaries, whole: true, continues: false }
    }

    /// All of a text, which the answer continues. Of states that are there already, the same holds.
    pub fn text(tokens: impl Into<Vec<u32>>) -> Self {
        let tokens = tokens.into();
        Self { tokens, boundaries: Vec::new(), whole: true, continues: true }
    }

    /// Tokens that come after those that the session holds. None: the answer goes on from where the session is, which has logits then.
    pub fn after(tokens: impl Into<Vec<u32>>) -> Self {
        let tokens = tokens.into();
        Self { tokens, boundaries: Vec::new(), whole: false, continues: true }
    }

    /// The same with other positions, in the tokens, at which the cache keeps states.
    pub fn boundaries(mut self, boundaries: Vec<usize>) -> Self {
        self.boundaries = boundaries;
        self
    }

    /// Its tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// The most tokens of prompt and answer together. The session's own limit holds besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Context {
    /// What the positions of the model were made for ([`model_context`](super::model_context)).
    #[default]
    OfModel,
    /// No limit.
    Unlimited,
    /// So many.
    Tokens(usize),
}

/// How an answer is generated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AnswerOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the random numbers begin with; another one for each answer if not given.
    pub seed: Option<u64>,
    /// The most tokens of the answer; what the model says, or [`DEFAULT_MAX_TOKENS`](super::DEFAULT_MAX_TOKENS), if not given.
    pub max_tokens: Option<usize>,
    /// The most tokens of prompt and answer.
    pub context: Context,
    /// Tokens that end the answer, besides the model's own.
    pub stop_tokens: Vec<u32>,
    /// Texts that end the answer, besides the model's own.
    pub stop_strings: Vec<String>,
    /// Whether the model's own stop tokens and stop strings don't end the answer.
    pub ignore_eos: bool,
    /// Whether special tokens are shown in the text.
    pub show_special: bool,
    /// Guess up to so many tokens of a step by what followed the same words before
    /// ([`PromptLookup`](crate::session::speculate::PromptLookup)); 0, the default, for none. [`Answer::speculate`](super::Answer::speculate) takes other drafters.
    pub lookup: usize,
    /// How many steps a device may be ahead; 0 for none, 4 by default. While it is, the session can be used for nothing else: see
    /// [`Answer::pause`](super::Answer::pause).
    pub ahead: usize,
    /// Whether the session is brought to the end of the answer, which takes a step where no stop token ended it. Without, it is sound and
    /// lacks the last token. True by default.
    pub keep_last: bool,
    /// Stops the work between two events, in steps of several tokens (the prompt's) also within, where the backend can.
    pub cancel: Option<Cancel>,
    /// Tells the time since a moment of its choice. If not given, the system's monotonic clock; in the browser, where the standard library has
    /// none, all times are 0.
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
    /// What the model's authors set.
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

/// A seed that differs from call to call, below 2^53, so that every program that reads it as a float reads it exactly. It is not
/// unpredictable, and in the browser, where the standard library has no randomness, always the same.
pub fn random_seed() -> u64 {
    // The standard library seeds its hash maps from the system's randomness.
    RandomState::new().hash_one(0u8) >> 11
}
