//! Work on a model apart from answering: measuring it and quantizing it.

pub mod calibrate;
pub mod eval;
pub mod quantize;
