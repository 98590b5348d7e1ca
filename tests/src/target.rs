//! What the op tests run on: this is the one place that knows which backends there are.

use kinglet::{Backend, Isa, ModelOptions};

/// A backend with its options, and how near to the oracle it must come.
#[derive(Clone, Debug)]
pub struct Target {
    /// For messages.
    pub name: String,
    /// Backend, instruction set, threads.
    pub options: ModelOptions,
    /// Bound on the relative error of one op whose sums are short; see [`Rig::check`](crate::rig::Rig::check).
    pub bound: f64,
}

/// Everything that an op must give the same results on: on the CPU every instruction set that the processor has,
/// with 1, 2 and 3 threads.
pub fn targets() -> Vec<Target> {
    let mut targets = Vec::new();
    for isa in Isa::available() {
        for threads in 1..=3 {
            targets.push(Target {
                name: format!("cpu {} threads {threads}", isa.name()),
                options: ModelOptions::new().backend(Backend::Cpu).isa(isa).threads(threads),
                bound: 2e-6,
            });
        }
    }
    targets
}
