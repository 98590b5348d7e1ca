//! One file or folder per command, with its options and a function `run`.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod devices;
pub(crate) mod eval;
pub(crate) mod fit;
pub(crate) mod generate;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod logits;
pub(crate) mod quantize;
pub(crate) mod tokenize;
