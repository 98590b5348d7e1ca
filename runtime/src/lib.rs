//! Inference engine for recurrent and hybrid language models.
//!
//! ```no_run
//! use kinglet::{Model, ModelOptions};
//!
//! let model = Model::open("path/to/model", &ModelOptions::new())?;
//! let mut session = model.session()?;
//! let logits = session.feed(&[1, 2, 3])?;
//! println!("{} logits", logits.len());
//! # Ok::<(), kinglet::Error>(())
//! ```
//!
//! The way of the data: `config.json` becomes a [`ModelSpec`] (what to compute), that becomes a
//! [`Plan`](plan::Plan) (how, for no device in particular), a [`backend`] makes it an executable, and
//! a [`Session`] owns the state of one sequence. [`answer`] is the loop from a prompt to text.

pub mod answer;
mod atomic_file;
pub mod backend;
pub mod batch;
mod blake2s;
mod cache_codes;
#[cfg(feature = "wgpu")]
mod cache_dir;
pub mod calibrate;
mod cancel;
mod checkpoint;
mod cpu;
mod error;
mod estimate;
pub mod eval;
mod fnv1a;
mod model;
mod model_folder;
mod model_options;
mod mounted;
pub mod op;
pub mod plan;
mod prefix_cache;
pub mod quantize;
pub mod sampling;
pub mod saved_state;
mod session;
mod small_file;
pub mod speculate;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(all(feature = "wgpu", not(feature = "testing")))]
#[allow(unreachable_pub)]
mod testing;
pub mod text;
mod traffic;
mod unread;
pub mod weights;
#[cfg(feature = "wgpu")]
mod wgpu;

#[cfg(feature = "wgpu")]
pub use self::wgpu::adapter::{AdapterInfo, AdapterKind, adapters};
#[cfg(feature = "wgpu")]
pub use self::wgpu::capabilities::Capabilities;
pub use backend::{Backend, Logits};
pub use batch::{Batch, BatchEvent, BatchOptions, Outcome, SequenceId};
pub use cancel::Cancel;
pub use checkpoint::{Checkpoint, read_config, read_spec};
pub use cpu::simd::Isa;
pub use cpu::{Spawn, TeamThread};
pub use error::Error;
pub use estimate::{MemoryEstimate, estimate};
pub use kinglet_models::{self as models, ModelSpec};
pub use kinglet_quant as quant;
pub use model::{Model, Run};
pub use model_folder::{NotAModel, resolve_folder};
pub use model_options::{Activations, CacheType, ModelOptions, StateType};
pub use mounted::{ModelFiles, Mounted};
pub use prefix_cache::{PrefixCache, PrefixCacheOptions, PrefixCacheStats, PrefixUse};
pub use saved_state::{SavedSession, SavedStateError};
pub use session::{FIRST_VECTOR_ID, GenerateOptions, Generation, Reach, Retain, Session, Snapshot};
pub use traffic::Traffic;
pub use weights::ReadAt;

/// The graphics interfaces that devices are looked for with here, in words.
pub const GRAPHICS: &str = if cfg!(windows) {
    "Vulkan, or DX12 with dxcompiler.dll beside the program"
} else if cfg!(target_vendor = "apple") {
    "Metal"
} else {
    "Vulkan"
};
