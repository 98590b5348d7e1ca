//! From a prompt to an answer, a token at a time.

use std::time::{Duration, Instant};

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::text::{EncodeOptions, OutputStream, StopMatcher, StopTokens, StreamDecoder};
use kinglet::{Cancel, Error, GenerateOptions};

use crate::generation::kinglet_finish;
use crate::generation_options::GenerationOptions;
use crate::model::ModelObject;
use crate::session::{Inner, no_logits};
use crate::status::{Failure, kinglet_status};

/// Tokens of an answer where neither the options nor the model say.
const MAX_TOKENS: usize = 2048;

/// What is to be computed before the first token.
pub(crate) enum Prompt {
    /// Nothing: the session has its logits.
    Here,
    /// Tokens that come after those of the session.
    After(Vec<u32>),
    /// All that the session is to hold: it goes on from the longest beginning whose state it has.
    Whole { tokens: Vec<u32>, boundaries: Vec<usize> },
}

/// Counts and times.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stats {
    pub(crate) prompt: usize,
    pub(crate) reused: usize,
    pub(crate) generated: usize,
    pub(crate) prefill: Duration,
    /// From the beginning to the first token.
    pub(crate) first: Option<Duration>,
    /// From the first token to the last.
    pub(crate) decode: Duration,
}

/// One answer.
pub(crate) struct Generator {
    prompt: Prompt,
    sampler: Sampler,
    /// None for a model without a tokenizer.
    output: Option<OutputStream>,
    stop_tokens: StopTokens,
    max_tokens: usize,
    cache_bytes: usize,
    /// Whether the state at the end of the answer is kept for the next prompt.
    keep: bool,
    /// A token that was given out and is not in the session yet.
    unfed: Option<u32>,
    /// Where the session is, if nobody else has used it.
    position: usize,
    /// When the prompt was begun.
    begun: Option<Instant>,
    first: Option<Instant>,
    started: bool,
    pub(crate) finish: Option<kinglet_finish>,
    pub(crate) stats: Stats,
    pub(crate) text: String,
}

/// A token, and the text that has become certain with it.
pub(crate) struct Piece {
    pub(crate) token: u32,
    pub(crate) text: String,
}

impl Generator {
    pub(crate) fn new(
        model: &ModelObject,
        inner: &Inner,
        prompt: Prompt,
        options: &GenerationOptions,
    ) -> Result<Self, Failure> {
        let defaults = model.defaults()?;
        let base = SamplingOptions::from_generation_config(&defaults.config)?;
        let seed = options.seed.unwrap_or_else(random_seed);
        let sampler = Sampler::new(options.sampling(base)?, seed)?;
        let own = if options.ignore_eos { StopTokens::default() } else { defaults.stop.clone() };
        let mut stop_tokens = own;
        options.stop_tokens.iter().for_each(|&id| stop_tokens.insert(id));
        let mut strings = options.stop_strings.clone();
        if !options.ignore_eos {
            strings.extend(defaults.config.stop_strings.iter().cloned());
        }
        let output = match model.tokenizer() {
            Ok(tokenizer) => {
                // The continuation of a text may need to know what it continues; an answer in a chat is a text of its own.
                let decoder = match &prompt {
                    Prompt::Whole { .. } => StreamDecoder::new(tokenizer.clone(), true),
                    Prompt::Here => {
                        StreamDecoder::continuing(tokenizer.clone(), true, inner.session.tokens())?
                    }
                    Prompt::After(tokens) => {
                        let mut all = inner.session.tokens().to_vec();
                        all.extend_from_slice(tokens);
                        StreamDecoder::continuing(tokenizer.clone(), true, &all)?
                    }
                };
                let strings = StopMatcher::new(&strings)?;
                Some(OutputStream::new(decoder, stop_tokens.clone(), strings))
            }
            Err(_) if options.stop_strings.is_empty() => None,
            Err(failure) => return Err(failure),
        };
        let configured = defaults.config.max_new_tokens.filter(|&most| most > 0);
        let configured = configured.and_then(|most| usize::try_from(most).ok());
        Ok(Self {
            keep: matches!(prompt, Prompt::Whole { .. }),
            prompt,
            sampler,
            output,
            stop_tokens,
            max_tokens: options.max_tokens.or(configured).unwrap_or(MAX_TOKENS),
            cache_bytes: model.options.cache_bytes,
            unfed: None,
            position: inner.session.position(),
            begun: None,
            first: None,
            started: false,
            finish: None,
            stats: Stats::default(),
            text: String::new(),
        })
    }

    /// The next token; `None` after the last. After a cancellation it can be called again, and goes on.
    pub(crate) fn next(
        &mut self,
        inner: &mut Inner,
        cancel: &Cancel,
    ) -> Result<Option<Piece>, Failure> {
        if inner.session.position() != self.position {
            let message = "the session was used otherwise since the generation began";
            return Err(Failure::new(kinglet_status::KINGLET_INVALID_STATE, message));
        }
        let result = self.advance(inner, cancel);
        self.position = inner.session.position();
        result
    }

    fn advance(&mut self, inner: &mut Inner, cancel: &Cancel) -> Result<Option<Piece>, Failure> {
        if self.finish.is_some() {
            self.settle(inner)?;
            return Ok(None);
        }
        if cancel.is_set() {
            return Err(Error::Cancelled.into());
        }
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if !self.started {
            self.prefill(inner, cancel)?;
            self.stats.prefill = begun.elapsed();
            self.sampler.state_mut().accept_all(inner.session.tokens());
            self.started = true;
        }
        if let Some(token) = self.unfed {
            inner.session.feed(&[token])?;
            self.unfed = None;
        }
        let token = self.sampler.sample(inner.session.last_logits().ok_or_else(no_logits)?)?;
        self.sampler.accept(token);
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        self.stats.first.get_or_insert(now - begun);
        self.stats.decode = now - first;
        self.stats.generated += 1;
        let full =
            inner.session.context_limit().is_some_and(|limit| inner.session.position() >= limit);
        let text = self.take(token, full)?;
        self.text.push_str(&text);
        Ok(Some(Piece { token, text }))
    }

    /// The rest of the answer, token by token to `each`, which says whether it wants more. Nobody else uses the session meanwhile, so
    /// that its device may be ahead of what is given out. After a cancellation this or [`Self::next`] goes on.
    pub(crate) fn run(
        &mut self,
        inner: &mut Inner,
        cancel: &Cancel,
        mut each: impl FnMut(Piece) -> bool,
    ) -> Result<(), Failure> {
        // With the first, the prompt.
        if !self.started {
            let wants_more = self.next(inner, cancel)?.is_none_or(&mut each);
            if !wants_more {
                return self.stop(inner).map(drop);
            }
        }
        if inner.session.position() != self.position {
            return self.next(inner, cancel).map(drop);
        }
        let mut sampler = self.sampler.clone();
        let result = self.ahead(inner, &mut sampler, &mut each);
        self.sampler = sampler;
        self.position = inner.session.position();
        result?;
        // Settles what is complete; what is not was ended by `each`.
        match self.finish {
            Some(_) => self.next(inner, cancel).map(drop),
            None => self.stop(inner).map(drop),
        }
    }

    /// Tokens until the answer is complete or `each` wants no more.
    fn ahead(
        &mut self,
        inner: &mut Inner,
        sampler: &mut Sampler,
        each: &mut impl FnMut(Piece) -> bool,
    ) -> Result<(), Failure> {
        if self.finish.is_some() {
            return Ok(());
        }
        if let Some(token) = self.unfed {
            inner.session.feed(&[token])?;
            self.unfed = None;
        }
        inner.session.last_logits().ok_or_else(no_logits)?;
        let limit = inner.session.context_limit();
        let most = self.max_tokens.saturating_sub(self.stats.generated).max(1);
        let options = GenerateOptions::new().max_tokens(most);
        let mut generation = inner.session.generate(sampler, options);
        while let Some(token) = generation.next_token()? {
            let now = Instant::now();
            self.stats.decode = now - *self.first.get_or_insert(now);
            self.stats.generated += 1;
            let full = limit.is_some_and(|limit| generation.position() >= limit);
            let text = self.take(token, full)?;
            self.text.push_str(&text);
            if !each(Piece { token, text }) || self.finish.is_some() {
                break;
            }
        }
        Ok(generation.finish()?)
    }

    /// What a token means for the answer.
    fn take(&mut self, token: u32, full: bool) -> Result<String, Failure> {
        let mut text = String::new();
        if let Some(output) = &mut self.output {
            let piece = output.push(token)?;
            text = piece.text;
            self.finish = piece.finish.map(kinglet_finish::from);
        } else if self.stop_tokens.contains(token) {
            self.finish = Some(kinglet_finish::KINGLET_FINISH_STOP);
        }
        let is_stop = self.stop_tokens.contains(token);
        // A stop token is the template's to write; a token without a place can't be kept.
        self.unfed = Some(token).filter(|_| !is_stop && !full);
        if self.finish.is_none() {
            if full {
                self.end(kinglet_finish::KINGLET_FINISH_CONTEXT_FULL, &mut text)?;
            } else if self.stats.generated >= self.max_tokens {
                self.end(kinglet_finish::KINGLET_FINISH_MAX_TOKENS, &mut text)?;
            }
        }
        Ok(text)
    }

    /// Ends the answer for a reason outside of it, with the text that was held back.
    fn end(&mut self, finish: kinglet_finish, text: &mut String) -> Result<(), Failure> {
        let mut finish = finish;
        if let Some(output) = &mut self.output {
            let rest = output.finish()?;
            text.push_str(&rest.text);
            finish = rest.finish.map_or(finish, kinglet_finish::from);
        }
        self.finish = Some(finish);
        Ok(())
    }

    /// The program wants no more. Gives the text that was held back.
    pub(crate) fn stop(&mut self, inner: &mut Inner) -> Result<String, Failure> {
        let mut text = String::new();
        if self.finish.is_none() {
            self.end(kinglet_finish::KINGLET_FINISH_STOPPED, &mut text)?;
            self.text.push_str(&text);
        }
        if inner.session.position() == self.position {
            self.settle(inner)?;
            self.position = inner.session.position();
        }
        Ok(text)
    }

    /// Brings the session to the end of the answer.
    fn settle(&mut self, inner: &mut Inner) -> Result<(), Failure> {
        if let Some(token) = self.unfed {
            inner.session.feed(&[token])?;
            self.unfed = None;
        }
        if std::mem::take(&mut self.keep) && self.started {
            let (session, cache) = inner.cache(self.cache_bytes)?;
            cache.insert(session)?;
        }
        Ok(())
    }

    /// Brings the session to the end of the prompt. What a cancellation has left is done by the next call.
    fn prefill(&mut self, inner: &mut Inner, cancel: &Cancel) -> Result<(), Failure> {
        match &mut self.prompt {
            Prompt::Here => {}
            Prompt::After(tokens) => {
                self.stats.prompt = self.stats.prompt.max(tokens.len());
                let before = inner.session.position();
                let result = if tokens.is_empty() { Ok(()) } else { inner.feed(tokens) };
                tokens.drain(..(inner.session.position().saturating_sub(before)).min(tokens.len()));
                result?;
            }
            Prompt::Whole { tokens, boundaries } => {
                let limit = inner.session.context_limit();
                if let Some(limit) = limit.filter(|&limit| tokens.len() > limit) {
                    return Err(Error::ContextFull { held: 0, more: tokens.len(), limit }.into());
                }
                let (session, cache) = inner.cache(self.cache_bytes)?;
                let go_on = &mut |_, _| !cancel.is_set();
                let used = cache.prefill_with(session, tokens, boundaries, go_on)?;
                if self.stats.prompt == 0 {
                    self.stats.reused = used.reused;
                }
                self.stats.prompt = tokens.len();
                if !used.complete {
                    return Err(Error::Cancelled.into());
                }
            }
        }
        Ok(())
    }
}

/// The tokens of a prompt's text.
pub(crate) fn encode(
    model: &ModelObject,
    text: &str,
    options: EncodeOptions,
) -> Result<Vec<u32>, Failure> {
    Ok(model.tokenizer()?.encode(text, options)?)
}

/// A seed that differs from call to call. It need not be unpredictable.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}
