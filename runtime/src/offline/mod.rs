//! What is done with a model apart from answering: measuring it, and making it smaller.

pub mod calibrate;
pub mod eval;
pub mod quantize;
