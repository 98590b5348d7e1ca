//! What a model costs, from its spec alone: parameters, work per token, memory and traffic against the context.
//!
//! ```no_run
//! use kinglet::analysis::{Parameters, WorkPerToken};
//!
//! let spec = kinglet::read_spec(std::path::Path::new("model"))?;
//! let parameters = Parameters::of(&spec);
//! let work = WorkPerToken::of(&spec, 4096);
//! println!("{} parameters, {} FLOPs per token", parameters.total(), work.total());
//! # Ok::<(), kinglet::Error>(())
//! ```

#![deny(clippy::wildcard_enum_match_arm)]

mod experts;
mod fit;
mod memory;
mod parameters;
mod precision;
mod work;

pub use experts::{ExpertCounts, ExpertUse};
pub use fit::{Fit, FitChoice, fit};
pub use memory::{LayerMemory, Sight, StateMemory, sights};
pub use parameters::{ModelComponent, ParameterCount, Parameters};
pub use precision::{PrecisionSize, WeightPrecision};
pub use work::{ComponentWork, WorkPerToken};
