//! Saved sessions: one safetensors file with the whole session, and the identity of the model that
//! may load it.
//!
//! | tensor | dtype and shape | |
//! | --- | --- | --- |
//! | `tokens` | U32 `[tokens]` | the tokens fed so far; 2^31 + i stands for vector i |
//! | `vectors` | U32 `[n, 8]` | the BLAKE2s-256 hash of the bits of each distinct vector; absent without vectors |
//! | `logits` | F32 `[vocab]` | those after the last token, if known, so that generation can start at once |
//! | `sampler.history` | U32 `[n]` | only with a sampler's state; vectors as in `tokens`, or 2^32 - 1 for one that the session does not hold |
//! | `state.INDEX.NAME` | F32, the plan's shape | a recurrent tensor |
//! | `state.INDEX.NAME.keys`, `.values` | F32 `[kv_heads, positions, head_dim]` | those of the last positions: all, or the ones inside the attention window |
//! | `checksum` | U64 `[1]` | over all the others, last in the file |
//!
//! `__metadata__` holds the kind of file (`format`, `version`), its model (`model`, for people;
//! `weights`, `computation`, `layout`: 64-bit hashes in hexadecimal), its `position`, and the
//! `sampler`'s random numbers as JSON. It holds nothing about backend, threads or the formats of
//! states, so a session can go on with any of them. Every difference is an error that names it.
//! Nothing in a file is used before it is checked, and loading takes memory in proportion to the
//! file's length.

mod checksum;
mod error;
mod identity;
mod read;
mod write;

pub use error::{Difference, SavedStateError};
pub(crate) use identity::Identity;
pub use read::SavedSession;
pub(crate) use read::{Heading, read_heading};

/// The value of `format`.
const FORMAT: &str = "kinglet.session";
/// The value of `version` for a session without vectors.
const VERSION: &str = "1";
/// The value of `version` for a session with vectors. Version 1 held a 31-bit hash for each, and
/// anyone can construct vectors that share one, so such files are refused.
const VERSION_WITH_VECTORS: &str = "2";
/// The supported versions.
const VERSIONS: &str = "1 and 2";

/// In a sampler's history: a vector that the session doesn't hold. Nothing depends on which it was.
const LOST_VECTOR: u32 = u32::MAX;

/// Names of tensors that are not states.
const TOKENS: &str = "tokens";
const VECTORS: &str = "vectors";
const LOGITS: &str = "logits";
const HISTORY: &str = "sampler.history";
const CHECKSUM: &str = "checksum";

/// The name of a state of the plan.
fn state_name(index: usize, name: &str) -> String {
    format!("state.{index}.{name}")
}
