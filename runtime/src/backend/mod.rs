//! Backends: each turns a [`Plan`](crate::plan::Plan) into an [`Executable`] once, which then only runs it.
//!
//! [`executable`] is the trait that a backend implements, and what passes through it; `choice` is where a backend is chosen by name, and what `auto`
//! means. `cpu/` is the processor, `gpu/` what the graphics APIs share, and each of them in a folder below it. A backend uses `executable` and never
//! this file or `choice`.

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
