//! Backends on graphics cards.

pub(crate) mod wgpu;
