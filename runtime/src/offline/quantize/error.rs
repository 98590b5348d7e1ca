//! [`QuantizeError`].

use std::fmt;
use std::io;
use std::path::PathBuf;

use kinglet_quant::{EncodeError, FeedbackError, FormatError};

use crate::offline::folder::Refused;

/// Why a checkpoint can't be quantized.
#[derive(Debug)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The checkpoint is quantized already.
    AlreadyQuantized {
        /// The model folder.
        folder: PathBuf,
        /// The evidence: a field of config.json or a tensor.
        found: String,
    },
    /// Tensors can't be laid out as in MLX.
    Layout {
        /// The tensor in the new checkpoint.
        tensor: String,
        /// The problem.
        problem: String,
    },
    /// The recipe names a format for a matrix whose rows are not whole groups of it.
    Ragged {
        /// The module's path.
        path: String,
        /// Number of the rule, from 1.
        rule: usize,
        /// The problem, with its numbers.
        source: FormatError,
    },
    /// A recipe is invalid.
    Recipe {
        /// The problem, and where it is.
        problem: String,
    },
    /// A row can't be encoded.
    Encode {
        /// The tensor in the new checkpoint.
        tensor: String,
        /// The first row of the block with the problem.
        row: usize,
        /// The reason.
        source: EncodeError,
    },
    /// A method lacks something that it needs.
    Method {
        /// Name of the method.
        method: String,
        /// The tensor.
        tensor: String,
        /// What it needs.
        problem: String,
    },
    /// The calibration text is shorter than one window.
    CalibrationText {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// The moments of a matrix's input can't be used.
    Feedback(FeedbackError),
    /// The output folder is refused.
    Out {
        /// The folder.
        path: PathBuf,
        /// The reason.
        problem: Refused,
    },
    /// The system reported an error.
    Io {
        /// The operation, as a verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk is full.
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// Size of the whole checkpoint, in bytes.
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
                "{} is quantized already ({found}): quantizing twice would add up both errors, \
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
                "the calibration text has {tokens} tokens, fewer than one window of {context}: use a longer text"
            ),
            Self::Feedback(source) => source.fmt(f),
            Self::Out { path, problem } => write!(f, "{} {problem}", path.display()),
            Self::Io { doing, path, source } => {
                write!(f, "can't {doing} {}: {source}", path.display())
            }
            Self::DiskFull { path, needed } => write!(
                f,
                "the disk is full: can't write {}; the whole checkpoint takes {needed} bytes",
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
