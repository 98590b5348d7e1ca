//! What can go wrong on the command line: one variant per cause, a line that says what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use kinglet::answer::AnswerError;
use kinglet::eval::EvalError;
use kinglet::quantize::{QuantizeError, Refused};
use kinglet::sampling::SamplingError;
use kinglet::text::TextError;

use crate::{interrupt, paths};

/// An error of a command.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The options cannot be meant.
    Usage(String),
    /// No model was named and the demo model is nowhere.
    NoModel {
        /// Where it was looked for, in words.
        looked: String,
    },
    /// What was named as a model is none.
    NotAModel {
        /// Who named it.
        origin: &'static str,
        /// What it is.
        source: kinglet::NotAModel,
    },
    /// The engine's error.
    Engine(kinglet::Error),
    /// An error of tokenizer, template or stop conditions.
    Text(TextError),
    /// An evaluation can't be made.
    Eval(EvalError),
    /// An error while tokens are chosen.
    Sampling(SamplingError),
    /// The model's own defaults for sampling are out of range.
    ModelDefaults {
        /// The model's folder.
        folder: PathBuf,
        /// Which.
        source: SamplingError,
    },
    /// A file cannot be read.
    Read {
        /// The file, or what stands for it.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file cannot be written.
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is there that was not meant to be replaced.
    Exists {
        /// The file.
        path: PathBuf,
        /// How it is replaced all the same.
        advice: &'static str,
    },
    /// A file is not what it should be.
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The prompt leaves no room for an answer.
    PromptTooLong {
        /// Its tokens.
        tokens: usize,
        /// The most that the context holds.
        limit: usize,
    },
    /// The prompt has no tokens.
    EmptyPrompt,
    /// Standard output cannot be written to.
    Stdout(io::Error),
    /// Whoever read standard output has gone.
    BrokenPipe,
    /// Ctrl-C.
    Interrupted,
    /// The system refuses a handler for Ctrl-C.
    Signals(io::Error),
    /// The line editor fails.
    Editor(rustyline::error::ReadlineError),
    /// A bug.
    Internal {
        /// The panic's message and place.
        panic: String,
    },
}

impl CliError {
    /// Whether somebody ended it, and nothing went wrong.
    pub(crate) fn is_stop(&self) -> bool {
        matches!(self, Self::Interrupted | Self::BrokenPipe)
    }

    /// As listed in `kinglet --help`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Interrupted => interrupt::exit_code(),
            Self::BrokenPipe => 0,
            _ => 1,
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(message),
            Self::NoModel { looked } => write!(
                f,
                "no model: name a folder with --model DIR or in KINGLET_MODEL (the demo model is not {looked})"
            ),
            Self::NotAModel { origin, source } => write!(f, "{source} ({origin})"),
            Self::Engine(source) => match hint(source) {
                Some(hint) => write!(f, "{source} ({hint})"),
                None => source.fmt(f),
            },
            Self::Text(source @ TextError::NoChatTemplate { .. }) => {
                write!(f, "{source}: try `kinglet generate`, or --template FILE")
            }
            Self::Text(source @ TextError::NoSuchChatTemplate { .. }) => {
                write!(f, "{source}: choose one with --template NAME, or give a file")
            }
            Self::Text(source) => source.fmt(f),
            Self::Eval(source) => source.fmt(f),
            Self::Sampling(source) => source.fmt(f),
            Self::ModelDefaults { folder, source } => write!(
                f,
                "{}: {source}: correct the file",
                folder.join("generation_config.json").display()
            ),
            Self::Read { path, source } => {
                write!(f, "can't read {}: {}", path.display(), paths::why(path, source))
            }
            Self::Write { path, source } => {
                write!(f, "can't write {}: {}", path.display(), paths::why(path, source))
            }
            Self::Exists { path, advice } => {
                write!(f, "{} is there already: {advice}", path.display())
            }
            Self::Contents { path, problem } => write!(f, "{}: {problem}", path.display()),
            Self::PromptTooLong { tokens, limit } => write!(
                f,
                "the prompt has {tokens} tokens, the context holds {limit}: shorten it (in a chat: /reset), \
                 or allow more with --context N"
            ),
            Self::EmptyPrompt => f.write_str("the prompt is empty: give at least one token of it"),
            Self::Stdout(source) => write!(f, "can't write to standard output: {source}"),
            Self::BrokenPipe => f.write_str("nobody reads standard output any more"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Signals(source) => write!(f, "can't handle Ctrl-C: {source}"),
            Self::Editor(source) => write!(f, "can't read from the terminal: {source}"),
            Self::Internal { panic } => {
                write!(f, "this is a bug of Kinglet, please report it: {panic}")
            }
        }
    }
}

/// The option that does what the engine's error advises, which knows of no options.
fn hint(error: &kinglet::Error) -> Option<&'static str> {
    use kinglet::Error;
    match error {
        Error::Quantize(QuantizeError::Out { problem: Refused::NotEmpty, .. }) => Some("--force"),
        Error::NoAdapter { found, .. } if found.is_empty() => Some("--backend cpu"),
        Error::DeviceMemory { .. } => Some("--backend cpu"),
        _ => None,
    }
}

impl std::error::Error for CliError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotAModel { source, .. } => Some(source),
            Self::Engine(source) => Some(source),
            Self::Text(source) => Some(source),
            Self::Eval(source) => Some(source),
            Self::Sampling(source) | Self::ModelDefaults { source, .. } => Some(source),
            Self::Read { source, .. } | Self::Write { source, .. } | Self::Stdout(source) => {
                Some(source)
            }
            Self::Signals(source) => Some(source),
            Self::Editor(source) => Some(source),
            _ => None,
        }
    }
}

impl From<kinglet::Error> for CliError {
    fn from(source: kinglet::Error) -> Self {
        match source {
            // Asked for by the progress of a pass over the weights, which only Ctrl-C stops.
            kinglet::Error::Weights(kinglet::weights::WeightsError::Cancelled) => Self::Interrupted,
            kinglet::Error::Sampling(source) => source.into(),
            source => Self::Engine(source),
        }
    }
}

impl From<AnswerError> for CliError {
    fn from(source: AnswerError) -> Self {
        match source {
            AnswerError::Engine(source) => source.into(),
            AnswerError::Text(source) => source.into(),
            AnswerError::EmptyPrompt => Self::EmptyPrompt,
            AnswerError::PromptTooLong { tokens, limit } => Self::PromptTooLong { tokens, limit },
            AnswerError::Defaults(source) => Self::Sampling(source),
            // What the command line asks for.
            source => Self::Usage(source.to_string()),
        }
    }
}

impl From<kinglet::weights::WeightsError> for CliError {
    fn from(source: kinglet::weights::WeightsError) -> Self {
        kinglet::Error::from(source).into()
    }
}

impl From<TextError> for CliError {
    fn from(source: TextError) -> Self {
        Self::Text(source)
    }
}

impl From<EvalError> for CliError {
    fn from(source: EvalError) -> Self {
        match source {
            // Only Ctrl-C stops it.
            EvalError::Cancelled => Self::Interrupted,
            EvalError::Engine(source) => source.into(),
            EvalError::Text(source) => source.into(),
            source => Self::Eval(source),
        }
    }
}

impl From<SamplingError> for CliError {
    fn from(source: SamplingError) -> Self {
        Self::Sampling(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_adds_the_option_that_the_library_cannot_name() {
        let no_adapter = |found: &[&str]| kinglet::Error::NoAdapter {
            wanted: "adapter".into(),
            found: found.iter().map(ToString::to_string).collect(),
        };
        let memory = kinglet::Error::DeviceMemory { what: "weights", bytes: 9 };
        for (error, hint) in [
            (no_adapter(&[]), " (--backend cpu)"),
            (no_adapter(&["0: a card"]), ""),
            (memory, " (--backend cpu)"),
            (kinglet::Error::EmptyRun, ""),
        ] {
            let plain = error.to_string();
            assert_eq!(CliError::from(error).to_string(), format!("{plain}{hint}"));
        }
    }
}
