//! One kernel of a step: on what, for how many tokens, and how often.

use std::sync::Arc;

use super::device::Device;
use super::kernels::CompiledKernel;
use crate::Error;
use crate::plan::op::StateId;

/// Most tokens of a step that are computed one by one; more go in tiles.
pub(super) const FEW: usize = 4;
/// Tokens, or rows of what lies between kernels, of a tile of the scans and of attention.
pub(super) const SIDE: usize = 64;
/// Bytes of `Step` in the kernels.
pub(super) const STEP_BYTES: u64 = 16;
/// Distance of the kernels' `Step`s: what dynamic offsets are aligned to on every device.
pub(super) const STEP_STRIDE: usize = 256;

/// What a kernel's binding is.
#[derive(Clone)]
pub(super) enum Resource {
    Buffer(wgpu::Buffer),
    /// Part of a session's state: tensors have part 0, caches keys in part 0 and values in part 1.
    State(StateId, usize),
}

/// A buffer, or some of its bytes.
pub(super) struct Part {
    pub buffer: wgpu::Buffer,
    pub offset: u64,
    /// Up to the end, if not given.
    pub size: Option<wgpu::BufferSize>,
}

impl Part {
    pub(super) fn whole(buffer: &wgpu::Buffer) -> Self {
        Self { buffer: buffer.clone(), offset: 0, size: None }
    }
}

/// How many workgroups there are along an axis.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    Fixed(usize),
    /// As many as tokens, times this.
    Tokens(usize),
    /// As many as tiles of this many tokens.
    Tiles(usize),
    /// At least as many as tiles of tokens grouped by expert.
    Groups(Groups),
    /// As many as tiles of rows, of which a token has this many.
    Rows(usize),
}

/// Tokens grouped by expert, in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Groups {
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

/// What a dispatch is recorded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Once for all tokens of a step.
    Step,
    /// For each run by itself, with its session's state.
    Runs,
    /// For some of the wanted logits at a time.
    Logits,
}

/// For which numbers of tokens, of the step or of the run, a dispatch is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    Few,
    Many,
    /// Where the step, whatever the run, has many.
    ManyOfStep,
    /// From the first to the last of these numbers.
    Between(usize, usize),
}

impl When {
    fn holds(self, tokens: usize) -> bool {
        match self {
            Self::Always => true,
            Self::Few => tokens <= FEW,
            Self::Many | Self::ManyOfStep => tokens > FEW,
            Self::Between(first, last) => (first..=last).contains(&tokens),
        }
    }
}

/// One dispatch of a step.
pub(super) struct Dispatch {
    pub kernel: Arc<CompiledKernel>,
    /// In the order of the kernel's bindings.
    pub resources: Vec<Resource>,
    /// Without [`Resource::State`], made once.
    pub bind_group: Option<wgpu::BindGroup>,
    pub groups: [Extent; 2],
    pub over: Over,
    pub when: When,
}

impl Dispatch {
    /// The states that it works on.
    pub(super) fn states(&self) -> impl Iterator<Item = StateId> {
        self.resources.iter().filter_map(|resource| match resource {
            Resource::State(id, _) => Some(*id),
            Resource::Buffer(_) => None,
        })
    }

    /// Whether it is recorded where `tokens` are computed together.
    pub(super) fn holds(&self, tokens: usize) -> bool {
        self.when.holds(tokens)
    }

    /// Whether it is recorded for a run of so many tokens in a step of so many.
    pub(super) fn holds_for(&self, run: usize, step: usize) -> bool {
        self.when.holds(if self.when == When::ManyOfStep { step } else { run })
    }

    /// Workgroups along x and y.
    pub(super) fn groups(&self, tokens: usize) -> [u32; 2] {
        // Bounded when the program was built.
        self.groups.map(|extent| extent.of(tokens) as u32)
    }

    /// The bindings, with the parts of a session's state from `state`.
    pub(super) fn bind(
        &self,
        device: &Device,
        state: impl Fn(StateId, usize) -> Option<Part>,
    ) -> Result<wgpu::BindGroup, Error> {
        let mut parts = Vec::new();
        for resource in &self.resources {
            parts.push(match resource {
                Resource::Buffer(buffer) => Part::whole(buffer),
                Resource::State(id, part) => state(*id, *part)
                    .ok_or_else(|| device.fault("a kernel without a session's state"))?,
            });
        }
        let bindings = self.kernel.metadata.bindings;
        let entries: Vec<_> = (0..)
            .zip(bindings.iter().zip(&parts))
            .map(|(number, (binding, part))| wgpu::BindGroupEntry {
                binding: number,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &part.buffer,
                    offset: part.offset,
                    size: (binding.name == "step").then_some(STEP_SIZE).flatten().or(part.size),
                }),
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor {
            label: Some(&self.kernel.name),
            layout: &self.kernel.layout,
            entries: &entries,
        };
        let create = || device.device.create_bind_group(&descriptor);
        match device.caught(wgpu::ErrorFilter::Validation, create) {
            (_, Some(error)) => Err(device.fault(format!("{}: {error}", self.kernel.name))),
            (group, None) => Ok(group),
        }
    }
}

const STEP_SIZE: Option<wgpu::BufferSize> = wgpu::BufferSize::new(STEP_BYTES);
