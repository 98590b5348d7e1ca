//! [`ModelError`]: why a `config.json` can't be turned into a model.

use std::fmt;

/// Why a `config.json` can't be turned into a [`ModelSpec`](crate::ModelSpec).
///
/// `field` is the path of a field in the config (`rope_parameters.factor`). Values are shown as
/// JSON; long ones are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelError {
    /// The text is too long for a config.
    TooLong {
        /// Length of the text, in bytes.
        bytes: usize,
        /// Maximum length, in bytes.
        limit: usize,
    },
    /// The text is not JSON.
    Syntax {
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
        /// Message of the JSON parser.
        message: String,
    },
    /// The text is JSON, but not an object.
    NotAnObject {
        /// A description of what it is.
        found: String,
    },
    /// Neither `model_type` nor `architectures` identifies the model.
    NoModelType {
        /// The supported model types.
        supported: Vec<&'static str>,
    },
    /// `model_type` (or the architecture, if `model_type` is absent) is not supported.
    UnknownModelType {
        /// The value in the config.
        value: String,
        /// The supported model types.
        supported: Vec<&'static str>,
    },
    /// A required field is absent.
    Missing {
        /// The field.
        field: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// A field holds a value of the wrong type.
    WrongType {
        /// The field.
        field: String,
        /// What it holds.
        found: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// A number is out of range.
    OutOfRange {
        /// The field.
        field: String,
        /// What it holds.
        value: String,
        /// The range.
        expected: String,
    },
    /// A list has the wrong length.
    WrongLength {
        /// The field.
        field: String,
        /// Its length.
        found: usize,
        /// The required length.
        expected: usize,
        /// Where the expected length comes from.
        because: &'static str,
    },
    /// A quantity is not a multiple of another.
    NotDivisible {
        /// Name of the quantity.
        field: &'static str,
        /// Its value.
        value: usize,
        /// Name of the divisor.
        by: &'static str,
        /// Value of the divisor.
        divisor: usize,
    },
    /// Two quantities that must be equal differ.
    Mismatch {
        /// One quantity.
        left: &'static str,
        /// Its value.
        left_value: String,
        /// The other.
        right: &'static str,
        /// Its value.
        right_value: String,
    },
    /// A product of fields exceeds its limit.
    TooLarge {
        /// Name of the product.
        quantity: &'static str,
        /// Values of the factors.
        value: String,
        /// The limit.
        limit: usize,
    },
    /// The config requires something that Kinglet does not compute.
    Unsupported {
        /// The field.
        field: String,
        /// What it holds.
        value: String,
        /// What is supported, or what to do.
        supported: String,
    },
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes, limit } => {
                write!(f, "config.json has {bytes} bytes; the maximum is {limit}")
            }
            Self::Syntax { line, column, message } => {
                write!(
                    f,
                    "config.json is not valid JSON at line {line}, column {column}: {message}"
                )
            }
            Self::NotAnObject { found } => {
                write!(f, "config.json must be a JSON object; it is {found}")
            }
            Self::NoModelType { supported } => write!(
                f,
                "config.json has neither `model_type` nor a known `architectures`; supported model \
                 types: {}",
                supported.join(", ")
            ),
            Self::UnknownModelType { value, supported } => write!(
                f,
                "config.json: model type {value} is not supported; supported: {}",
                supported.join(", ")
            ),
            Self::Missing { field, expected } => {
                write!(f, "config.json: `{field}` is missing; expected {expected}")
            }
            Self::WrongType { field, found, expected } => {
                write!(f, "config.json: `{field}` is {found}; expected {expected}")
            }
            Self::OutOfRange { field, value, expected } => {
                write!(f, "config.json: `{field}` is {value}; expected {expected}")
            }
            Self::WrongLength { field, found, expected, because } => write!(
                f,
                "config.json: `{field}` has {found} entries; expected {expected} ({because})"
            ),
            Self::NotDivisible { field, value, by, divisor } => {
                write!(f, "config.json: {field} = {value} is no multiple of {by} = {divisor}")
            }
            Self::Mismatch { left, left_value, right, right_value } => write!(
                f,
                "config.json: {left} = {left_value}, but {right} = {right_value}; they must be equal"
            ),
            Self::TooLarge { quantity, value, limit } => write!(
                f,
                "config.json: {quantity} = {value} is more than the {limit} that are accepted"
            ),
            Self::Unsupported { field, value, supported } => {
                write!(f, "config.json: `{field}` is {value}, which is not supported; {supported}")
            }
        }
    }
}

impl std::error::Error for ModelError {}
