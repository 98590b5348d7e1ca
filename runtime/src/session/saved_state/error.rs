//! [`SavedStateError`]: why a session can't be loaded or saved.

use std::fmt;
use std::io;

use crate::weights::HeaderError;

/// A hash that differs between a file and a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `weights`, `computation` or `layout`.
    pub what: &'static str,
    /// The file's hash.
    pub found: String,
    /// The model's hash.
    pub expected: String,
}

/// Why a session can't be loaded or saved.
#[derive(Debug)]
#[non_exhaustive]
pub enum SavedStateError {
    /// The system reported an error.
    Io {
        /// The operation, as a verb.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not a valid safetensors file.
    Header(HeaderError),
    /// The file is a safetensors file, but not a saved session.
    NotASession,
    /// The file has an unsupported version of the format.
    Version {
        /// The file's version.
        found: String,
        /// The supported versions.
        expected: &'static str,
    },
    /// The file was saved with another model.
    OtherModel {
        /// The file's name for its model.
        model: String,
        /// The hashes that differ.
        differences: Vec<Difference>,
    },
    /// A metadata field is missing or invalid.
    Field {
        /// The field.
        name: &'static str,
        /// Its value, if there is one.
        value: Option<String>,
    },
    /// A tensor is missing.
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor doesn't belong in a saved session of this model.
    SurplusTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has the wrong type or shape.
    WrongTensor {
        /// Its name.
        name: String,
        /// Type and shape in the file.
        found: String,
        /// The expected type and shape.
        expected: String,
    },
    /// A token is out of range.
    Token {
        /// The tensor that contains it.
        name: &'static str,
        /// The token.
        id: u32,
        /// Its index.
        index: usize,
        /// Size of the model's vocabulary.
        vocab: usize,
    },
    /// The file identifies vectors by hashes of 31 bits, which different vectors can share.
    WeakVectors {
        /// The index of the first of them.
        index: usize,
    },
    /// A number is NaN or infinite.
    NotFinite {
        /// The tensor that contains it.
        name: String,
    },
    /// The checksum doesn't match the contents.
    Checksum {
        /// The checksum in the file.
        found: u64,
        /// The checksum of its contents.
        expected: u64,
    },
}

impl fmt::Display for SavedStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => write!(f, "can't {doing} it: {source}"),
            Self::Header(source) => source.fmt(f),
            Self::NotASession => f.write_str("it is a safetensors file but not a saved session"),
            Self::Version { found, expected } => write!(
                f,
                "its format has version {found:?}, but versions {expected} are supported: save it again"
            ),
            Self::OtherModel { model, differences } => {
                write!(f, "it was saved with another model ({model:?})")?;
                for (i, Difference { what, found, expected }) in differences.iter().enumerate() {
                    let join = if i == 0 { ": " } else { ", " };
                    write!(f, "{join}its hash of the {what} is {found}, expected {expected}")?;
                }
                Ok(())
            }
            Self::Field { name, value: None } => write!(f, "its metadata lacks {name:?}"),
            Self::Field { name, value: Some(value) } => {
                write!(f, "its metadata has an invalid value for {name:?}: {value:?}")
            }
            Self::MissingTensor { name } => write!(f, "tensor {name:?} is missing"),
            Self::SurplusTensor { name } => {
                write!(f, "tensor {name:?} does not belong in a session of this model")
            }
            Self::WrongTensor { name, found, expected } => {
                write!(f, "tensor {name:?} is {found}, expected {expected}")
            }
            Self::Token { name, id, index, vocab } => write!(
                f,
                "token {id} (at index {index} of {name}) is not in the vocabulary of {vocab} tokens"
            ),
            Self::WeakVectors { index } => write!(
                f,
                "it has a vector in place of token {index} and version 1 of the format, which can't tell vectors apart reliably: \
                 feed the tokens and vectors to a new session, and save that"
            ),
            Self::NotFinite { name } => write!(f, "tensor {name:?} holds NaN or infinity"),
            Self::Checksum { found, expected } => write!(
                f,
                "it is damaged: its checksum is {found:016x}, but that of its contents is {expected:016x}"
            ),
        }
    }
}

impl std::error::Error for SavedStateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Header(source) => Some(source),
            Self::NotASession
            | Self::Version { .. }
            | Self::OtherModel { .. }
            | Self::Field { .. }
            | Self::MissingTensor { .. }
            | Self::SurplusTensor { .. }
            | Self::WrongTensor { .. }
            | Self::Token { .. }
            | Self::WeakVectors { .. }
            | Self::NotFinite { .. }
            | Self::Checksum { .. } => None,
        }
    }
}
