//! A step of a recording in text: one line for each launch.

use std::fmt::{self, Display};

use super::{Access, Call, Recording, Resource};

/// The calls of a step, to be printed.
pub(in super::super) struct Listing<'a> {
    recording: &'a Recording,
    calls: &'a [Call],
}

impl Recording {
    /// One line for each of `calls`: its number, kernel, workgroups, run, what it reads and writes, and the calls it comes after.
    pub(in super::super) fn list<'a>(&'a self, calls: &'a [Call]) -> Listing<'a> {
        Listing { recording: self, calls }
    }

    fn resource(&self, resource: Resource) -> Option<String> {
        match resource {
            // Every kernel has them.
            Resource::Params | Resource::Step | Resource::Runs => None,
            Resource::Memory(id) => self.allocations.get(id.0).map(|memory| memory.name.clone()),
            Resource::State(id, part) => Some(format!("state {}.{part}", id.0)),
        }
    }
}

impl Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dependencies = self.recording.dependencies(self.calls);
        for (index, (call, before)) in self.calls.iter().zip(&dependencies).enumerate() {
            let Some(launch) = self.recording.launches.get(call.launch) else { continue };
            let [x, y, runs] = call.groups;
            write!(f, "{index:4}  {}  {x} x {y}", launch.variant.name())?;
            match call.run {
                Some(run) if runs > 1 => write!(f, "  runs {run} .. {}", call.runs().end)?,
                Some(run) => write!(f, "  run {run}")?,
                None => {}
            }
            for (access, word) in [(Access::Read, "reads"), (Access::Write, "writes")] {
                let own = launch.bindings.iter().filter(|binding| binding.access == access);
                let mut names: Vec<_> =
                    own.filter_map(|binding| self.recording.resource(binding.resource)).collect();
                names.dedup();
                if !names.is_empty() {
                    write!(f, "  {word} {}", names.join(", "))?;
                }
            }
            if !before.is_empty() {
                let numbers: Vec<_> = before.iter().map(ToString::to_string).collect();
                write!(f, "  after {}", numbers.join(" "))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
