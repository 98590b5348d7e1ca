//! A step of a recording: which launches it takes.

use std::collections::HashMap;
use std::ops::Range;

use kinglet_shaders::Kernel;

use super::{Access, AllocationId, FEW, MOST_RUNS, Recording, Resource, Scope};
use crate::plan::op::StateId;

/// The kernels' `Step`: what a launch computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// The first row of the step's buffers; for logits the first of the wanted rows.
    pub start: u32,
    /// Rows.
    pub tokens: u32,
    /// Tokens that the sequence held before.
    pub position: u32,
    /// Which half of a double-buffered state is read.
    pub parity: u32,
    /// Where the session's tensors begin in a binding, in units of 16 bytes.
    pub slot: u32,
    /// The same for the states of convolutions.
    pub conv_slot: u32,
}

/// What a list of calls depends on in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunSize {
    pub tokens: usize,
    /// A number that runs share if their sessions' tensors lie in the same buffers.
    pub pool: usize,
}

impl Step {
    /// As the kernels read it.
    pub(in super::super) fn words(self) -> [u32; 6] {
        [self.start, self.tokens, self.position, self.parity, self.slot, self.conv_slot]
    }
}

/// A launch in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Index in [`Recording::launches`].
    pub launch: usize,
    /// The run whose state it uses, or the first of them.
    pub run: Option<usize>,
    /// The [`Step`] that it reads, or the first of them, by number.
    pub step: usize,
    /// Workgroups along x, y and z: along z there is one for each run.
    pub groups: [u32; 3],
}

impl Call {
    /// The runs whose states it uses.
    pub(in super::super) fn runs(&self) -> Range<usize> {
        self.run.map_or(0..0, |first| first..first + self.groups[2] as usize)
    }
}

/// Memory that calls of a step depend on one another for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Memory(AllocationId),
    State { run: usize, state: StateId, part: usize },
}

impl Recording {
    fn call(&self, launch: usize, step: usize, tokens: usize) -> Call {
        Call { launch, run: None, step, groups: self.launches[launch].groups(tokens, 1) }
    }

    /// A call for runs that follow one another.
    fn call_of_runs(&self, launch: usize, first: usize, runs: &[RunSize]) -> Option<Call> {
        let launched = &self.launches[launch];
        let longest = runs.iter().map(|run| run.tokens).max().unwrap_or(0);
        let groups = launched.groups(longest, runs.len());
        let holds = launched.when.holds(longest);
        holds.then_some(Call { launch, run: Some(first), step: 1 + first, groups })
    }

    /// A step of `runs`, up to its logits. Runs of one pool are computed together if they follow one another. [`Step`] 0 is that of all tokens,
    /// the others are those of the runs. With `embedded`, the rows of the embedding are there already.
    pub(in super::super) fn step(&self, runs: &[RunSize], embedded: bool) -> Vec<Call> {
        let tokens = runs.iter().map(|run| run.tokens).sum();
        let mut calls = Vec::with_capacity(self.launches.len());
        let mut first = 0;
        for launches in self.launches.chunk_by(|a, b| a.scope == b.scope) {
            let own = first..first + launches.len();
            first = own.end;
            match launches[0].scope {
                // Scratch memory passes data on from launch to launch, and the next run overwrites it.
                Scope::Run => {
                    for (run, size) in runs.chunks(1).enumerate() {
                        calls.extend(own.clone().filter_map(|l| self.call_of_runs(l, run, size)));
                    }
                }
                Scope::Runs => {
                    for launch in own {
                        let mut run = 0;
                        for sizes in together(runs) {
                            calls.extend(self.call_of_runs(launch, run, sizes));
                            run += sizes.len();
                        }
                    }
                }
                Scope::Step => {
                    let there = |l: &usize| {
                        let launch = &self.launches[*l];
                        let left_out = embedded && launch.variant.kernel() == Kernel::Embed;
                        launch.when.holds(tokens) && !left_out
                    };
                    calls.extend(own.filter(there).map(|l| self.call(l, 0, tokens)));
                }
                Scope::Logits | Scope::Sampling => {}
            }
        }
        calls
    }

    /// Adds the calls for `rows` of logits, which read [`Step`] number `step`.
    pub(in super::super) fn logits(&self, step: usize, rows: usize, calls: &mut Vec<Call>) {
        for (index, launch) in self.launches.iter().enumerate() {
            if launch.scope == Scope::Logits && launch.when.holds(rows) {
                calls.push(self.call(index, step, rows));
            }
        }
    }

    /// Adds launches of [`Scope::Sampling`], which read [`Step`] number `step`.
    pub(in super::super) fn sampling(
        &self,
        launches: impl Iterator<Item = usize>,
        step: usize,
        calls: &mut Vec<Call>,
    ) {
        calls.extend(launches.map(|launch| self.call(launch, step, 1)));
    }

    /// For each of `calls`, the earlier ones that must have ended before it begins, by index: the last that wrote what it reads, and the last
    /// that used what it writes.
    pub(in super::super) fn dependencies(&self, calls: &[Call]) -> Vec<Vec<usize>> {
        let mut writers: HashMap<Place, usize> = HashMap::new();
        let mut readers: HashMap<Place, Vec<usize>> = HashMap::new();
        let mut all = Vec::with_capacity(calls.len());
        for (index, call) in calls.iter().enumerate() {
            let mut before = Vec::new();
            let bindings = self.launches.get(call.launch).map_or(&[][..], |l| &l.bindings);
            let places = bindings.iter().flat_map(|binding| {
                let of_runs = |state, part| {
                    call.runs().map(move |run| Place::State { run, state, part }).collect()
                };
                let places: Vec<_> = match binding.resource {
                    // Written by the host, before all calls.
                    Resource::Params | Resource::Step | Resource::Runs => Vec::new(),
                    Resource::Memory(id) => vec![Place::Memory(id)],
                    Resource::State(state, part) => of_runs(state, part),
                };
                places.into_iter().map(|place| (place, binding.access))
            });
            for (place, access) in places {
                before.extend(writers.get(&place));
                match access {
                    Access::Read => readers.entry(place).or_default().push(index),
                    Access::Write => {
                        before.extend(readers.remove(&place).unwrap_or_default());
                        writers.insert(place, index);
                    }
                }
            }
            // A kernel may bind a place twice.
            before.retain(|earlier| *earlier != index);
            before.sort_unstable();
            before.dedup();
            all.push(before);
        }
        all
    }
}

/// Runs of few tokens whose sessions' tensors lie in the same buffers, as many as a dispatch takes; any other run by itself.
fn together(runs: &[RunSize]) -> impl Iterator<Item = &[RunSize]> {
    let few = |run: &RunSize| run.tokens <= FEW;
    let chunks = runs.chunk_by(move |a, b| a.pool == b.pool && few(a) && few(b));
    chunks.flat_map(|chunk| chunk.chunks(MOST_RUNS))
}
