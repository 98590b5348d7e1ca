//! Weight formats of the Kinglet inference engine: what the bytes of a tensor mean.
//!
//! This crate knows layouts and nothing else: no model family, no device, no file. Today it holds
//! the dense element types; [`DType`] is what a checkpoint's header names, and [`decode`] turns
//! bytes into `f32` wherever a small tensor is wanted in full precision.

mod dense;

pub use dense::{DType, DecodeError, decode};
