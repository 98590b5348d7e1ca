//! What can go wrong while a checkpoint is quantized.

use std::fmt;
use std::io;
use std::path::PathBuf;

use kinglet_quant::{EncodeError, FeedbackError, FormatError};

use super::folder::Refused;

/// Why a checkpoint was not quantized.
#[derive(Debug)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The source is quantized already.
    AlreadyQuantized {
        /// The model folder.
        folder: PathBuf,
        /// What shows it: a field of config.json or a tensor.
        found: String,
    },
    /// Some tensors cannot be laid out as MLX has them.
    Layout {
        /// The tensor of the new checkpoint.
        tensor: String,
        /// What does not fit.
        problem: String,
    },
    /// A format was asked for, by name, for a matrix whose rows are not whole groups of it.
    Ragged {
        /// The module.
        path: String,
        /// Which rule of the recipe asked, counted from 1.
        rule: usize,
        /// With its numbers.
        source: FormatError,
    },
    /// A recipe cannot be understood.
    Recipe {
        /// What is wrong with it, and where.
        problem: String,
    },
    /// A row cannot be encoded.
    Encode {
        /// The tensor of the new checkpoint.
        tensor: String,
        /// Its first row that may be concerned.
        row: usize,
        /// Why.
        source: EncodeError,
    },
    /// The method has not what it needs.
    Method {
        /// Name of the method.
        method: String,
        /// The tensor.
        tensor: String,
        /// What it needs.
        problem: String,
    },
    /// The text to calibrate with does not fill one window.
    CalibrationText {
        /// Its tokens.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// What a matrix reads can't be used.
    Feedback(FeedbackError),
    /// The folder to write to is refused.
    Out {
        /// The folder.
        path: PathBuf,
        /// Why.
        problem: Refused,
    },
    /// The system refused.
    Io {
        /// What was tried: a verb.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The disk is full.
    DiskFull {
        /// The file that was written.
        path: PathBuf,
        /// Bytes that the whole checkpoint takes.
        needed: u64,
    },
    /// The progress callback asked to stop.
    Cancelled,
}

impl fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyQuantized { folder, found } => write!(
                f,
                "{} is quantized already ({found}): to quantize twice would add the errors of both, \
                 start from the original checkpoint",
                folder.display()
            ),
            Self::Layout { tensor, problem } => write!(f, "tensor {tensor}: {problem}"),
            Self::Ragged { path, rule, source } => {
                write!(f, "rule {rule} of the recipe names {path}: {source}")
            }
            Self::Recipe { problem } => write!(f, "the recipe: {problem}"),
            Self::Encode { tensor, row, source } => {
                write!(f, "tensor {tensor}, rows from {row} on: {source}")
            }
            Self::Method { method, tensor, problem } => {
                write!(f, "{method} can't quantize tensor {tensor}: {problem}")
            }
            Self::CalibrationText { tokens, context } => write!(
                f,
                "the calibration text has {tokens} tokens, fewer than one window of {context}: give a longer one"
            ),
            Self::Feedback(source) => source.fmt(f),
            Self::Out { path, problem } => write!(f, "{} {problem}", path.display()),
            Self::Io { doing, path, source } => {
                write!(f, "could not {doing} {}: {source}", path.display())
            }
            Self::DiskFull { path, needed } => write!(
                f,
                "the disk is full: {} could not be written; the whole checkpoint takes {needed} bytes",
                path.display()
            ),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for QuantizeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Ragged { source, .. } => Some(source),
            Self::Encode { source, .. } => Some(source),
            Self::Feedback(source) => Some(source),
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
