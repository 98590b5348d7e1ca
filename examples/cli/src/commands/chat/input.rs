//! Input lines from a terminal or a pipe.
//!
//! A separate thread reads them, so that the thread that asked for a line can react to signals.
//! Input history is written at once, so that it survives any end of the program.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{
    Behavior, Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Editor, Event,
    EventContext, EventHandler, KeyEvent, RepeatCount,
};

use super::commands;
use super::completion::Assistant;
use crate::error::CliError;
use crate::{interrupt, report, terminal};

/// Number of history entries.
const HISTORY: usize = 1000;

/// The history file, if the system has a folder for it.
pub(super) fn history_file() -> Option<PathBuf> {
    Some(dirs::data_dir()?.join("kinglet").join("history.txt"))
}

/// A line, or why there is none.
pub(super) enum Read {
    Line(String),
    /// Ctrl-C at the prompt.
    Interrupted {
        /// Whether something was typed and is now discarded.
        typed: bool,
    },
    /// Ctrl-D, or the end of a pipe.
    End,
    /// A signal is ending the program, or the terminal is gone.
    Ending,
}

/// A request to the reading thread.
enum Request {
    /// Read a line, with a prompt and initial text.
    Line(&'static str, String),
    Remember(String),
}

/// A reply of the reading thread.
enum Answer {
    Read(Result<Read, CliError>),
    Signal,
}

/// Source of lines.
pub(super) struct Input {
    requests: Sender<Request>,
    answers: Receiver<Answer>,
    reader: JoinHandle<()>,
    /// Whether a requested line has not arrived yet.
    waiting: bool,
    source: Source,
    _quiet: Option<terminal::Quiet>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A terminal with a line editor.
    Editor,
    /// A terminal that can't move its cursor.
    Dumb,
    Pipe,
}

impl Input {
    /// Starts the reading thread. `history` is the history file.
    ///
    /// # Errors
    /// If the terminal can't be used.
    pub(super) fn new(history: Option<PathBuf>) -> Result<Self, CliError> {
        let source = match (io::stdin().is_terminal(), terminal::is_dumb()) {
            (false, _) => Source::Pipe,
            (true, true) => Source::Dumb,
            (true, false) => Source::Editor,
        };
        // Before creating the editor, which restores the terminal to the modes it found.
        let quiet = (source == Source::Editor).then(terminal::quiet);
        let (requests, wanted) = channel();
        let (given, answers) = channel();
        let signals = given.clone();
        interrupt::on_signal(move || {
            let _ = signals.send(Answer::Signal);
        });
        let mut lines = Lines::new(source, history)?;
        let read = move || {
            interrupt::hear_of_resizes();
            for request in wanted {
                match request {
                    Request::Remember(line) => lines.remember(&line),
                    Request::Line(prompt, initial) => {
                        let read = lines.read(prompt, &initial);
                        if given.send(Answer::Read(read)).is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let reader = std::thread::Builder::new().name("input".into()).spawn(read);
        let reader = reader.map_err(|error| CliError::Editor(error.into()))?;
        Ok(Self { requests, answers, reader, waiting: false, source, _quiet: quiet })
    }

    /// Whether the input is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.source != Source::Pipe
    }

    /// Whether a line with initial text can be edited.
    pub(super) fn can_edit(&self) -> bool {
        self.source == Source::Editor
    }

    /// Reads a line that starts with `initial`.
    ///
    /// # Errors
    /// If the terminal or the pipe fails.
    pub(super) fn read(&mut self, prompt: &'static str, initial: &str) -> Result<Read, CliError> {
        if !self.waiting {
            // Discard signals that were meant for the last answer.
            while self.answers.try_recv().is_ok() {}
            interrupt::forget();
            if self.requests.send(Request::Line(prompt, initial.into())).is_err() {
                return Ok(Read::End);
            }
            self.waiting = true;
        }
        loop {
            if interrupt::ending() {
                return Ok(Read::Ending);
            }
            match self.answers.recv() {
                Ok(Answer::Signal) if interrupt::ending() => {}
                Ok(Answer::Signal) => {
                    interrupt::forget();
                    return Ok(Read::Interrupted { typed: false });
                }
                Ok(Answer::Read(read)) => {
                    self.waiting = false;
                    // From here on Ctrl-C belongs to what the line starts.
                    interrupt::forget();
                    return read;
                }
                Err(_) => return Ok(Read::End),
            }
        }
    }

    /// Reads a message: a line, with further lines after a final `\` or until a closing `"""`.
    ///
    /// # Errors
    /// As [`Input::read`].
    pub(super) fn read_message(&mut self) -> Result<Read, CliError> {
        let mut message = String::new();
        let mut begun = false;
        loop {
            let line = match self.read(if begun { "| " } else { "> " }, "")? {
                Read::Line(line) => line,
                // Ctrl-C in the middle of a message discards it.
                Read::Interrupted { typed } => {
                    return Ok(Read::Interrupted { typed: typed || begun });
                }
                Read::End if begun => {
                    report::warning("the last message is incomplete and was not sent");
                    return Ok(Read::End);
                }
                other => return Ok(other),
            };
            if begun {
                message.push('\n');
            }
            begun = true;
            message.push_str(&line);
            if commands::is_open(&message) {
                continue;
            }
            if !message.ends_with('\\') || message.trim_start().starts_with(commands::QUOTES) {
                return Ok(Read::Line(message));
            }
            message.pop();
        }
    }

    /// Shows the prompt again if something was printed while a line is being read.
    pub(super) fn prompt_again(&self) {
        if self.source == Source::Dumb && self.waiting {
            let _ = io::stdout().write_all(b"> ").and_then(|()| io::stdout().flush());
        }
    }

    /// Adds a line to the history.
    pub(super) fn remember(&self, line: &str) {
        // A reading thread that has ended keeps no history.
        let _ = self.requests.send(Request::Remember(line.into()));
    }

    /// Waits until the history is written.
    pub(super) fn finish(self) {
        drop(self.requests);
        // A thread that waits for a line has nothing left to write, and nothing would wake it.
        if !self.waiting {
            let _ = self.reader.join();
        }
    }
}

/// State of the reading thread.
enum Lines {
    Editor {
        editor: Box<Editor<Assistant, FileHistory>>,
        history: Option<PathBuf>,
        typed: Arc<AtomicBool>,
    },
    Pipe,
}

impl Lines {
    fn new(source: Source, history: Option<PathBuf>) -> Result<Self, CliError> {
        if source == Source::Pipe {
            return Ok(Self::Pipe);
        }
        let mut config = Config::builder().completion_type(CompletionType::List);
        // Keep the prompt and typed text out of standard output if it is a file.
        if !io::stdout().is_terminal() {
            config = config.behavior(Behavior::PreferTerm);
        }
        if !terminal::has_color() {
            config = config.color_mode(ColorMode::Disabled);
        }
        let config = config.max_history_size(HISTORY).map_err(CliError::Editor)?;
        let config = config.auto_add_history(false).build();
        let mut editor = Editor::with_config(config).map_err(CliError::Editor)?;
        interrupt::reclaim()?;
        editor.set_helper(Some(Assistant));
        let typed = Arc::new(AtomicBool::new(false));
        let watch: Box<dyn ConditionalEventHandler> = Box::new(CtrlC(typed.clone()));
        editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(watch));
        if let Some(path) = &history
            && path.exists()
            && let Err(error) = editor.load_history(path)
        {
            log::warn!("can't read earlier input from {}: {error}", path.display());
        }
        Ok(Self::Editor { editor: Box::new(editor), history, typed })
    }

    fn read(&mut self, prompt: &str, initial: &str) -> Result<Read, CliError> {
        match self {
            Self::Editor { editor, typed, .. } => {
                typed.store(false, Ordering::SeqCst);
                terminal::prompting(true);
                let read = editor.readline_with_initial(prompt, (initial, ""));
                terminal::prompting(false);
                match read {
                    Ok(line) => Ok(Read::Line(line)),
                    // The terminal was closed: reading fails or reports an end, before or after
                    // SIGHUP.
                    Err(_) if !io::stdin().is_terminal() => {
                        interrupt::hang_up();
                        Ok(Read::Ending)
                    }
                    Err(ReadlineError::Interrupted) => {
                        Ok(Read::Interrupted { typed: typed.load(Ordering::SeqCst) })
                    }
                    Err(ReadlineError::Eof) => Ok(Read::End),
                    Err(error) => Err(CliError::Editor(error)),
                }
            }
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

    /// Adds a line to the history. A failure must not end the conversation.
    fn remember(&mut self, line: &str) {
        let Self::Editor { editor, history, .. } = self else { return };
        if let Err(error) = editor.add_history_entry(line) {
            log::debug!("can't keep the input: {error}");
        }
        let Some(path) = history else { return };
        let folder = path.parent().unwrap_or(Path::new("."));
        let saved = std::fs::create_dir_all(folder)
            .map_err(ReadlineError::from)
            .and_then(|()| editor.append_history(path));
        if let Err(error) = saved {
            log::warn!("can't keep the input in {}: {error}", path.display());
            // Warn only once.
            *history = None;
        }
    }
}

/// Records whether the line that Ctrl-C discards was empty.
struct CtrlC(Arc<AtomicBool>);

impl ConditionalEventHandler for CtrlC {
    fn handle(
        &self,
        _: &Event,
        _: RepeatCount,
        _: bool,
        context: &EventContext<'_>,
    ) -> Option<Cmd> {
        self.0.store(!context.line().is_empty(), Ordering::SeqCst);
        Some(Cmd::Interrupt)
    }
}
