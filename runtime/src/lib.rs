//! Placeholder.

pub mod weights;
