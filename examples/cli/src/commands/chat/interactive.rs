//! The loop over turns and slash commands, until the input ends.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use serde_json::json;

use super::commands::{self, Line};
use super::conversation::Conversation;
use super::input::{Input, Read};
use super::settings::{self, Settings};
use super::transcript::{self, Own};
use super::{Maker, Saving};
use crate::error::CliError;
use crate::generation::Answer;
use crate::output::{Format, Output};
use crate::{interrupt, model_folder, paths, report, terminal};

/// Clears the screen and moves the cursor to the top.
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";

/// A conversation and its surroundings.
pub(super) struct Talk<'a> {
    pub(super) conversation: &'a mut Conversation,
    /// Opens other models.
    pub(super) maker: Maker<'a>,
    pub(super) settings: Settings,
    pub(super) saving: &'a mut Saving,
    pub(super) input: Input,
    pub(super) output: &'a mut Output,
    /// Verbosity of error messages.
    pub(super) verbose: u8,
    /// The last answer.
    pub(super) last: Option<Answer>,
    /// Whether the user was warned that the conversation exceeds the model's context.
    pub(super) warned: bool,
}

impl Talk<'_> {
    /// Runs until the input ends.
    ///
    /// # Errors
    /// If input or output fails; [`CliError::Interrupted`] if a signal ends the program. Errors of
    /// a turn are reported, and the conversation continues.
    pub(super) fn run(mut self) -> Result<(), CliError> {
        if self.input.is_terminal() {
            report::aside(&self.conversation.describe());
            report::aside("/help lists the commands, Ctrl-C stops an answer, Ctrl-D quits.");
        }
        let result = self.turns();
        self.input.finish();
        result
    }

    fn turns(&mut self) -> Result<(), CliError> {
        let mut interrupted = false;
        loop {
            let line = match self.input.read_message()? {
                Read::Line(line) => line,
                Read::Interrupted { typed: true } => {
                    interrupted = false;
                    continue;
                }
                Read::Interrupted { typed: false } if !interrupted => {
                    interrupted = true;
                    report::aside("Press Ctrl-C again or Ctrl-D to quit.");
                    self.input.prompt_again();
                    continue;
                }
                Read::Interrupted { .. } | Read::End => return Ok(()),
                Read::Ending => return Err(CliError::Interrupted),
            };
            interrupted = false;
            if line.trim().is_empty() {
                continue;
            }
            self.input.remember(&line);
            let done = match Line::parse(&line) {
                Line::Quit => return Ok(()),
                line => self.turn(line),
            };
            let done = match done {
                Ok(Some(answer)) => self.answered(answer),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            match done {
                _ if interrupt::ending() => return Err(CliError::Interrupted),
                Ok(()) => {}
                Err(error @ (CliError::BrokenPipe | CliError::Stdout(_))) => return Err(error),
                Err(CliError::Interrupted) => report::aside("[stopped]"),
                Err(error) => self.tell(&error)?,
            }
        }
    }

    /// Carries out a line; returns the answer if there is one.
    fn turn(&mut self, line: Line<'_>) -> Result<Option<Answer>, CliError> {
        match line {
            Line::Message(text) => self.conversation.ask(&text, self.output).map(Some),
            Line::Retry => {
                let answer = self.conversation.retry(self.output)?;
                if answer.is_none() {
                    report::aside("there is no message to answer again");
                }
                Ok(answer)
            }
            Line::Edit(text) => self.edit(text),
            line => self.command(line).map(|()| None),
        }
    }

    /// Handles a finished answer: remarks, statistics, saving.
    fn answered(&mut self, answer: Answer) -> Result<(), CliError> {
        if let Some(remark) = answer.stop.remark() {
            report::aside(&format!("[{remark}]"));
        }
        if self.settings.stats {
            report::aside(&answer.stats.to_string());
        }
        self.last = Some(answer);
        let outgrown = self.conversation.outgrown();
        if let Some(long) = outgrown.filter(|_| !self.warned) {
            report::warning(&super::too_long(long));
        }
        self.warned = outgrown.is_some();
        // Saved after each answer, so that nothing is lost, however the program ends.
        self.saving.save(self.conversation)
    }

    /// Reports an error of a turn.
    fn tell(&mut self, error: &CliError) -> Result<(), CliError> {
        let message = report::message(error, self.verbose);
        if self.output.format() == Format::Json {
            self.output.event(&json!({ "event": "error", "message": message }))?;
        } else {
            self.output.end_line()?;
        }
        report::problem(&message);
        Ok(())
    }

    /// Changes the last message and answers it.
    fn edit(&mut self, text: Option<String>) -> Result<Option<Answer>, CliError> {
        let Some(old) = self.conversation.last_question().map(str::to_string) else {
            report::aside("there is no message to change");
            return Ok(None);
        };
        let text = match text {
            Some(text) => text,
            None if self.input.can_edit() => match self.input.read("> ", &old)? {
                Read::Line(text) if !text.trim().is_empty() => {
                    self.input.remember(&text);
                    text
                }
                Read::Ending => return Err(CliError::Interrupted),
                _ => {
                    report::aside("nothing changed");
                    return Ok(None);
                }
            },
            None => {
                report::aside("/edit needs the new text of the last message");
                return Ok(None);
            }
        };
        self.conversation.edit(&text, self.output).map(Some)
    }

    /// Runs a command that has no answer.
    fn command(&mut self, line: Line<'_>) -> Result<(), CliError> {
        match line {
            Line::Help => report::tell(&commands::help()),
            Line::Reset => self.reset(),
            Line::Clear => {
                if self.output.format() == Format::Text
                    && io::stdout().is_terminal()
                    && !terminal::is_dumb()
                {
                    let mut out = io::stdout().lock();
                    out.write_all(CLEAR).and_then(|()| out.flush()).map_err(CliError::Stdout)?;
                }
                self.reset();
            }
            Line::Undo => match self.conversation.undo() {
                0 => report::aside("there is no message to remove"),
                1 => report::aside("removed the last message"),
                count => report::aside(&format!("removed the last {count} messages")),
            },
            Line::System(text) => {
                self.conversation.set_system(text.as_deref());
                report::aside(match text {
                    Some(_) => "the system prompt is set",
                    None => "the system prompt is removed",
                });
            }
            Line::Set(setting) => self.set(setting)?,
            Line::Model(None) => report::aside(&self.conversation.describe()),
            Line::Model(Some(folder)) => self.change_model(&paths::typed(folder))?,
            Line::Save { file, replace } => {
                let path = paths::typed(file);
                self.saving.save_to(&path, replace, self.conversation)?;
                let count = self.conversation.messages().len();
                report::aside(&format!("saved {count} messages to {}", path.display()));
            }
            Line::Load(file) => {
                let path = paths::typed(file);
                self.conversation.replace(transcript::load(&path)?);
                self.saving.own.add(&path);
                let count = self.conversation.messages().len();
                report::aside(&format!("loaded {count} messages from {}", path.display()));
            }
            Line::Stats => self.stats(),
            Line::Wrong(message) => report::aside(&message),
            // The caller handles these.
            Line::Message(_) | Line::Retry | Line::Edit(_) | Line::Quit => {}
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.conversation.reset();
        // The new conversation must not overwrite the old one's files.
        self.saving.own = Own::default();
        self.warned = false;
        report::aside("started a new conversation");
    }

    fn set(&mut self, setting: Option<(&str, Option<&str>)>) -> Result<(), CliError> {
        let seed = self.conversation.seed();
        match setting {
            None => {
                for name in settings::names() {
                    let value = self.settings.value(name, self.conversation.choices(), seed);
                    report::aside(&format!("{name:21} {value}"));
                }
            }
            Some((name, value)) => {
                let (mut new, value) = (self.settings.clone(), value);
                let name = match value {
                    Some(value) => {
                        let name = new.set(name, value)?;
                        let (model, tokenizer) =
                            (self.conversation.model(), self.conversation.tokenizer());
                        let other = name == "seed";
                        let seed = if other { new.sampling.seed() } else { seed };
                        let choices = new.choices(model, tokenizer, seed)?;
                        self.conversation.choose(choices, other)?;
                        self.settings = new;
                        name
                    }
                    None => settings::known(name)?,
                };
                let (choices, seed) = (self.conversation.choices(), self.conversation.seed());
                report::aside(&format!("{name}: {}", self.settings.value(name, choices, seed)));
            }
        }
        Ok(())
    }

    /// Switches to the model in another folder. After an error the old model stays.
    fn change_model(&mut self, folder: &Path) -> Result<(), CliError> {
        let folder = model_folder::named(folder, "given to /model")?;
        let setup = self.maker.setup(Some(&folder), &self.settings)?;
        let mut conversation = Conversation::new(setup)?;
        conversation.replace(self.conversation.messages().to_vec());
        self.conversation.persist();
        *self.conversation = conversation;
        self.last = None;
        self.warned = false;
        report::aside(&self.conversation.describe());
        Ok(())
    }

    fn stats(&self) {
        match &self.last {
            Some(answer) => report::aside(&answer.stats.to_string()),
            None => report::aside("there is no answer yet"),
        }
        let (tokens, bytes) = self.conversation.held();
        let megabytes = bytes as f64 / 1e6;
        report::aside(&format!("session: {tokens} tokens, {megabytes:.2} MB of state"));
        let cached = self.conversation.cached();
        let megabytes = cached.bytes as f64 / 1e6;
        report::aside(&format!(
            "cache: {} snapshots, {megabytes:.2} MB; {} tokens of prompts reused, {} computed",
            cached.snapshots, cached.reused, cached.computed
        ));
    }
}
