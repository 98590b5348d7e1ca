//! Placeholder.
pub mod sampling;
pub mod text;
