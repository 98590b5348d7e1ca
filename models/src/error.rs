//! [`ModelError`]: why a `config.json` gives no model.

use std::fmt;

/// Why a `config.json` gives no [`ModelSpec`](crate::ModelSpec).
///
/// `field` is the path of a field in the config (`rope_parameters.factor`); values are shown as JSON,
/// cut where they are long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelError {
    /// The text is longer than any config.
    TooLong {
        /// Length of the text.
        bytes: usize,
        /// Longest text accepted.
        limit: usize,
    },
    /// The text is not JSON.
    Syntax {
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
        /// What the JSON parser says.
        message: String,
    },
    /// The text is JSON, and no object.
    NotAnObject {
        /// What it is.
        found: String,
    },
    /// Neither `model_type` nor `architectures` says what the model is.
    NoModelType {
        /// The model types that are supported.
        supported: Vec<&'static str>,
    },
    /// `model_type` (or the architecture, where `model_type` is absent) is none that is supported.
    UnknownModelType {
        /// What the config says.
        value: String,
        /// The model types that are supported.
        supported: Vec<&'static str>,
    },
    /// A field without a default is absent.
    Missing {
        /// The field.
        field: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A field holds a value of another kind.
    WrongType {
        /// The field.
        field: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A number outside of the range that makes sense.
    OutOfRange {
        /// The field.
        field: String,
        /// What it holds.
        value: String,
        /// The range.
        expected: String,
    },
    /// A list of the wrong length.
    WrongLength {
        /// The field.
        field: String,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
        /// Where the expected length comes from.
        because: &'static str,
    },
    /// A quantity that must be a multiple of another is not.
    NotDivisible {
        /// The quantity.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What it must be a multiple of.
        by: &'static str,
        /// The value of that.
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
    /// A product of fields is larger than any model's.
    TooLarge {
        /// The product.
        quantity: &'static str,
        /// The factors' values.
        value: String,
        /// The largest accepted.
        limit: usize,
    },
    /// The config asks for something that Kinglet does not compute.
    Unsupported {
        /// The field.
        field: String,
        /// What it holds.
        value: String,
        /// What is supported there, or what to do.
        supported: String,
    },
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes, limit } => {
                write!(f, "config.json has {bytes} bytes; at most {limit} are accepted")
            }
            Self::Syntax { line, column, message } => {
                write!(
                    f,
                    "config.json is not valid JSON at line {line}, column {column}: {message}"
                )
            }
            Self::NotAnObject { found } => {
                write!(f, "config.json should hold a JSON object; it holds {found}")
            }
            Self::NoModelType { supported } => write!(
                f,
                "config.json has neither `model_type` nor a known `architectures`; supported model \
                 types: {}",
                supported.join(", ")
            ),
            Self::UnknownModelType { value, supported } => write!(
                f,
                "config.json: model type {value} is not supported; supported are: {}",
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
