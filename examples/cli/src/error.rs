//! Errors of the command line: one variant per cause, with a one-line message that says what to do.

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
    /// Invalid options.
    Usage(String),
    /// No model was named, and the demo model was not found.
    NoModel {
        /// Where it was looked for, as text.
        looked: String,
    },
    /// The path named as a model is not one.
    NotAModel {
        /// Where the path was given.
        origin: &'static str,
        /// What is wrong with it.
        source: kinglet::NotAModel,
    },
    /// An error of the engine.
    Engine(kinglet::Error),
    /// An error of the tokenizer, template or stop conditions.
    Text(TextError),
    /// An error of the evaluation.
    Eval(EvalError),
    /// An error of the sampler.
    Sampling(SamplingError),
    /// The model's own sampling defaults are out of range.
    ModelDefaults {
        /// Model folder.
        folder: PathBuf,
        /// What is out of range.
        source: SamplingError,
    },
    /// A file can't be read.
    Read {
        /// The file, or a name for its source.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A file can't be written.
    Write {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A file exists and must not be overwritten.
    Exists {
        /// The file.
        path: PathBuf,
        /// How to overwrite it.
        advice: &'static str,
    },
    /// A file has invalid contents.
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The prompt leaves no room for an answer.
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Maximum number of tokens of the context.
        limit: usize,
    },
    /// The prompt has no tokens.
    EmptyPrompt,
    /// Standard output can't be written to.
    Stdout(io::Error),
    /// The reader of standard output has closed it.
    BrokenPipe,
    /// Ctrl-C.
    Interrupted,
    /// The system refuses a handler for Ctrl-C.
    Signals(io::Error),
    /// The line editor fails.
    Editor(rustyline::error::ReadlineError),
    /// A bug.
    Internal {
        /// Message and location of the panic.
        panic: String,
    },
}

impl CliError {
    /// Whether the user ended the command, and nothing failed.
    pub(crate) fn is_stop(&self) -> bool {
        matches!(self, Self::Interrupted | Self::BrokenPipe)
    }

    /// The exit code, as documented in `kinglet --help`.
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
                write!(f, "{} already exists: {advice}", path.display())
            }
            Self::Contents { path, problem } => write!(f, "{}: {problem}", path.display()),
            Self::PromptTooLong { tokens, limit } => write!(
                f,
                "the prompt has {tokens} tokens, but the context holds {limit}: shorten it (in a chat: /reset), \
                 or allow more with --context N"
            ),
            Self::EmptyPrompt => f.write_str("the prompt is empty: give at least one token"),
            Self::Stdout(source) => write!(f, "can't write to standard output: {source}"),
            Self::BrokenPipe => f.write_str("standard output was closed"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Signals(source) => write!(f, "can't handle Ctrl-C: {source}"),
            Self::Editor(source) => write!(f, "can't read from the terminal: {source}"),
            Self::Internal { panic } => {
                write!(f, "this is a bug in Kinglet, please report it: {panic}")
            }
        }
    }
}

/// The option that follows the advice of an engine error; the engine doesn't know about options.
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
            // Only Ctrl-C cancels a pass over the weights.
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
            // The remaining errors are about options.
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
            // Only Ctrl-C cancels it.
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
    fn engine_errors_get_a_hint_with_the_option() {
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
