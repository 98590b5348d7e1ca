//! The error type of this crate.

use std::fmt;
use std::path::PathBuf;

use kinglet_models::ModelError;

use crate::quantize::QuantizeError;
use crate::weights::WeightsError;

/// What can go wrong between a model folder and its logits.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model folder can't be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of the model folder is larger than such a file can sensibly be.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// `config.json` can't be understood or describes a model that is not supported.
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ModelError,
    },
    /// The weights can't be read or don't fit the model.
    Weights(WeightsError),
    /// A checkpoint can't be quantized.
    Quantize(QuantizeError),
    /// A token id that the embedding has no row for.
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Its place in the tokens given.
        index: usize,
        /// Rows of the embedding: ids are below this.
        vocab: usize,
    },
    /// A run without tokens.
    EmptyRun,
    /// A session was given to a model that it was not made by.
    ForeignSession,
    /// A step failed half-way: the session's state is no longer that of any sequence of tokens.
    PoisonedSession,
    /// The session would exceed the context that it was limited to.
    ContextFull {
        /// Tokens that it holds.
        held: usize,
        /// Tokens that were to be added.
        more: usize,
        /// The limit.
        limit: usize,
    },
    /// The system has no memory for this.
    OutOfMemory {
        /// What for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// An op gave NaN or infinity (looked for in debug builds only).
    NonFinite {
        /// Index of the op in the plan.
        index: usize,
        /// Its name.
        op: &'static str,
    },
    /// The system refused a thread.
    Threads(std::io::Error),
    /// An option is out of its range.
    Option {
        /// Its name.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is possible.
        expected: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "can't read {}: {source}", path.display()),
            Self::TooLarge { path, bytes, limit } => write!(
                f,
                "{} has {bytes} bytes; at most {limit} are read: is it the right file?",
                path.display()
            ),
            // The source names the file.
            Self::Config { path, source } => {
                write!(f, "{}: {source}", path.parent().unwrap_or(path).display())
            }
            Self::Weights(source) => source.fmt(f),
            Self::Quantize(source) => source.fmt(f),
            Self::TokenOutOfRange { id, index, vocab } => write!(
                f,
                "token {id} (number {index} of those given) is not in the vocabulary: ids go from 0 to {}",
                vocab.saturating_sub(1)
            ),
            Self::EmptyRun => f.write_str("a run needs at least one token"),
            Self::ForeignSession => f.write_str("the session belongs to another model"),
            Self::PoisonedSession => f.write_str(
                "an earlier step of this session failed half-way: start a new session or go back to a snapshot",
            ),
            Self::ContextFull { held, more, limit } => write!(
                f,
                "the session holds {held} tokens; {more} more would exceed its limit of {limit}"
            ),
            Self::OutOfMemory { what, bytes } => {
                write!(f, "no memory for {what}: {bytes} bytes were refused")
            }
            Self::NonFinite { index, op } => {
                write!(f, "op {index} ({op}) gave NaN or infinity: are the weights sound?")
            }
            Self::Threads(source) => write!(f, "can't start a thread: {source}"),
            Self::Option { name, value, expected } => {
                write!(f, "{name} can't be {value}: {expected}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Threads(source) => Some(source),
            Self::Config { source, .. } => Some(source),
            Self::Weights(source) => Some(source),
            Self::Quantize(source) => Some(source),
            _ => None,
        }
    }
}

impl From<WeightsError> for Error {
    fn from(source: WeightsError) -> Self {
        Self::Weights(source)
    }
}

impl From<QuantizeError> for Error {
    fn from(source: QuantizeError) -> Self {
        Self::Quantize(source)
    }
}

/// Makes `vec` at least `len` long; what it holds there is unspecified.
pub(crate) fn grow(vec: &mut Vec<f32>, len: usize, what: &'static str) -> Result<(), Error> {
    if vec.len() < len {
        vec.try_reserve_exact(len - vec.len())
            .map_err(|_| Error::OutOfMemory { what, bytes: len.saturating_mul(4) })?;
        vec.resize(len, 0.0);
    }
    Ok(())
}
