//! Messages, and the session that has most of them in its state already.
//!
//! Each turn renders and tokenizes the whole conversation; what the session or the cache of prefixes covers of it is not
//! computed again. The session itself holds prompt and answer. Where the template writes the answer
//! otherwise than it was generated (many drop what was thought, or trim white space), the cache has the end of the
//! last prompt; and where a template begins answers with a text that it later leaves out, what was before it.

use std::time::Instant;

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::text::{
    self, ChatOptions, ChatTemplate, Message, OutputStream, Prompt, StopMatcher, StopTokens,
    StreamDecoder, Tokenizer,
};
use kinglet::{Model, PrefixCache, PrefixCacheOptions, PrefixCacheStats, Session};
use serde_json::{Map, Value};

use crate::error::CliError;
use crate::generation::{self, Answer, Decode, Generation, Limits, StopReason};
use crate::interrupt;
use crate::output::Output;
use crate::speculate_args::Speculation;
use crate::stats::Stats;
use crate::template;

/// What a conversation needs.
pub(crate) struct Setup {
    /// The model.
    pub(crate) model: Model,
    /// Its tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// Its chat template, or the one that was given.
    pub(crate) template: ChatTemplate,
    /// Its name, where one of several was chosen.
    pub(crate) template_name: Option<String>,
    /// Tokens that end an answer.
    pub(crate) stop: StopTokens,
    /// Strings that end an answer.
    pub(crate) stop_strings: Vec<String>,
    /// How long answer and conversation may get.
    pub(crate) limits: Limits,
    /// How tokens are chosen.
    pub(crate) sampling: SamplingOptions,
    /// Variables for the template.
    pub(crate) variables: Map<String, Value>,
    /// What is kept of prompts and answers, so that it need not be computed again.
    pub(crate) cache: PrefixCacheOptions,
    /// Of the random numbers.
    pub(crate) seed: u64,
    /// What guesses tokens, if anything.
    pub(crate) speculation: Option<Speculation>,
}

/// A conversation with a model.
pub(crate) struct Conversation {
    setup: Setup,
    sampler: Sampler,
    /// What was said, and how it is rendered.
    talk: text::Conversation,
    session: Session,
    cache: PrefixCache,
}

impl Conversation {
    /// A conversation without messages.
    ///
    /// # Errors
    /// When there is no memory for a session, or the cache's folder can't be used.
    pub(crate) fn new(setup: Setup) -> Result<Self, CliError> {
        let sampler = Sampler::new(setup.sampling.clone(), setup.seed)?;
        let session = setup.model.session()?;
        // Refused here rather than in the middle of an answer.
        StopMatcher::new(&setup.stop_strings)?;
        let cache = PrefixCache::new(&setup.model, setup.cache.clone())?;
        let options = ChatOptions {
            variables: setup.variables.clone(),
            template: setup.template_name.clone(),
            ..ChatOptions::default()
        };
        let talk = text::Conversation { messages: Vec::new(), options };
        Ok(Self { setup, sampler, talk, session, cache })
    }

    /// What was said so far.
    pub(crate) fn messages(&self) -> &[Message] {
        &self.talk.messages
    }

    /// Other messages instead.
    pub(crate) fn replace(&mut self, messages: Vec<Message>) {
        self.talk.messages = messages;
    }

    /// The system prompt, if there is one.
    pub(crate) fn system(&self) -> Option<&str> {
        let first = self.talk.messages.first().filter(|message| message.role == "system");
        first?.content.as_ref()?.as_str()
    }

    /// Sets or removes the system prompt.
    pub(crate) fn set_system(&mut self, text: Option<&str>) {
        if self.talk.messages.first().is_some_and(|message| message.role == "system") {
            self.talk.messages.remove(0);
        }
        if let Some(text) = text {
            self.talk.messages.insert(0, Message::system(text));
        }
    }

    /// Forgets all but the system prompt.
    pub(crate) fn reset(&mut self) {
        self.talk.messages.truncate(usize::from(self.system().is_some()));
    }

    /// Name of the model's folder.
    pub(crate) fn model_name(&self) -> &str {
        let name = self.setup.model.folder().file_name();
        name.and_then(|name| name.to_str()).unwrap_or(&self.setup.model.spec().model_type)
    }

    /// Model, backend and threads in a line.
    pub(crate) fn describe(&self) -> String {
        let model = &self.setup.model;
        format!("{} ({}), {}", self.model_name(), model.spec().model_type, model.describe())
    }

    /// Tokens and bytes that the session holds.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.session.position(), self.session.state_bytes())
    }

    /// What the cache of prefixes has done and holds.
    pub(crate) fn cached(&self) -> PrefixCacheStats {
        self.cache.stats()
    }

    /// Writes what is worth it to the cache's folder, if there is one.
    pub(crate) fn persist(&mut self) {
        let written = self.cache.persist();
        if written > 0 {
            log::info!("{written} prefixes written to the cache's folder");
        }
    }

    /// Says something and prints the answer. On an error, and when Ctrl-C came before the answer began, the
    /// conversation is as it was.
    ///
    /// # Errors
    /// Those of template, tokenizer, engine and output; a prompt that is too long.
    pub(crate) fn ask(&mut self, text: &str, output: &mut Output) -> Result<Answer, CliError> {
        self.talk.messages.push(Message::user(text));
        let answer = self.answer(output);
        let nothing =
            |answer: &Answer| answer.tokens.is_empty() && answer.stop == StopReason::Interrupted;
        if answer.as_ref().map_or(true, nothing) {
            self.talk.messages.pop();
        }
        answer
    }

    /// Answers the last message again; `None` if there is none. On an error the old answer stays.
    ///
    /// # Errors
    /// As [`Conversation::ask`].
    pub(crate) fn retry(&mut self, output: &mut Output) -> Result<Option<Answer>, CliError> {
        let is = |message: Option<&Message>, role: &str| message.is_some_and(|m| m.role == role);
        let old = self.talk.messages.pop_if(|message| message.role == "assistant");
        if !is(self.talk.messages.last(), "user") {
            self.talk.messages.extend(old);
            return Ok(None);
        }
        let answer = self.answer(output);
        if !is(self.talk.messages.last(), "assistant") {
            self.talk.messages.extend(old);
        }
        answer.map(Some)
    }

    /// Answers the messages and appends the answer to them, if there is one.
    fn answer(&mut self, output: &mut Output) -> Result<Answer, CliError> {
        let begun = Instant::now();
        self.talk.options.now = template::now();
        let prompt = self.talk.prompt(&self.setup.template, &self.setup.tokenizer)?;
        self.setup.limits.check(prompt.tokens.len())?;
        let _guard = interrupt::guard();
        let answer = self.compute(&prompt, begun, output);
        match &answer {
            Ok(answer) if !answer.tokens.is_empty() => {
                self.talk.messages.push(Message::assistant(answer.text.clone()));
            }
            Ok(_) => {}
            // What failed half-way may have left the session unusable.
            Err(_) => self.session = self.setup.model.session()?,
        }
        answer
    }

    fn compute(
        &mut self,
        prompt: &Prompt,
        begun: Instant,
        output: &mut Output,
    ) -> Result<Answer, CliError> {
        let Prompt { tokens, boundaries } = prompt;
        let seed = self.setup.seed;
        let mut stats = Stats { prompt: tokens.len(), ..Stats::default() };
        let mut progress = generation::prefill_progress();
        let used = self.cache.prefill_with(
            &mut self.session,
            tokens,
            boundaries,
            &mut |done, total| {
                progress.set(done as u64, total as u64);
                !interrupt::hit()
            },
        )?;
        drop(progress);
        stats.reused = used.reused;
        if !used.complete || interrupt::hit() {
            let stop = StopReason::Interrupted;
            let answer = Answer { text: String::new(), tokens: Vec::new(), stop, stats, seed };
            output.done(&answer)?;
            return Ok(answer);
        }
        stats.computed = used.computed;
        stats.prefill = begun.elapsed();
        let history = self.sampler.state_mut();
        history.rewind(0);
        history.accept_all(tokens);
        let Setup { tokenizer, stop, stop_strings, limits, .. } = &self.setup;
        let decoder = StreamDecoder::new(tokenizer.clone(), true);
        let matcher = StopMatcher::new(stop_strings)?;
        let stream = Box::new(OutputStream::new(decoder, stop.clone(), matcher));
        let decode = Decode::Text { stream, stops: stop_strings.clone() };
        let (limits, session, sampler) = (*limits, &mut self.session, &mut self.sampler);
        let speculation = self.setup.speculation.as_mut();
        let generation =
            Generation { session, sampler, decode, limits, begun, stats, seed, speculation };
        let answer = generation.run(output)?;
        // Where another conversation begins with this answer too, or the next run does.
        self.cache.insert(&self.session)?;
        Ok(answer)
    }
}
