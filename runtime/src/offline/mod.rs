//! Work on a model apart from answering: measuring it, quantizing it, making one.

pub mod calibrate;
pub mod eval;
mod folder;
pub mod init;
pub mod quantize;
