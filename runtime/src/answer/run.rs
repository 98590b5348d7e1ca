//! [`Answer`]: the loop that generates an answer.

use std::mem;
use std::time::Duration;

use super::options::Context;
use super::output::AnswerOutput;
use super::{
    AnswerDefaults, AnswerEnd, AnswerError, AnswerOptions, AnswerPrompt, AnswerStats, EndReason,
    Event, Events, model_context, random_seed,
};
use crate::model::Run;
use crate::sampling::{Sampler, SamplerState};
use crate::session::Decoding;
use crate::session::prefix_cache::{Prefill, piece};
use crate::session::speculate::{Drafter, PromptLookup, Source};
use crate::{Cancel, Error, GenerateOptions, Logits, PrefixCache, PrefixUse, Session};

/// An answer that is being generated. Every call must pass the same session, and the same cache if
/// there is one.
///
/// Between two calls the caller may read the session. Until the answer ends it must not feed it,
/// rewind it or use it for another answer; the next call then fails with
/// [`AnswerError::SessionUsed`]. While a device or a drafter is ahead of the tokens returned, the
/// session is poisoned to everyone else. [`Answer::pause`] makes it usable again, and
/// [`Answer::events`] does so by itself.
pub struct Answer<'d> {
    prompt: AnswerPrompt,
    limit: Option<usize>,
    sampler: Sampler,
    seed: u64,
    output: AnswerOutput,
    decoding: Decoding<'d>,
    /// Used once the prompt is done.
    drafts: Option<(Source<'d>, usize)>,
    phase: Phase,
    /// The session's position after the last call, to detect other uses of it.
    position: usize,
    max_tokens: usize,
    keep_last: bool,
    cancel: Option<Cancel>,
    clock: fn() -> Duration,
    begun: Option<Duration>,
    first: Option<Duration>,
    stats: AnswerStats,
    /// What the prompt reused, until the cache is told.
    used: Option<PrefixUse>,
    text: String,
    tokens: Vec<u32>,
    reason: Option<EndReason>,
}

/// What the answer does next.
enum Phase {
    /// Start on the prompt.
    Begin,
    /// Compute the rest of a prompt that is all the session is to hold.
    Whole(Prefill),
    /// Append the rest of a prompt to the session, from this token on.
    After(usize),
    /// Generate tokens.
    Tokens,
    /// Report the end, with the text that was held back. `cached`: the cache has been told.
    End {
        held: String,
        cached: bool,
    },
    Over,
}

impl<'d> Answer<'d> {
    /// Creates an answer to `prompt` in `session`. Nothing is computed yet.
    ///
    /// # Errors
    /// If an option is out of range, or needs a tokenizer and there is none.
    pub fn new(
        session: &Session,
        defaults: &AnswerDefaults,
        prompt: AnswerPrompt,
        options: &AnswerOptions,
    ) -> Result<Self, AnswerError> {
        let sampling = options.sampling.options(&defaults.config, defaults.tokenizer.as_ref())?;
        let seed = options.seed.unwrap_or_else(random_seed);
        let sampler = Sampler::new(sampling, seed).map_err(AnswerError::Sampling)?;
        let output = AnswerOutput::new(defaults, &prompt, options, session.tokens())?;
        let context = match options.context {
            Context::OfModel => model_context(session.model()),
            Context::Unlimited => None,
            Context::Tokens(most) => Some(most),
        };
        let limit = context.into_iter().chain(session.context_limit()).min();
        let lookup = || Source::Drafter(Box::new(PromptLookup::default()));
        let drafts = (options.lookup > 0).then(|| (lookup(), options.lookup));
        Ok(Self {
            prompt,
            limit,
            sampler,
            seed,
            output,
            decoding: Decoding::new(GenerateOptions::new().ahead(options.ahead)),
            drafts,
            phase: Phase::Begin,
            position: session.position(),
            max_tokens: defaults.max_tokens(options.max_tokens),
            keep_last: options.keep_last,
            cancel: options.cancel.clone(),
            clock: options.clock.unwrap_or(system_clock),
            begun: None,
            first: None,
            stats: AnswerStats::default(),
            used: None,
            text: String::new(),
            tokens: Vec::new(),
            reason: None,
        })
    }

    /// Lets `drafter` draft up to `most` tokens per step, in place of [`AnswerOptions::lookup`]:
    /// see [`speculate`](crate::session::speculate). Must be called before the first token.
    pub fn speculate(mut self, drafter: impl Drafter + 'd, most: usize) -> Self {
        self.drafts = (most > 0).then(|| (Source::Drafter(Box::new(drafter)), most));
        self
    }

    /// Like [`Answer::speculate`], with drafts of the model's own prediction head, if it was loaded
    /// ([`ModelOptions::prediction_head`](crate::ModelOptions::prediction_head)).
    pub fn speculate_with_head(mut self, most: usize) -> Self {
        self.drafts = (most > 0).then_some((Source::Head, most));
        self
    }

    /// Continues the random numbers of an earlier answer ([`Answer::sampler_state`]). Must be
    /// called before the first token.
    pub fn go_on_from(mut self, random: &SamplerState) -> Self {
        let state = self.sampler.state_mut();
        state.clone_from(random);
        state.rewind(0);
        self
    }

    /// The state of the random numbers, and the tokens so far.
    pub fn sampler_state(&self) -> &SamplerState {
        self.sampler.state()
    }

    /// The seed of the random numbers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The text so far, without stop tokens and stop strings.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tokens so far, including the one that ended the answer.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Why the answer ended; `None` before the end.
    pub fn reason(&self) -> Option<&EndReason> {
        self.reason.as_ref()
    }

    /// The statistics so far.
    pub fn stats(&self) -> AnswerStats {
        self.stats
    }

    /// Sets how many steps a device may run ahead from now on.
    pub fn set_ahead(&mut self, steps: usize) {
        self.decoding.options.ahead = steps;
    }

    /// The remaining events, as a blocking iterator.
    pub fn events<'a>(
        &'a mut self,
        session: &'a mut Session,
        cache: Option<&'a mut PrefixCache>,
    ) -> Events<'a, 'd> {
        Events::new(self, session, cache)
    }

    /// Returns the next event, or `None` after the end.
    ///
    /// # Errors
    /// [`AnswerError::EmptyPrompt`], [`AnswerError::PromptTooLong`], [`AnswerError::SessionUsed`],
    /// and those of the engine, the sampler and the tokenizer. After [`Error::Cancelled`] the
    /// session is usable; clear the [`Cancel`], and the next call goes on where this one stopped.
    pub fn next(
        &mut self,
        session: &mut Session,
        cache: Option<&mut PrefixCache>,
    ) -> Result<Option<Event>, AnswerError> {
        pollster::block_on(self.next_async(session, cache))
    }

    /// [`Answer::next`] without blocking.
    ///
    /// # Errors
    /// Those of [`Answer::next`].
    pub async fn next_async(
        &mut self,
        session: &mut Session,
        cache: Option<&mut PrefixCache>,
    ) -> Result<Option<Event>, AnswerError> {
        self.check(session)?;
        // The answer's flag takes the place of the session's own during the call.
        let others = match &self.cancel {
            Some(cancel) => Some(session.cancel.replace(cancel.clone())),
            None => None,
        };
        let result = self.advance(session, cache).await;
        if let Some(others) = others {
            session.cancel = others;
        }
        if result.is_err() {
            // If this fails, the session stays poisoned, and the next call on it reports that.
            let _ = self.decoding.settle(session).await;
        }
        self.position = session.position();
        result
    }

    /// Makes the session usable between two calls by undoing what the device or the drafter did
    /// beyond the tokens returned. The answer can go on.
    ///
    /// # Errors
    /// Those of a step. The session is then poisoned.
    pub fn pause(&mut self, session: &mut Session) -> Result<(), AnswerError> {
        pollster::block_on(self.pause_async(session))
    }

    /// [`Answer::pause`] without blocking.
    ///
    /// # Errors
    /// Those of [`Answer::pause`].
    pub async fn pause_async(&mut self, session: &mut Session) -> Result<(), AnswerError> {
        if self.was_used(session) {
            return Err(AnswerError::SessionUsed);
        }
        Ok(self.decoding.settle(session).await?)
    }

    /// Ends the answer here, if it has not ended: the next event is the end. A prompt that is not
    /// done leaves the session where it got to.
    ///
    /// # Errors
    /// Those of the tokenizer, on the text that was held back.
    pub fn stop(&mut self) -> Result<(), AnswerError> {
        if self.reason.is_none() {
            let (held, found) = self.output.finish()?;
            self.text.push_str(&held);
            // An answer without tokens adds nothing to what the prompt left in the cache.
            self.end(found.unwrap_or(EndReason::Stopped), held);
        }
        Ok(())
    }

    fn end(&mut self, reason: EndReason, held: String) {
        let cached = self.tokens.is_empty() || !self.prompt.whole;
        self.reason = Some(reason);
        self.phase = Phase::End { held, cached };
    }

    /// Whether the session is not the one that the last call left.
    fn was_used(&self, session: &Session) -> bool {
        session.position() != self.position
            || (self.decoding.is_under_way() && !session.is_poisoned())
    }

    fn check(&mut self, session: &Session) -> Result<(), AnswerError> {
        if !self.was_used(session) {
            return Ok(());
        }
        match (&mut self.phase, &self.reason) {
            (Phase::Over, _) => Ok(()),
            // A caller that stopped the answer and then used the session still gets the end with
            // its statistics.
            (Phase::End { cached, .. }, Some(EndReason::Stopped)) => {
                *cached = true;
                self.keep_last = false;
                self.decoding.abandon();
                Ok(())
            }
            _ => Err(AnswerError::SessionUsed),
        }
    }

    async fn advance(
        &mut self,
        session: &mut Session,
        mut cache: Option<&mut PrefixCache>,
    ) -> Result<Option<Event>, AnswerError> {
        let now = (self.clock)();
        let begun = *self.begun.get_or_insert(now);
        if matches!(self.phase, Phase::End { .. } | Phase::Over) {
            return self.finish(session, cache).await;
        }
        if session.cancel.as_ref().is_some_and(Cancel::is_set) {
            return Err(Error::Cancelled.into());
        }
        loop {
            match &mut self.phase {
                Phase::Begin => {
                    self.begin(session, cache.as_deref_mut())?;
                    self.count(now);
                    return Ok(Some(self.progress()));
                }
                Phase::Whole(prefill) => {
                    if !prefill.done.complete {
                        let tokens = &self.prompt.tokens;
                        prefill.step(cache.as_deref_mut(), session, tokens).await?;
                        self.count(now);
                        return Ok(Some(self.progress()));
                    }
                    self.tell_cache(cache.as_deref_mut());
                }
                Phase::After(done) => {
                    if let Some(rest) =
                        self.prompt.tokens.get(*done..).filter(|rest| !rest.is_empty())
                    {
                        let tokens = rest.get(..piece(session)).unwrap_or(rest);
                        let last = tokens.len() == rest.len();
                        let logits = if last { Logits::Last } else { Logits::None };
                        let model = session.model().clone();
                        model
                            .step_async(&mut [Run { session: &mut *session, tokens, logits }])
                            .await?;
                        *done += tokens.len();
                        self.count(now);
                        return Ok(Some(self.progress()));
                    }
                }
                Phase::Tokens => return self.token(session, begun).await.map(Some),
                Phase::End { .. } | Phase::Over => return self.finish(session, cache).await,
            }
            self.prompt_has_ended(session);
        }
    }

    /// Checks the prompt and starts on it.
    fn begin(
        &mut self,
        session: &mut Session,
        cache: Option<&mut PrefixCache>,
    ) -> Result<(), AnswerError> {
        let AnswerPrompt { tokens, boundaries, whole, .. } = &self.prompt;
        let vocab = session.model().vocab();
        for (index, &id) in tokens.iter().enumerate() {
            // Check all ids before computing anything.
            if usize::try_from(id).map_or(true, |id| id >= vocab) {
                return Err(Error::TokenOutOfRange { id, index, vocab }.into());
            }
        }
        let held = if *whole { 0 } else { session.position() };
        if *whole && tokens.is_empty() {
            return Err(AnswerError::EmptyPrompt);
        }
        if !whole && tokens.is_empty() && session.last_logits().is_none() {
            return Err(Error::NoLogits.into());
        }
        let end = held + tokens.len();
        if let Some(limit) = self.limit.filter(|&limit| end >= limit) {
            return Err(AnswerError::PromptTooLong { tokens: end, limit });
        }
        let room = self.limit.map_or(usize::MAX, |limit| limit - end);
        // Keeps the device from running past the limit.
        self.decoding.options.max_tokens = self.max_tokens.min(room);
        self.phase = match whole {
            true => Phase::Whole(Prefill::begin(cache, session, tokens, boundaries)?),
            false => Phase::After(0),
        };
        self.stats.prompt = tokens.len();
        Ok(())
    }

    /// Reports to the cache, once, what the prompt reused.
    fn tell_cache(&mut self, cache: Option<&mut PrefixCache>) {
        if let (Some(cache), Some(used)) = (cache, self.used.take()) {
            cache.count(used);
        }
    }

    /// Adds the time since `before` to that of the prompt.
    fn count(&mut self, before: Duration) {
        self.stats.prefill += (self.clock)().saturating_sub(before);
    }

    fn progress(&mut self) -> Event {
        let (reused, done, total) = match &self.phase {
            Phase::Whole(prefill) => {
                self.used = Some(prefill.done);
                (prefill.done.reused, prefill.done.computed, prefill.total)
            }
            Phase::After(done) => (0, *done, self.prompt.tokens.len()),
            _ => (0, 0, 0),
        };
        (self.stats.reused, self.stats.computed) = (reused, done);
        Event::Prompt { done, total }
    }

    fn prompt_has_ended(&mut self, session: &Session) {
        self.sampler.state_mut().accept_all(session.tokens());
        if let Some((source, most)) = self.drafts.take() {
            self.decoding.speculate(session, source, most);
        }
        self.phase = Phase::Tokens;
        if self.max_tokens == 0 {
            self.end(EndReason::MaxTokens, String::new());
        }
    }

    /// Generates the next token and the event for it.
    async fn token(
        &mut self,
        session: &mut Session,
        begun: Duration,
    ) -> Result<Event, AnswerError> {
        let chosen = self.decoding.next_token(session, &mut self.sampler).await;
        self.stats.speculation = self.decoding.speculation();
        let id = match chosen {
            Ok(Some(id)) => id,
            // The generation ended before this token.
            Ok(None) => return Err(Error::NoLogits.into()),
            Err(error) => return Err(error.into()),
        };
        let now = (self.clock)();
        let first = *self.first.get_or_insert(now);
        self.stats.first_token.get_or_insert(now.saturating_sub(begun));
        self.stats.decode = now.saturating_sub(first);
        self.tokens.push(id);
        self.stats.generated = self.tokens.len();
        let (mut text, mut reason) = self.output.push(id)?;
        if reason.is_none() && self.tokens.len() >= self.decoding.options.max_tokens {
            let (held, found) = self.output.finish()?;
            text.push_str(&held);
            let full = self.tokens.len() < self.max_tokens;
            let limit = if full { EndReason::ContextFull } else { EndReason::MaxTokens };
            reason = Some(found.unwrap_or(limit));
        }
        self.text.push_str(&text);
        if let Some(reason) = reason {
            self.end(reason, String::new());
        }
        Ok(Event::Token { id, text })
    }

    /// Brings the session to the end of the answer, and reports the end once.
    async fn finish(
        &mut self,
        session: &mut Session,
        cache: Option<&mut PrefixCache>,
    ) -> Result<Option<Event>, AnswerError> {
        let Phase::End { cached, .. } = &mut self.phase else { return Ok(None) };
        self.decoding.settle(session).await?;
        if let Some(cache) = cache {
            if !*cached {
                cache.insert(session)?;
            }
            *cached = true;
            self.tell_cache(Some(cache));
        }
        let last = self.decoding.pending();
        if self.keep_last && last.is_some_and(|id| !self.output.is_stop_token(id)) {
            self.decoding.take_pending(session).await?;
        }
        let phase = mem::replace(&mut self.phase, Phase::Over);
        let text = if let Phase::End { held, .. } = phase { held } else { String::new() };
        let reason = self.reason.clone().unwrap_or(EndReason::Stopped);
        Ok(Some(Event::End(AnswerEnd { reason, text, stats: self.stats })))
    }
}

#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
fn system_clock() -> Duration {
    use std::sync::OnceLock;
    use std::time::Instant;
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    BEGUN.get_or_init(Instant::now).elapsed()
}

#[cfg(all(target_family = "wasm", target_os = "unknown"))]
fn system_clock() -> Duration {
    Duration::ZERO
}
