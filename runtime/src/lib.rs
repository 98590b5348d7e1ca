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
//! The path of the data: `config.json` becomes a [`ModelSpec`] (what to compute), the spec becomes
//! a [`Plan`](plan::Plan) (how to compute it, on any device), and a [`backend`] makes the plan an
//! executable. A [`Session`] holds the state of one sequence. [`answer`] runs the loop from a
//! prompt to text.
//!
//! # In the browser
//!
//! Nothing may block there. [`Model::open_async`] awaits the device, and
//! [`PrefixCache::prefill_async`] and [`Generation::next_token_async`] await its results. Weights
//! behind a [`ReadAt`] are neither mapped nor in memory: they are read piece by
//! piece for a device, or all at once ([`Weights::make_resident`](weights::Weights::make_resident))
//! for the CPU. Its vector code is compiled if `simd128` is enabled for the whole build; there is
//! nothing to detect.

pub mod analysis;
pub mod answer;
pub mod backend;
mod cancel;
mod error;
mod files;
mod model;
mod model_options;
mod offline;
pub mod plan;
mod prediction;
pub mod sampling;
mod session;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(all(feature = "wgpu", not(feature = "testing")))]
#[allow(unreachable_pub)]
mod testing;
pub mod text;
pub mod weights;

pub use backend::cpu::simd::Isa;
pub use backend::cpu::{Spawn, TeamThread};
#[cfg(feature = "wgpu")]
pub use backend::gpu::adapter::{AdapterInfo, AdapterKind};
#[cfg(feature = "wgpu")]
pub use backend::gpu::capabilities::Capabilities;
#[cfg(feature = "wgpu")]
pub use backend::gpu::wgpu::adapters;
pub use backend::{Backend, Logits};
pub use cancel::Cancel;
pub use error::Error;
pub use files::mounted::{ModelFiles, Mounted};
pub use kinglet_models::{self as models, ModelSpec};
pub use kinglet_quant as quant;
pub use model::{Model, Run};
pub use model_options::{Activations, CacheType, ModelOptions, StateType};
pub use offline::{calibrate, eval, init, quantize};
pub use plan::estimate::{MemoryEstimate, estimate};
pub use plan::op;
pub use plan::traffic::Traffic;
pub use session::batch::{Batch, BatchEvent, BatchOptions, Outcome, SequenceId};
pub use session::prefix_cache::{PrefixCache, PrefixCacheOptions, PrefixCacheStats, PrefixUse};
pub use session::saved_state::{SavedSession, SavedStateError};
pub use session::{FIRST_VECTOR_ID, GenerateOptions, Generation, Reach, Retain, Session, Snapshot};
pub use session::{batch, saved_state, speculate};
pub use weights::ReadAt;
pub use weights::checkpoint::{Checkpoint, read_config, read_spec};
pub use weights::folder::{NotAModel, resolve_folder};

/// The graphics APIs that this build looks for devices with, as text for messages.
pub const GRAPHICS: &str = if cfg!(windows) {
    "Vulkan, or DX12 with dxcompiler.dll beside the program"
} else if cfg!(target_vendor = "apple") {
    "Metal"
} else {
    "Vulkan"
};
