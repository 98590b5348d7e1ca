//! The messages of a chat, and the session that has already computed most of them.
//!
//! Each turn renders and tokenizes the whole conversation; what the session or the prefix cache
//! covers is not computed again. The session itself holds the prompt and the answer. If the
//! template renders the answer differently from how it was generated (many drop reasoning or trim
//! white space), the cache has the end of the last prompt; if the template begins answers with text
//! that it later omits, the cache has the state before that text.

use kinglet::answer::AnswerPrompt;
use kinglet::sampling::SamplerState;
use kinglet::text::{self, ChatOptions, ChatTemplate, Message, StopMatcher, Tokenizer};
use kinglet::{Model, PrefixCache, PrefixCacheOptions, PrefixCacheStats, Session};

use super::settings::Choices;
use crate::error::CliError;
use crate::generation::{Answer, Question, StopReason};
use crate::interrupt;
use crate::output::Output;
use crate::speculate_args::Speculation;
use crate::template;

/// Everything a conversation needs.
pub(crate) struct Setup {
    /// The model.
    pub(crate) model: Model,
    /// The model's tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// The model's chat template, or the given one.
    pub(crate) template: ChatTemplate,
    /// Name of the template, if one of several was chosen.
    pub(crate) template_name: Option<String>,
    /// Sampling options, and conditions that end an answer.
    pub(crate) choices: Choices,
    /// Options of the cache of prompts and answers.
    pub(crate) cache: PrefixCacheOptions,
    /// Speculation, if enabled.
    pub(crate) speculation: Option<Speculation>,
}

/// A conversation with a model.
pub(crate) struct Conversation {
    setup: Setup,
    /// Current random state.
    random: SamplerState,
    /// Messages and rendering options.
    talk: text::Conversation,
    session: Session,
    cache: PrefixCache,
}

impl Conversation {
    /// Creates a conversation without messages.
    ///
    /// # Errors
    /// If there is no memory for a session, or the cache folder is not usable.
    pub(crate) fn new(setup: Setup) -> Result<Self, CliError> {
        let random = SamplerState::new(setup.choices.options.seed.unwrap_or_default());
        let session = setup.model.session()?;
        // Fail here rather than in the middle of an answer.
        StopMatcher::new(&setup.choices.options.stop_strings)?;
        let cache = PrefixCache::new(&setup.model, setup.cache.clone())?;
        let options = ChatOptions {
            variables: setup.choices.variables.clone(),
            template: setup.template_name.clone(),
            ..ChatOptions::default()
        };
        let talk = text::Conversation { messages: Vec::new(), options };
        Ok(Self { setup, random, talk, session, cache })
    }

    /// The messages so far.
    pub(crate) fn messages(&self) -> &[Message] {
        &self.talk.messages
    }

    /// Replaces all messages.
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

    /// Removes all messages but the system prompt.
    pub(crate) fn reset(&mut self) {
        self.talk.messages.truncate(usize::from(self.system().is_some()));
    }

    /// Removes the user's last message and everything after it; returns the number of removed
    /// messages.
    pub(crate) fn undo(&mut self) -> usize {
        let before = self.talk.messages.len();
        let last = self.talk.messages.iter().rposition(|message| message.role == "user");
        self.talk.messages.truncate(last.unwrap_or(before));
        before - self.talk.messages.len()
    }

    /// The user's last message, if it is text.
    pub(crate) fn last_question(&self) -> Option<&str> {
        let last = self.talk.messages.iter().rfind(|message| message.role == "user");
        last?.content.as_ref()?.as_str()
    }

    /// Replaces the user's last message and prints the new answer. If there is none, the
    /// conversation does not change.
    ///
    /// # Errors
    /// As [`Conversation::ask`].
    pub(crate) fn edit(&mut self, text: &str, output: &mut Output) -> Result<Answer, CliError> {
        let old = self.talk.messages.clone();
        self.undo();
        let left = self.talk.messages.len();
        let answer = self.ask(text, output);
        if self.talk.messages.len() == left {
            self.talk.messages = old;
        }
        answer
    }

    /// Uses other choices from now on, and if `new_seed`, their seed.
    ///
    /// # Errors
    /// If the stop strings are invalid; then nothing changes.
    pub(crate) fn choose(&mut self, choices: Choices, new_seed: bool) -> Result<(), CliError> {
        StopMatcher::new(&choices.options.stop_strings)?;
        if new_seed {
            self.random = SamplerState::new(choices.options.seed.unwrap_or_default());
        }
        self.talk.options.variables = choices.variables.clone();
        self.setup.choices = choices;
        Ok(())
    }

    /// The current choices.
    pub(crate) fn choices(&self) -> &Choices {
        &self.setup.choices
    }

    /// The model.
    pub(crate) fn model(&self) -> &Model {
        &self.setup.model
    }

    /// The model's tokenizer.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.setup.tokenizer
    }

    /// The random seed.
    pub(crate) fn seed(&self) -> u64 {
        self.setup.choices.options.seed.unwrap_or_default()
    }

    /// The length of the conversation and of the model's context in tokens, if the conversation is
    /// longer.
    pub(crate) fn outgrown(&self) -> Option<(usize, usize)> {
        let (held, most) = (self.session.position(), self.setup.model.spec().max_positions?);
        (held > most).then_some((held, most))
    }

    /// Name of the model's folder.
    pub(crate) fn model_name(&self) -> &str {
        let name = self.setup.model.folder().file_name();
        name.and_then(|name| name.to_str()).unwrap_or(&self.setup.model.spec().model_type)
    }

    /// Describes model, backend and threads in a line.
    pub(crate) fn describe(&self) -> String {
        let model = &self.setup.model;
        format!("{} ({}), {}", self.model_name(), model.spec().model_type, model.describe())
    }

    /// Number of tokens and bytes that the session holds.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.session.position(), self.session.state_bytes())
    }

    /// Statistics of the prefix cache.
    pub(crate) fn cached(&self) -> PrefixCacheStats {
        self.cache.stats()
    }

    /// Writes the most useful prefixes to the cache folder, if there is one.
    pub(crate) fn persist(&mut self) {
        let written = self.cache.persist();
        if written > 0 {
            log::info!("wrote {written} prefixes to the cache folder");
        }
    }

    /// Sends a message and prints the answer. After an error, or if Ctrl-C came before the answer
    /// began, the conversation is unchanged.
    ///
    /// # Errors
    /// Errors of template, tokenizer, engine and output; a prompt that is too long.
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

    /// Answers the last message again; `None` if there is none. After an error the old answer
    /// stays.
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

    /// Answers the messages and appends the answer, if there is one.
    fn answer(&mut self, output: &mut Output) -> Result<Answer, CliError> {
        self.talk.options.now = template::now();
        let prompt = self.talk.prompt(&self.setup.template, &self.setup.tokenizer)?;
        let _guard = interrupt::guard();
        let question = Question {
            session: &mut self.session,
            cache: Some(&mut self.cache),
            defaults: &self.setup.choices.defaults,
            prompt: AnswerPrompt::chat(prompt),
            options: &self.setup.choices.options,
            speculation: self.setup.speculation.as_mut(),
            random: Some(&mut self.random),
        };
        let answer = question.answer(output);
        match &answer {
            Ok(answer) if !answer.tokens.is_empty() => {
                self.talk.messages.push(Message::assistant(answer.text.clone()));
            }
            // A failed step may have poisoned the session.
            Err(_) if self.session.is_poisoned() => self.session = self.setup.model.session()?,
            _ => {}
        }
        answer
    }
}
