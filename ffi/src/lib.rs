//! The C ABI of the Kinglet inference engine: `libkinglet` and `kinglet.h`.
//!
//! This crate only translates; the computation is in the crate `kinglet`. The documentation of
//! exported functions becomes `include/kinglet.h` (`ffi/header.sh`, with cbindgen), so write it for
//! C programmers.
//!
//! * [`handle`]: C programs hold integers in the form of pointers. They are looked up in a table
//!   and never dereferenced, so null, deleted, mistyped and invented handles are always detected.
//! * [`guard`]: each exported function runs in [`guard::call`], which turns errors and panics into
//!   a status and a message.
//! * [`memory`]: all access through the caller's pointers. Besides calls of callbacks, the only
//!   `unsafe` code.

// A C ABI needs raw pointers.
#![allow(unsafe_code)]
// Types and constants have their C names.
#![allow(non_camel_case_types)]
// The header states what callers must guarantee, and `memory` repeats it.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

pub mod chat;
pub mod device;
pub mod files;
pub mod generation;
pub mod generation_options;
mod generator;
pub mod guard;
mod handle;
pub mod log_callback;
pub mod memory;
pub mod model;
pub mod model_options;
pub mod session;
pub mod state;
pub mod status;
#[cfg(test)]
mod tests;
pub mod tokenizer;
pub mod version;
