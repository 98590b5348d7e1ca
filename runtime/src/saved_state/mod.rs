//! Sessions on disk: one safetensors file that holds all of a session and all that must agree before it is loaded.
//!
//! | tensor | dtype and shape | |
//! | --- | --- | --- |
//! | `tokens` | U32 `[tokens]` | what the session has taken; ids from 2^31 on stand for vectors |
//! | `logits` | F32 `[vocab]` | after the last token, if they were known: generation can go on at once |
//! | `sampler.history` | U32 `[n]` | with a sampler's state only |
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
/// The value of `version`: another one is refused.
const VERSION: &str = "1";

/// Names of tensors that are not states.
const TOKENS: &str = "tokens";
const LOGITS: &str = "logits";
const HISTORY: &str = "sampler.history";
const CHECKSUM: &str = "checksum";

/// The name of a state of the plan.
fn state_name(index: usize, name: &str) -> String {
    format!("state.{index}.{name}")
}
