//! Backends: each compiles a [`Plan`](crate::plan::Plan) into an [`Executable`] once, and then runs
//! it.
//!
//! - `executable` has the traits that a backend implements, and the types that pass through them.
//! - `choice` picks a backend by name and decides what `auto` means.
//! - `cpu/` is the CPU. `gpu/` is what graphics APIs share, with a folder for each API.
//!
//! A backend uses `executable`, and never this file or `choice`.

mod cache_codes;
mod choice;
pub(crate) mod cpu;
mod executable;
#[cfg(feature = "wgpu")]
pub(crate) mod gpu;

pub(crate) use choice::{Awaited, compile_model, needs_resident};
pub use choice::{Backend, compile};
pub use executable::{
    Ahead, BackendRun, Draw, Executable, ExportFuture, KernelTime, Logits, PortableState,
    ProfileFuture, SessionState, StepFuture, TokenChoice, TokenFuture,
};
