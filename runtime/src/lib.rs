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
//! a [`Session`] owns the state of one sequence.

pub mod backend;
pub mod calibrate;
mod checkpoint;
mod cpu;
mod error;
pub mod eval;
mod model;
pub mod op;
pub mod plan;
pub mod quantize;
pub mod sampling;
mod session;
mod small_file;
pub mod text;
mod traffic;
pub mod weights;

pub use backend::{Backend, Logits};
pub use checkpoint::{Checkpoint, read_config, read_spec};
pub use cpu::simd::Isa;
pub use error::Error;
pub use kinglet_models::{self as models, ModelSpec};
pub use kinglet_quant as quant;
pub use model::{Activations, Model, ModelOptions, Run};
pub use session::Session;
pub use traffic::Traffic;
