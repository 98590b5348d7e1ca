//! Weight formats of the Kinglet inference engine: the meaning of a tensor's bytes.
//!
//! This crate only knows layouts: no model families, devices or files. [`DType`] is a dense element
//! type; [`Format`] is a quantized layout, in which a matrix consists of codes, scales and biases;
//! [`Blocks`] is a view of such a matrix.
//!
//! The quantized layouts are those of MLX, so that checkpoints can be exchanged with it; [`layout`]
//! describes them bit by bit. [`Encoder`] encodes rows of weights, [`Quantized`] holds a whole
//! matrix, and [`ErrorMeasure`] measures the error.

mod blocks;
mod dense;
mod encode;
mod feedback;
mod float;
pub mod foreign;
mod format;
mod hessian;
pub mod layout;
mod matrix;
mod measure;
mod refine;
mod search;
mod triangle;

pub use blocks::{Blocks, BlocksError};
pub use dense::{DType, DecodeError, decode, encode};
pub use encode::{EncodeError, Encoder, RowMut};
pub use feedback::{Feedback, FeedbackError};
pub use float::{e2m1, e4m3, e8m0, to_e2m1, to_e4m3};
pub use format::{Format, FormatError, Mode, ScaleType};
pub use hessian::Hessian;
pub use matrix::Quantized;
pub use measure::ErrorMeasure;
pub use refine::Refinement;
