//! [`SavedStateError`]: why a saved session was not loaded.

use std::fmt;
use std::io;

use crate::weights::HeaderError;

/// In what a file and a model differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `weights`, `computation` or `layout`.
    pub what: &'static str,
    /// The hash in the file.
    pub found: String,
    /// The model's.
    pub expected: String,
}

/// What is wrong with a saved session, or with saving one.
#[derive(Debug)]
#[non_exhaustive]
pub enum SavedStateError {
    /// The system refused.
    Io {
        /// What was tried: a verb.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The file is no sound safetensors file.
    Header(HeaderError),
    /// The file is a safetensors file, but no saved session.
    NotASession,
    /// It has another version of the format.
    Version {
        /// Its version.
        found: String,
        /// Those that can be read.
        expected: &'static str,
    },
    /// It was saved with another model.
    OtherModel {
        /// What the file calls its model.
        model: String,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// A field of its metadata is missing, or has a value that it cannot have.
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
    /// A tensor is there that does not belong into a saved session of this model.
    SurplusTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has another type or shape than it must have.
    WrongTensor {
        /// Its name.
        name: String,
        /// Type and shape in the file.
        found: String,
        /// Type and shape that it must have.
        expected: String,
    },
    /// A token is out of range.
    Token {
        /// The tensor that it stands in.
        name: &'static str,
        /// The token.
        id: u32,
        /// Its place.
        index: usize,
        /// Tokens that the model has.
        vocab: usize,
    },
    /// It was saved when vectors were told apart by hashes of 31 bits, which different vectors can share.
    WeakVectors {
        /// The place of the first of them.
        index: usize,
    },
    /// A number is NaN or infinite.
    NotFinite {
        /// The tensor that it stands in.
        name: String,
    },
    /// The contents are not those that were saved.
    Checksum {
        /// The sum that the file states.
        found: u64,
        /// That of its contents.
        expected: u64,
    },
}

impl fmt::Display for SavedStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => write!(f, "can't {doing} it: {source}"),
            Self::Header(source) => source.fmt(f),
            Self::NotASession => {
                f.write_str("it is a safetensors file, but not a session that Kinglet saved")
            }
            Self::Version { found, expected } => write!(
                f,
                "its format has version {found:?}, this Kinglet reads versions {expected}: save it again"
            ),
            Self::OtherModel { model, differences } => {
                write!(f, "it was saved with another model ({model:?})")?;
                for (i, Difference { what, found, expected }) in differences.iter().enumerate() {
                    let join = if i == 0 { ": " } else { ", " };
                    write!(f, "{join}the {what} there {found}, here {expected}")?;
                }
                Ok(())
            }
            Self::Field { name, value: None } => write!(f, "its metadata lacks {name:?}"),
            Self::Field { name, value: Some(value) } => {
                write!(f, "its metadata has {value:?} for {name:?}, which can't be")
            }
            Self::MissingTensor { name } => write!(f, "tensor {name:?} is missing"),
            Self::SurplusTensor { name } => {
                write!(f, "tensor {name:?} does not belong into a session of this model")
            }
            Self::WrongTensor { name, found, expected } => {
                write!(f, "tensor {name:?} is {found}, but must be {expected}")
            }
            Self::Token { name, id, index, vocab } => write!(
                f,
                "token {id} (number {index} of {name}) is not in the vocabulary of {vocab} tokens"
            ),
            Self::WeakVectors { index } => write!(
                f,
                "it has a vector in place of token {index} and is of version 1 of the format, which can't tell vectors apart for certain: \
                 feed the tokens and vectors to a new session, and save that"
            ),
            Self::NotFinite { name } => write!(f, "tensor {name:?} holds NaN or infinity"),
            Self::Checksum { found, expected } => write!(
                f,
                "it is damaged: its checksum is {found:016x}, that of its contents {expected:016x}"
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
