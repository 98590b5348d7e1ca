//! The command line, driven as a user would: the built program, its options, pipes and signals.

mod chat;
mod devices;
mod errors;
mod generate;
mod help;
mod interactive;
mod logits;
#[cfg(unix)]
mod signals;
mod support;
mod tokenize;
