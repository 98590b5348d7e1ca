//! What must match for a saved state to belong to a model.

#![deny(clippy::wildcard_enum_match_arm)]

use std::fmt::{self, Write};

use super::checksum::hash;
use super::error::Difference;
use crate::Error;
use crate::plan::{Plan, StateKind};
use crate::weights::Weights;
use kinglet_models::ModelSpec;

/// Hashes that tell models apart, as stored in saved sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Of the weights: [`Weights::fingerprint`].
    pub(crate) weights: u64,
    /// Of everything in `config.json` that affects the computation: with the same weights but
    /// another base of the rotations, the same tokens give another state.
    pub(crate) computation: u64,
    /// Of names and shapes of the state tensors.
    pub(crate) layout: u64,
}

impl Identity {
    pub(crate) fn new(spec: &ModelSpec, plan: &Plan, weights: &Weights) -> Result<Self, Error> {
        let mut layout = format!("vocab {}", plan.vocab);
        for state in &plan.states {
            let form = match &state.kind {
                StateKind::Tensor { shape } => format!("{shape:?}"),
                StateKind::KeyValue { kv_heads, key_dim, value_dim, window, sinks } => {
                    let mut form = format!("{kv_heads} x {key_dim}");
                    if value_dim != key_dim {
                        form += &format!(" and {value_dim}");
                    }
                    form += &format!(", window {window:?}");
                    if *sinks > 0 {
                        form += &format!(", sinks {sinks}");
                    }
                    form
                }
            };
            layout += &format!("\n{}: {form}", state.name);
        }
        // Fields that a spec's text omits are derived from the others.
        let mut computation = Hasher::default();
        let _ = write!(computation, "{spec:?}");
        Ok(Self {
            weights: weights.fingerprint()?,
            computation: computation.finish(),
            layout: hash(layout.as_bytes()),
        })
    }

    /// Names and values, as in the file.
    pub(super) fn fields(&self) -> [(&'static str, u64); 3] {
        [("weights", self.weights), ("computation", self.computation), ("layout", self.layout)]
    }

    /// The hashes that differ from a file's, whose fields `get` looks up.
    pub(super) fn differences<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> Vec<Difference> {
        let fields = self.fields().into_iter();
        let compared = fields.map(|(what, value)| Difference {
            what,
            found: get(what).unwrap_or("nothing").chars().take(40).collect(),
            expected: format!("{value:016x}"),
        });
        compared.filter(|difference| difference.found != difference.expected).collect()
    }

    /// A single number for all three, for the names of files.
    pub(crate) fn short(&self) -> u64 {
        let bytes: Vec<u8> = self.fields().iter().flat_map(|(_, v)| v.to_le_bytes()).collect();
        hash(&bytes)
    }
}

/// Hashes a text in pieces of a fixed length, since the text of a spec with many experts is long.
#[derive(Default)]
struct Hasher {
    buffer: Vec<u8>,
    parts: Vec<u8>,
}

impl Hasher {
    const PIECE: usize = 1 << 16;

    fn finish(mut self) -> u64 {
        self.parts.extend(hash(&self.buffer).to_le_bytes());
        hash(&self.parts)
    }
}

impl fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.buffer.push(byte);
            if self.buffer.len() == Self::PIECE {
                self.parts.extend(hash(&self.buffer).to_le_bytes());
                self.buffer.clear();
            }
        }
        Ok(())
    }
}
