//! Messages, and the session that has most of them in its state already.
//!
//! Each turn renders and tokenizes the whole conversation; what the session or the cache of prefixes covers of it is not
//! computed again. The session itself holds prompt and answer. Where the template writes the answer
//! otherwise than it was generated (many drop what was thought, or trim white space), the cache has the end of the
//! last prompt; and where a template begins answers with a text that it later leaves out, what was before it.

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
    /// How tokens are chosen, and when an answer ends.
    pub(crate) choices: Choices,
    /// What is kept of prompts and answers, so that it need not be computed again.
    pub(crate) cache: PrefixCacheOptions,
    /// What guesses tokens, if anything.
    pub(crate) speculation: Option<Speculation>,
}

/// A conversation with a model.
pub(crate) struct Conversation {
    setup: Setup,
    /// The random numbers to come.
    random: SamplerState,
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
        let random = SamplerState::new(setup.choices.options.seed.unwrap_or_default());
        let session = setup.model.session()?;
        // Refused here rather than in the middle of an answer.
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

    /// Takes back the last message of the user and all that came after it; gives how many messages that were.
    pub(crate) fn undo(&mut self) -> usize {
        let before = self.talk.messages.len();
        let last = self.talk.messages.iter().rposition(|message| message.role == "user");
        self.talk.messages.truncate(last.unwrap_or(before));
        before - self.talk.messages.len()
    }

    /// The last message of the user, if it is text.
    pub(crate) fn last_question(&self) -> Option<&str> {
        let last = self.talk.messages.iter().rfind(|message| message.role == "user");
        last?.content.as_ref()?.as_str()
    }

    /// Says something else than the last message, and prints the answer. Where there is no answer, the conversation
    /// is as it was.
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

    /// Goes on with other choices; with other random numbers where these have a seed of their own.
    ///
    /// # Errors
    /// When they are no stop strings; all is then as it was.
    pub(crate) fn choose(&mut self, choices: Choices, new_seed: bool) -> Result<(), CliError> {
        StopMatcher::new(&choices.options.stop_strings)?;
        if new_seed {
            self.random = SamplerState::new(choices.options.seed.unwrap_or_default());
        }
        self.talk.options.variables = choices.variables.clone();
        self.setup.choices = choices;
        Ok(())
    }

    /// The choices as they are.
    pub(crate) fn choices(&self) -> &Choices {
        &self.setup.choices
    }

    /// The model.
    pub(crate) fn model(&self) -> &Model {
        &self.setup.model
    }

    /// Its tokenizer.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.setup.tokenizer
    }

    /// What the random numbers began with.
    pub(crate) fn seed(&self) -> u64 {
        self.setup.choices.options.seed.unwrap_or_default()
    }

    /// How long the conversation is and what the model was made for, in tokens, where it has outgrown that.
    pub(crate) fn outgrown(&self) -> Option<(usize, usize)> {
        let (held, most) = (self.session.position(), self.setup.model.spec().max_positions?);
        (held > most).then_some((held, most))
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
            // What failed half-way may have left the session unusable.
            Err(_) if self.session.is_poisoned() => self.session = self.setup.model.session()?,
            _ => {}
        }
        answer
    }
}
