//! Messages, and the session that has most of them in its state already.
//!
//! Each turn renders and tokenizes the whole conversation; what a session's tokens cover of it is not
//! computed again. The session itself holds prompt and answer. Where the template writes the answer
//! otherwise than it was generated (many drop what was thought, or trim white space), a fork made at
//! the end of the last prompt goes on; and where a template begins answers with a text that it later
//! leaves out, one made before that beginning.

use std::time::Instant;

use kinglet::sampling::{Sampler, SamplingOptions};
use kinglet::text::{
    ChatOptions, ChatTemplate, EncodeOptions, Message, OutputStream, StopMatcher, StopTokens,
    StreamDecoder, Tokenizer,
};
use kinglet::{Model, Session};
use serde_json::{Map, Value};

use crate::error::CliError;
use crate::generation::{self, Answer, Decode, Generation, Limits, StopReason};
use crate::interrupt;
use crate::output::Output;
use crate::stats::Stats;

/// What a conversation needs.
pub(crate) struct Setup {
    /// The model.
    pub(crate) model: Model,
    /// Its tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// Its chat template, or the one that was given.
    pub(crate) template: ChatTemplate,
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
    /// Of the random numbers.
    pub(crate) seed: u64,
}

/// A conversation with a model.
pub(crate) struct Conversation {
    setup: Setup,
    sampler: Sampler,
    messages: Vec<Message>,
    session: Session,
    /// Sessions at the end of the last prompt and, if that has missed once, before the beginning of the answer.
    forks: Vec<Session>,
    /// Whether to fork before the beginning of the answer too, which costs a step of its own.
    fork_before_answer: bool,
}

impl Conversation {
    /// A conversation without messages.
    ///
    /// # Errors
    /// When there is no memory for a session.
    pub(crate) fn new(setup: Setup) -> Result<Self, CliError> {
        let sampler = Sampler::new(setup.sampling.clone(), setup.seed)?;
        let session = setup.model.session()?;
        // Refused here rather than in the middle of an answer.
        StopMatcher::new(&setup.stop_strings)?;
        Ok(Self {
            setup,
            sampler,
            session,
            messages: Vec::new(),
            forks: Vec::new(),
            fork_before_answer: false,
        })
    }

    /// What was said so far.
    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Other messages instead.
    pub(crate) fn replace(&mut self, messages: Vec<Message>) {
        self.messages = messages;
    }

    /// The system prompt, if there is one.
    pub(crate) fn system(&self) -> Option<&str> {
        let first = self.messages.first().filter(|message| message.role == "system");
        first?.content.as_ref()?.as_str()
    }

    /// Sets or removes the system prompt.
    pub(crate) fn set_system(&mut self, text: Option<&str>) {
        if self.messages.first().is_some_and(|message| message.role == "system") {
            self.messages.remove(0);
        }
        if let Some(text) = text {
            self.messages.insert(0, Message::system(text));
        }
    }

    /// Forgets all but the system prompt.
    pub(crate) fn reset(&mut self) {
        self.messages.truncate(usize::from(self.system().is_some()));
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

    /// Says something and prints the answer. On an error, and when Ctrl-C came before the answer began, the
    /// conversation is as it was.
    ///
    /// # Errors
    /// Those of template, tokenizer, engine and output; a prompt that is too long.
    pub(crate) fn ask(&mut self, text: &str, output: &mut Output) -> Result<Answer, CliError> {
        self.messages.push(Message::user(text));
        let answer = self.answer(output);
        let nothing =
            |answer: &Answer| answer.tokens.is_empty() && answer.stop == StopReason::Interrupted;
        if answer.as_ref().map_or(true, nothing) {
            self.messages.pop();
        }
        answer
    }

    /// Answers the last message again; `None` if there is none. On an error the old answer stays.
    ///
    /// # Errors
    /// As [`Conversation::ask`].
    pub(crate) fn retry(&mut self, output: &mut Output) -> Result<Option<Answer>, CliError> {
        let is = |message: Option<&Message>, role: &str| message.is_some_and(|m| m.role == role);
        let old = self.messages.pop_if(|message| message.role == "assistant");
        if !is(self.messages.last(), "user") {
            self.messages.extend(old);
            return Ok(None);
        }
        let answer = self.answer(output);
        if !is(self.messages.last(), "assistant") {
            self.messages.extend(old);
        }
        answer.map(Some)
    }

    /// Answers the messages and appends the answer to them, if there is one.
    fn answer(&mut self, output: &mut Output) -> Result<Answer, CliError> {
        let begun = Instant::now();
        let prompt = self.encode(true)?;
        self.setup.limits.check(prompt.len())?;
        let _guard = interrupt::guard();
        let answer = self.compute(&prompt, begun, output);
        match &answer {
            Ok(answer) if !answer.tokens.is_empty() => {
                self.messages.push(Message::assistant(answer.text.clone()));
            }
            Ok(_) => {}
            // What failed half-way may have left the session unusable.
            Err(_) => {
                self.forks.clear();
                self.session = self.setup.model.session()?;
            }
        }
        answer
    }

    fn compute(
        &mut self,
        prompt: &[u32],
        begun: Instant,
        output: &mut Output,
    ) -> Result<Answer, CliError> {
        let reused = self.go_back_to_prefix(prompt)?;
        let seed = self.setup.seed;
        let mut stats = Stats { prompt: prompt.len(), reused, ..Stats::default() };
        if !self.prefill(prompt)? {
            let stop = StopReason::Interrupted;
            let answer = Answer { text: String::new(), tokens: Vec::new(), stop, stats, seed };
            output.done(&answer)?;
            return Ok(answer);
        }
        stats.computed = prompt.len() - reused;
        stats.prefill = begun.elapsed();
        let history = self.sampler.state_mut();
        history.rewind(0);
        history.accept_all(prompt);
        let Setup { tokenizer, stop, stop_strings, limits, .. } = &self.setup;
        let decoder = StreamDecoder::new(tokenizer.clone(), true);
        let matcher = StopMatcher::new(stop_strings)?;
        let stream = Box::new(OutputStream::new(decoder, stop.clone(), matcher));
        let decode = Decode::Text { stream, stops: stop_strings.clone() };
        let (limits, session, sampler) = (*limits, &mut self.session, &mut self.sampler);
        Generation { session, sampler, decode, limits, begun, stats, seed }.run(output)
    }

    /// The conversation as tokens, with or without the beginning of an answer.
    fn encode(&self, add_generation_prompt: bool) -> Result<Vec<u32>, CliError> {
        let variables = self.setup.variables.clone();
        let options = ChatOptions { add_generation_prompt, variables, ..ChatOptions::default() };
        let text = self.setup.template.render(&self.messages, &options)?;
        let plain = EncodeOptions { add_special_tokens: false, parse_special_tokens: true };
        Ok(self.setup.tokenizer.encode(&text, plain)?)
    }

    /// Makes the session one whose tokens begin the prompt, the longest that there is; returns their number.
    fn go_back_to_prefix(&mut self, prompt: &[u32]) -> Result<usize, CliError> {
        if begins(&self.session, prompt) {
            return Ok(self.session.position());
        }
        let fitting = self.forks.iter().filter(|fork| begins(fork, prompt));
        if let Some(fork) = fitting.max_by_key(|fork| fork.position()) {
            self.session = fork.fork()?;
            return Ok(self.session.position());
        }
        self.fork_before_answer |= !self.forks.is_empty();
        self.forks.clear();
        self.session.reset()?;
        Ok(0)
    }

    /// Takes the rest of the prompt into the session, forking on the way. False when Ctrl-C stopped it.
    fn prefill(&mut self, prompt: &[u32]) -> Result<bool, CliError> {
        let mut forks = Vec::new();
        let mut progress = generation::prefill_progress();
        if self.fork_before_answer {
            let without = self.encode(false).unwrap_or_default();
            let common = without.iter().zip(prompt).take_while(|(a, b)| a == b).count();
            if let Some(rest) = prompt.get(self.session.position()..common)
                && !rest.is_empty()
                && common < prompt.len()
            {
                if !generation::prefill(&mut self.session, rest, &mut progress)? {
                    return Ok(false);
                }
                forks.push(self.session.fork()?);
            }
        }
        let rest = prompt.get(self.session.position()..).unwrap_or_default();
        if !generation::prefill(&mut self.session, rest, &mut progress)? {
            return Ok(false);
        }
        forks.push(self.session.fork()?);
        self.forks = forks;
        Ok(true)
    }
}

/// Whether a session can go on to `prompt`: its tokens begin it, and its logits are there if they are all of it.
fn begins(session: &Session, prompt: &[u32]) -> bool {
    let held = session.tokens();
    prompt.starts_with(held) && (held.len() < prompt.len() || session.last_logits().is_some())
}
