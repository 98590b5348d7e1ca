//! [`Recording`]: a plan as a list of kernel launches, in plain values. Made once, when the plan is compiled.
//!
//! A [`Launch`] names a kernel, its parameters, what each of its bindings is, and how many workgroups there are for a given number of tokens. A step takes
//! some of the launches: its list of [`Call`]s (`step`) says which, for which run, and with how many workgroups. Both can be printed
//! (`display`). What each launch reads and writes is known, so the dependencies between calls follow ([`Recording::dependencies`]). A backend
//! encodes the calls one by one, captures them as a graph, or has one resident kernel interpret them.

mod display;
mod step;
#[cfg(test)]
pub(super) mod tests;

use kinglet_shaders::Variant;

use super::api::Usage;
use super::memory::{Memory, Rotation};
use super::sample::Sampling;
use crate::plan::op::StateId;

pub(crate) use step::{Call, RunSize, Step};

/// Most tokens that are computed one by one; more go in tiles.
pub(super) const FEW: usize = 4;
/// Tokens, or rows, of a tile of the scans and of attention.
pub(super) const SIDE: usize = 64;
/// Bytes of a [`Step`] that kernels of [`Scope::Step`] and [`Scope::Logits`] read.
pub(super) const STEP_BYTES: usize = 16;
/// Bytes from one [`Step`] to the next: the alignment of dynamic offsets on every device.
pub(super) const STEP_STRIDE: usize = 256;
/// Most runs of a dispatch.
pub(super) const MOST_RUNS: usize = 64;

/// Names an allocation of a recording: its index in [`Recording::allocations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AllocationId(pub usize);

/// A buffer that all sessions share.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Allocation {
    /// What kind of memory it is, for errors.
    pub what: &'static str,
    /// What it holds, for people.
    pub name: String,
    pub bytes: u64,
    pub usage: Usage,
}

/// What a kernel's binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    /// The launch's parameters.
    Params,
    /// The [`Step`] that the call names.
    Step,
    /// [`MOST_RUNS`] of them, from the one that the call names on: those of its runs come first.
    Runs,
    /// All of an allocation.
    Memory(AllocationId),
    /// Part of the state of the run's session: a tensor is part 0; keys of a cache are part 0, values part 1.
    State(StateId, usize),
}

/// What a kernel does to a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// It may read, too.
    Write,
}

/// A kernel's binding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Binding {
    /// Its name in the kernel.
    pub name: &'static str,
    pub resource: Resource,
    pub access: Access,
}

/// Workgroups along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Extent {
    Fixed(usize),
    /// As many as tokens, times this.
    Tokens(usize),
    /// As many as tiles of this many tokens.
    Tiles(usize),
    /// At least as many as tiles of tokens grouped by expert.
    Groups(Groups),
    /// As many as tiles of [`SIDE`] rows, of which a token has this many.
    Rows(usize),
}

impl Extent {
    pub(super) fn of(self, tokens: usize) -> usize {
        match self {
            Self::Fixed(count) => count,
            Self::Tokens(times) => tokens * times,
            Self::Tiles(side) => tokens.div_ceil(side),
            Self::Groups(groups) => groups.tiles(tokens),
            Self::Rows(times) => (tokens * times).div_ceil(SIDE),
        }
    }
}

/// Tokens grouped by expert, in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Groups {
    /// Most tokens of a tile.
    pub side: usize,
    pub experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// Whether there is an expert of all tokens besides.
    pub shared: bool,
}

impl Groups {
    /// Most tiles that there can be: each expert has at most one that isn't full.
    pub(super) fn tiles(self, tokens: usize) -> usize {
        let places = tokens * self.top_k;
        let shared = if self.shared { tokens.div_ceil(self.side) } else { 0 };
        places / self.side + self.experts.min(places) + shared
    }
}

/// What a launch computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All tokens of a step.
    Step,
    /// One run, with its session's state. Launches of a run that follow one another may pass data on in scratch memory.
    Run,
    /// Runs of at most [`FEW`] tokens whose sessions' tensors lie in the same buffers, all at once; any other run by itself.
    Runs,
    /// Some of the wanted logits.
    Logits,
    /// The choice of a token from the first row of logits.
    Sampling,
}

/// For which numbers of tokens, of the step or of the run, there is a launch. For several runs the longest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// At most [`FEW`].
    Few,
    /// More than [`FEW`].
    Many,
    /// From the first to the last of these numbers.
    Between(usize, usize),
}

impl When {
    /// Whether there is a launch for this many tokens.
    pub(super) fn holds(self, tokens: usize) -> bool {
        match self {
            Self::Always => true,
            Self::Few => tokens <= FEW,
            Self::Many => tokens > FEW,
            Self::Between(first, last) => (first..=last).contains(&tokens),
        }
    }
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch {
    pub variant: Variant,
    /// Its parameters, as the kernel lays them out.
    pub params: Vec<u8>,
    /// In the order of the kernel's bindings.
    pub bindings: Vec<Binding>,
    /// Workgroups along x and y; along z there is one for each run.
    pub extent: [Extent; 2],
    pub scope: Scope,
    pub when: When,
}

impl Launch {
    /// The states that it works on.
    pub(super) fn states(&self) -> impl Iterator<Item = StateId> {
        self.bindings.iter().filter_map(|binding| match binding.resource {
            Resource::State(id, _) => Some(id),
            Resource::Params | Resource::Step | Resource::Runs | Resource::Memory(_) => None,
        })
    }

    /// Workgroups for runs of up to `tokens` tokens.
    pub(super) fn groups(&self, tokens: usize, runs: usize) -> [u32; 3] {
        // Bounded when the recording was made.
        let [x, y] = self.extent.map(|extent| extent.of(tokens) as u32);
        [x, y, runs as u32]
    }
}

/// A plan as launches.
#[derive(Debug)]
pub(crate) struct Recording {
    pub allocations: Vec<Allocation>,
    pub launches: Vec<Launch>,
    /// What of the allocations a step writes and reads.
    pub memory: Memory,
    pub rotations: Vec<Rotation>,
    /// `None` where the host must choose tokens.
    pub sampling: Option<Sampling>,
    /// Most tokens of a step.
    pub chunk: usize,
    /// Most rows of logits that are computed at once.
    pub logit_rows: usize,
}

impl Recording {
    /// The kernels of its steps.
    pub(super) fn variants(&self) -> impl Iterator<Item = Variant> {
        let launches = self.launches.iter().filter(|launch| launch.scope != Scope::Sampling);
        launches.map(|launch| launch.variant)
    }

    /// The name of a call's kernel.
    pub(super) fn name(&self, call: &Call) -> String {
        self.launches[call.launch].variant.name()
    }
}
