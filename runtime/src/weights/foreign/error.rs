//! Why a checkpoint in another project's layout can't be converted.

use std::fmt;

use kinglet_quant::foreign::ForeignError;

use crate::weights::error::{Name, Shape};

/// Why tensors of a foreign layout can't be converted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ConversionError {
    /// A tensor of the layer is missing.
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor's shape doesn't match the others.
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The expected shape.
        expected: String,
    },
    /// A tensor has the wrong type.
    Dtype {
        /// Its name.
        name: String,
        /// Its type.
        found: String,
        /// The expected types.
        expected: &'static str,
    },
    /// Another tensor already has the result's name.
    Occupied {
        /// The name.
        name: String,
    },
    /// A nonzero bias accompanies a matrix that is multiplied without one.
    Bias {
        /// Its name.
        name: String,
    },
    /// The contents are invalid, or no format has such rows.
    Contents(ForeignError),
}

impl fmt::Display for ConversionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name } => write!(f, "{} is missing", Name(name)),
            Self::Shape { name, found, expected } => {
                write!(f, "{} has shape {}, expected {expected}", Name(name), Shape(found))
            }
            Self::Dtype { name, found, expected } => {
                write!(f, "{} has dtype {found}, expected {expected}", Name(name))
            }
            Self::Occupied { name } => {
                write!(f, "{} exists too, and nothing tells which of the two to use", Name(name))
            }
            Self::Bias { name } => write!(
                f,
                "{} is not zero, but the model adds no bias there: convert the checkpoint again without biases",
                Name(name)
            ),
            Self::Contents(error) => error.fmt(f),
        }
    }
}

impl From<ForeignError> for ConversionError {
    fn from(error: ForeignError) -> Self {
        Self::Contents(error)
    }
}
