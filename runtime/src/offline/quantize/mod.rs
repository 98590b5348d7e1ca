//! Quantizing a checkpoint: from full precision to codes and scales, in the layout that MLX reads.
//!
//! A [`Job`] decides what will be written: every tensor of the new checkpoint with its format, from
//! the headers of the old one, a default format and a [`Recipe`]. [`Job::write`] streams the
//! weights through a [`Method`] in blocks of rows on all threads, so that only a few blocks are in
//! memory whatever the size of the model. It moves the new folder to its place when all of it is on
//! the disk.
//!
//! ```no_run
//! use kinglet::quantize::{Format, Job, JobOptions, Search, WriteOptions};
//!
//! let job = Job::open("model".as_ref(), &JobOptions::new(Format::affine(4, 64)?))?;
//! let report = job.write("model-4bit".as_ref(), &Search, &WriteOptions::new(), &mut |_, _| true)?;
//! println!("{:.2} bits per weight", report.bits_per_weight());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Names, stacks and axes are those of mlx-lm for the families that it has, and those of
//! `transformers` for the others. Norms, biases, convolutions, `A_log`, `D`, `dt_bias`, routers and
//! the gates of mLSTM keep their type and bytes, and so do matrices whose rows are not whole
//! groups.

mod config_json;
mod error;
mod files;
mod job;
mod method;
mod mix;
mod pair;
mod recipe;
mod report;
mod roles;
mod shards;
mod target;
mod write;

pub use super::folder::Refused;
pub use error::QuantizeError;
pub use files::Companions;
pub use job::{DEFAULT_SHARD_BYTES, Job, JobOptions};
pub use kinglet_quant::{Encoder, ErrorMeasure, Format, FormatError, Mode};
pub use method::{EachRow, Method, Round, RowEncoder, Search};
pub use mix::prior;
pub use recipe::{Recipe, Rule};
pub use report::{Report, TensorReport};
pub use roles::Role;
pub use target::{Kept, Piece, TargetTensor};
pub use write::WriteOptions;

pub(super) use shards::{index as weights_index, lay_out};
pub(super) use write::Files;
