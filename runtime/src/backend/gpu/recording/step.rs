//! A step of a recording: which launches it takes.

use std::collections::HashMap;

use kinglet_shaders::Kernel;

use super::{Access, AllocationId, Recording, Resource, Scope};
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
}

impl Step {
    /// As the kernels read it.
    pub(in super::super) fn words(self) -> [u32; 4] {
        [self.start, self.tokens, self.position, self.parity]
    }
}

/// A launch in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Index in [`Recording::launches`].
    pub launch: usize,
    /// The run whose state it uses.
    pub run: Option<usize>,
    /// The [`Step`] that it reads, by number.
    pub step: usize,
    /// Workgroups along x and y.
    pub groups: [u32; 2],
}

/// Memory that calls of a step depend on one another for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Memory(AllocationId),
    State { run: Option<usize>, state: StateId, part: usize },
}

impl Recording {
    fn call(&self, launch: usize, run: Option<usize>, step: usize, tokens: usize) -> Call {
        Call { launch, run, step, groups: self.launches[launch].groups(tokens) }
    }

    /// A step of `runs`, given by their numbers of tokens, up to its logits. [`Step`] 0 is that of all tokens, the others are those of the runs.
    /// With `embedded`, the rows of the embedding are there already.
    pub(in super::super) fn step(&self, runs: &[usize], embedded: bool) -> Vec<Call> {
        let tokens = runs.iter().sum();
        let mut calls = Vec::with_capacity(self.launches.len());
        let mut first = 0;
        // Launches of a run that follow one another pass data on in scratch memory, which the next run overwrites.
        for launches in
            self.launches.chunk_by(|a, b| (a.scope == Scope::Run) == (b.scope == Scope::Run))
        {
            let of_run = launches.iter().any(|launch| launch.scope == Scope::Run);
            for (run, &len) in runs.iter().enumerate().filter(|_| of_run) {
                for (index, launch) in (first..).zip(launches) {
                    if launch.when.holds(len, tokens) {
                        calls.push(self.call(index, Some(run), 1 + run, len));
                    }
                }
            }
            for (index, launch) in (first..).zip(launches) {
                let left_out = embedded && launch.variant.kernel() == Kernel::Embed;
                if launch.scope == Scope::Step && launch.when.holds(tokens, tokens) && !left_out {
                    calls.push(self.call(index, None, 0, tokens));
                }
            }
            first += launches.len();
        }
        calls
    }

    /// Adds the calls for `rows` of logits, which read [`Step`] number `step`.
    pub(in super::super) fn logits(&self, step: usize, rows: usize, calls: &mut Vec<Call>) {
        for (index, launch) in self.launches.iter().enumerate() {
            if launch.scope == Scope::Logits && launch.when.holds(rows, rows) {
                calls.push(self.call(index, None, step, rows));
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
        calls.extend(launches.map(|launch| self.call(launch, None, step, 1)));
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
            let places = bindings.iter().filter_map(|binding| match binding.resource {
                // Written by the host, before all calls.
                Resource::Params | Resource::Step => None,
                Resource::Memory(id) => Some((Place::Memory(id), binding.access)),
                Resource::State(state, part) => {
                    Some((Place::State { run: call.run, state, part }, binding.access))
                }
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
