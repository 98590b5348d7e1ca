//! The C ABI of the Kinglet inference engine: `libkinglet` and `kinglet.h`.
//!
//! Only translation: what is computed is the crate `kinglet`'s. The documentation of the exported functions becomes that of
//! `include/kinglet.h`, which `ffi/header.sh` writes with cbindgen; it is written for people who read C.
//!
//! * [`handle`]: what a C program holds is a number in the form of a pointer, looked up in a table and never followed, so
//!   that handles that are null, deleted, of another kind or made up are found out for certain.
//! * [`guard`]: each exported function runs in [`guard::call`], which turns errors and panics into a status and a message.
//! * [`memory`]: all reading and writing through pointers that the caller gives; the only `unsafe` besides calling back.

// A C ABI is made of raw pointers.
#![allow(unsafe_code)]
// Types and constants are called in Rust what they are called in C.
#![allow(non_camel_case_types)]
// The exported functions take what C programs give them: what they must promise is in the header, and `memory` states it.
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
