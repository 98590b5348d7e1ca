//! Weight formats of the Kinglet inference engine: what the bytes of a tensor mean.
//!
//! This crate knows layouts and nothing else: no model family, no device, no file. [`DType`] is a dense
//! element type as a checkpoint's header names it; [`Format`] is a quantized layout, in which a matrix is codes,
//! scales and biases, and [`Blocks`] is a view of such a matrix where it lies.
//!
//! The quantized layouts are those that MLX writes, so that checkpoints can be exchanged with it: [`layout`] has them bit by bit.
//! [`Encoder`] makes them from rows of weights, [`Quantized`] holds a whole matrix, [`ErrorMeasure`] says what was lost.

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
