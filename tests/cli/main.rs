//! The command line, run as a user would: the program, its options, pipes and signals.

mod ahead;
mod bench;
mod chat;
mod devices;
mod errors;
mod eval;
mod fit;
mod generate;
mod help;
mod init;
mod interactive;
mod logits;
mod quantize;
mod self_test;
#[cfg(unix)]
mod signals;
mod speculate;
mod support;
mod tables;
#[cfg(unix)]
mod terminal;
mod tokenize;
