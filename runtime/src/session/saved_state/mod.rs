//! Sessions on disk: one safetensors file that holds all of a session and all that must agree before it is loaded.
//!
//! | tensor | dtype and shape | |
//! | --- | --- | --- |
//! | `tokens` | U32 `[tokens]` | what the session has taken; 2^31 + i stands for vector i |
//! | `vectors` | U32 `[n, 8]` | of each different vector the BLAKE2s-256 of its bits; only where there are vectors |
//! | `logits` | F32 `[vocab]` | after the last token, if they were known: generation can go on at once |
//! | `sampler.history` | U32 `[n]` | with a sampler's state only; vectors as in `tokens`, or 2^32 - 1 for one that the session does not hold |
//! | `state.INDEX.NAME` | F32, the plan's shape | a recurrent tensor |
//! | `state.INDEX.NAME.keys`, `.values` | F32 `[kv_heads, positions, head_dim]` | of the last positions: all of them, or those that a window still shows |
//! | `checksum` | U64 `[1]` | over all the others, last in the file |
//!
//! `__metadata__` says what the file is (`format`, `version`), of which model (`model`, for people; `weights`,
//! `computation`, `layout`: 64-bit hashes in hexadecimal), its `position`, and the `sampler`'s random numbers as JSON. A file says
//! nothing of backend or threads: any can go on with it. Every difference is an error that names it, and nothing in a
//! file is believed before it was checked; it takes memory in proportion to its length.

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
/// The value of `version` of a session without vectors.
const VERSION: &str = "1";
/// The value of `version` of a session with vectors. Version 1 held a hash of 31 bits for each, of which any number of vectors can be made to have the
/// same: such files are refused.
const VERSION_WITH_VECTORS: &str = "2";
/// Versions that are read.
const VERSIONS: &str = "1 and 2";

/// In a sampler's history, a vector that the session does not hold: nothing depends on which it was.
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
