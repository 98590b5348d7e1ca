//! Quantizing a checkpoint: from full precision to codes and scales, in the layout that MLX reads.
//!
//! A [`Job`] says what will be written: every tensor of the new checkpoint with its format, from the headers of the old one, a default
//! format and a [`Recipe`]. [`Job::write`] streams the weights through a [`Method`], block by block of rows on all threads, so that memory
//! holds a few blocks whatever the size of the model, and puts the new folder in its place when all of it is on the disk.

mod error;
mod folder;
mod method;
mod roles;
mod target;

pub use error::QuantizeError;
pub use folder::Refused;
pub use method::{EachRow, Method, Round, RowEncoder};
pub use roles::Role;
pub use target::{Kept, Piece, TargetTensor};
