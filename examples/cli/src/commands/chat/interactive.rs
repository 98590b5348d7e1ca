//! Turns and slash commands from a person at a terminal, or line by line from a pipe.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Behavior, Config, Editor};
use serde_json::json;

use super::conversation::Conversation;
use super::transcript;
use crate::error::CliError;
use crate::generation::Answer;
use crate::output::{Format, Output};
use crate::{interrupt, report};

/// Lines of earlier input that are kept.
const HISTORY: usize = 1000;

const HELP: &str = "\
/help          this list
/reset         begin a new conversation (the system prompt stays)
/retry         answer the last message again
/system TEXT   set the system prompt (without TEXT: remove it)
/save FILE     save the conversation
/load FILE     go on with a saved conversation
/stats         tokens and times of the last answer
/quit          end (Ctrl-D does too)
A line that ends with \\ goes on in the next one. Begin with // to say something that begins with /.
Ctrl-C stops an answer.";

/// What does not concern the conversation itself.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// Tell times after each answer.
    pub(crate) stats: bool,
    /// Tell errors in full.
    pub(crate) verbose: u8,
}

/// Where earlier input is kept, if the system has a place for such files.
pub(crate) fn history_file() -> Option<PathBuf> {
    Some(dirs::data_dir()?.join("kinglet").join("history.txt"))
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Message(String),
    Help,
    Reset,
    Retry,
    System(Option<&'a str>),
    Save(&'a str),
    Load(&'a str),
    Stats,
    Quit,
    /// A command that is none, or lacks something: what to tell.
    Wrong(String),
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let Some(command) = line.trim_start().strip_prefix('/') else {
            return Self::Message(line.into());
        };
        if command.starts_with('/') {
            return Self::Message(command.into());
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let file = |line: fn(&'a str) -> Self| match rest {
            "" => Self::Wrong(format!("/{name} needs the name of a file, as in /{name} talk.json")),
            path => line(path),
        };
        match name {
            "help" | "?" => Self::Help,
            "reset" => Self::Reset,
            "retry" => Self::Retry,
            "system" => Self::System((!rest.is_empty()).then_some(rest)),
            "save" => file(Self::Save),
            "load" => file(Self::Load),
            "stats" => Self::Stats,
            "quit" | "exit" => Self::Quit,
            _ => Self::Wrong(format!(
                "there is no command /{name}: /help lists them (begin with // to say it)"
            )),
        }
    }
}

/// Where lines come from.
enum Input<'a> {
    Terminal { editor: Box<Editor<(), FileHistory>>, history: Option<&'a Path> },
    Pipe,
}

/// One line, or why there is none.
enum Read {
    Line(String),
    Interrupted,
    End,
}

impl<'a> Input<'a> {
    fn new(history: Option<&'a Path>) -> Result<Self, CliError> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let mut config = Config::builder();
        // Answers that go to a file must not have the prompt and what was typed among them.
        if !io::stdout().is_terminal() {
            config = config.behavior(Behavior::PreferTerm);
        }
        let config = config.max_history_size(HISTORY).map_err(CliError::Editor)?;
        let config = config.auto_add_history(false).build();
        let mut editor = Editor::with_config(config).map_err(CliError::Editor)?;
        if let Some(path) = history
            && path.exists()
            && let Err(error) = editor.load_history(path)
        {
            log::warn!("can't read earlier input from {}: {error}", path.display());
        }
        Ok(Self::Terminal { editor: Box::new(editor), history })
    }

    fn read(&mut self, prompt: &str) -> Result<Read, CliError> {
        match self {
            Self::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Read::Line(line)),
                Err(ReadlineError::Interrupted) => Ok(Read::Interrupted),
                Err(ReadlineError::Eof) => Ok(Read::End),
                Err(error) => Err(CliError::Editor(error)),
            },
            Self::Pipe => {
                let mut line = String::new();
                let path = || PathBuf::from("standard input");
                match io::stdin().lock().read_line(&mut line) {
                    Ok(0) => Ok(Read::End),
                    Ok(_) => {
                        let end = line.trim_end_matches(['\n', '\r']).len();
                        line.truncate(end);
                        Ok(Read::Line(line))
                    }
                    Err(source) => Err(CliError::Read { path: path(), source }),
                }
            }
        }
    }

    /// A line with those that it goes on in.
    fn read_message(&mut self) -> Result<Read, CliError> {
        let mut message = String::new();
        loop {
            match self.read(if message.is_empty() { "> " } else { "| " })? {
                Read::Line(line) => match line.strip_suffix('\\') {
                    Some(line) => {
                        message.push_str(line);
                        message.push('\n');
                    }
                    None => {
                        message.push_str(&line);
                        return Ok(Read::Line(message));
                    }
                },
                other => return Ok(other),
            }
        }
    }

    fn remember(&mut self, line: &str) {
        if let Self::Terminal { editor, .. } = self
            && let Err(error) = editor.add_history_entry(line)
        {
            log::debug!("can't keep the input: {error}");
        }
    }

    /// Writes the history. A conversation is not to fail for it.
    fn finish(mut self) {
        if let Self::Terminal { editor, history: Some(path) } = &mut self {
            let folder = path.parent().unwrap_or(Path::new("."));
            let saved = std::fs::create_dir_all(folder)
                .map_err(ReadlineError::from)
                .and_then(|()| editor.save_history(path));
            if let Err(error) = saved {
                log::warn!("can't keep the input in {}: {error}", path.display());
            }
        }
    }
}

/// Talks until the input ends.
///
/// # Errors
/// When input or output fail. What goes wrong with a turn is told, and the conversation goes on.
pub(crate) fn run(
    conversation: &mut Conversation,
    history: Option<&Path>,
    options: Options,
    output: &mut Output,
) -> Result<(), CliError> {
    // Ctrl-C that comes a moment too late for an answer must not end the conversation.
    let _guard = interrupt::guard();
    let mut input = Input::new(history)?;
    if matches!(input, Input::Terminal { .. }) {
        report::tell(&conversation.describe());
        report::tell("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.");
    }
    let result = talk(conversation, &mut input, options, output);
    input.finish();
    result
}

fn talk(
    conversation: &mut Conversation,
    input: &mut Input<'_>,
    options: Options,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut last = None;
    let mut interrupted = false;
    loop {
        let read = input.read_message()?;
        // What was pressed for the last answer is not for the next one; from here on it is.
        interrupt::forget();
        let line = match read {
            Read::Line(line) => line,
            Read::Interrupted if !interrupted => {
                interrupted = true;
                report::tell("Ctrl-C again or Ctrl-D ends the conversation.");
                continue;
            }
            Read::Interrupted | Read::End => return Ok(()),
        };
        interrupted = false;
        if line.trim().is_empty() {
            continue;
        }
        input.remember(&line);
        let done = match Line::parse(&line) {
            Line::Quit => return Ok(()),
            Line::Message(text) => conversation.ask(&text, output).map(Some),
            Line::Retry => match conversation.retry(output) {
                Ok(None) => {
                    report::tell("there is no message to answer again");
                    Ok(None)
                }
                other => other,
            },
            line => command(line, conversation, last.as_ref()).map(|()| None),
        };
        match done {
            Ok(Some(answer)) => {
                if let Some(remark) = answer.stop.remark() {
                    report::tell(&format!("[{remark}]"));
                }
                if options.stats {
                    report::tell(&answer.stats.to_string());
                }
                last = Some(answer);
            }
            Ok(None) => {}
            Err(error @ (CliError::BrokenPipe | CliError::Stdout(_))) => return Err(error),
            Err(error) => {
                let message = report::message(&error, options.verbose);
                if output.format() == Format::Json {
                    output.event(&json!({ "event": "error", "message": message }))?;
                }
                report::tell(&format!("error: {message}"));
            }
        }
    }
}

/// Runs a command that leads to no answer.
fn command(
    line: Line<'_>,
    conversation: &mut Conversation,
    last: Option<&Answer>,
) -> Result<(), CliError> {
    match line {
        Line::Help => report::tell(HELP),
        Line::Reset => {
            conversation.reset();
            report::tell("a new conversation");
        }
        Line::System(text) => {
            conversation.set_system(text);
            report::tell(match text {
                Some(_) => "the system prompt is set",
                None => "there is no system prompt any more",
            });
        }
        Line::Save(path) => {
            transcript::save(Path::new(path), conversation.model_name(), conversation.messages())?;
            report::tell(&format!("saved {} messages to {path}", conversation.messages().len()));
        }
        Line::Load(path) => {
            conversation.replace(transcript::load(Path::new(path))?);
            report::tell(&format!("loaded {} messages from {path}", conversation.messages().len()));
        }
        Line::Stats => {
            match last {
                Some(answer) => report::tell(&answer.stats.to_string()),
                None => report::tell("there was no answer yet"),
            }
            let (tokens, bytes) = conversation.held();
            let megabytes = bytes as f64 / 1e6;
            report::tell(&format!("session: {tokens} tokens, {megabytes:.2} MB of state"));
            let cached = conversation.cached();
            let megabytes = cached.bytes as f64 / 1e6;
            report::tell(&format!(
                "cache: {} snapshots, {megabytes:.2} MB; {} tokens of prompts reused, {} computed",
                cached.snapshots, cached.reused, cached.computed
            ));
        }
        Line::Wrong(message) => report::tell(&message),
        // These are the caller's.
        Line::Message(_) | Line::Retry | Line::Quit => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        assert_eq!(Line::parse("Hi /there"), Line::Message("Hi /there".into()));
        assert_eq!(Line::parse("//usr is a folder"), Line::Message("/usr is a folder".into()));
        assert_eq!(Line::parse("/system  Be brief. "), Line::System(Some("Be brief.")));
        assert_eq!(Line::parse("/system"), Line::System(None));
        assert_eq!(Line::parse("/save my talk.json"), Line::Save("my talk.json"));
        assert_eq!(Line::parse("/load a"), Line::Load("a"));
        for (line, parsed) in [
            ("/help", Line::Help),
            ("/reset", Line::Reset),
            ("/retry", Line::Retry),
            ("/stats", Line::Stats),
            ("/quit", Line::Quit),
        ] {
            assert_eq!(Line::parse(line), parsed);
        }
        for line in ["/save", "/load  ", "/hlep", "/"] {
            assert!(matches!(Line::parse(line), Line::Wrong(_)), "{line}");
        }
    }
}
