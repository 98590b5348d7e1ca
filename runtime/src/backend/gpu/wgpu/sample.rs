//! Choosing the next token on the device: the kernels of `shaders/src/sample.wgsl` behind those of a step.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::Builder;
use super::dispatch::{Dispatch, Extent, Over, Resource, When};
use crate::Error;
use crate::backend::executable::TokenChoice;

/// Logits of a block: a kernel's workgroup takes so many.
pub(super) const BLOCK: usize = 1024;
/// Candidates that the kernel for sorted ones has room for.
pub(super) const ROOM: usize = 1024;
/// Bytes of the kernels' `Draw`.
const DRAW_BYTES: u64 = 32;

/// The kernels that choose, each with its bindings.
pub(super) struct Sampling {
    /// What the kernels know of a draw.
    pub draw: wgpu::Buffer,
    largest: Dispatch,
    greedy: Dispatch,
    masses: Dispatch,
    drawn: Dispatch,
    sorted: Dispatch,
}

/// Makes the kernels ready. They read the first row of the logits and write the first of the step's tokens: the next step
/// of a single token begins with it.
pub(super) fn add(builder: &mut Builder<'_>) -> Result<Sampling, Error> {
    let vocab = builder.plan.vocab;
    let blocks = vocab.div_ceil(BLOCK);
    let device = builder.device;
    let storage = wgpu::BufferUsages::STORAGE;
    let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let draw = device.buffer("a draw", DRAW_BYTES, uniform)?;
    let resources = vec![
        ("logits", Resource::Buffer(builder.memory.logits.clone())),
        ("largest", Resource::Buffer(device.buffer("blocks", 8 * blocks as u64, storage)?)),
        ("masses", Resource::Buffer(device.buffer("blocks", 4 * blocks as u64, storage)?)),
        ("chosen", Resource::Buffer(builder.memory.tokens.clone())),
        ("draw", Resource::Buffer(draw.clone())),
    ];
    let mut dispatch = |kernel, groups| {
        builder.dispatch(
            kernel,
            WeightType::F32,
            |_, params| {
                params.set("vocab", vocab);
            },
            resources.clone(),
            [Extent::Fixed(groups), Extent::Fixed(1)],
            (Over::Logits, When::Always),
        )?;
        let added = builder.dispatches.pop();
        added.ok_or_else(|| device.fault("a kernel is missing"))
    };
    Ok(Sampling {
        largest: dispatch(Kernel::SampleLargest, blocks)?,
        greedy: dispatch(Kernel::SampleGreedy, 1)?,
        masses: dispatch(Kernel::SampleMasses, blocks)?,
        drawn: dispatch(Kernel::SampleDrawn, 1)?,
        sorted: dispatch(Kernel::SampleSorted, 1)?,
        draw,
    })
}

impl Sampling {
    /// Whether it can choose this way: not where it takes more candidates than there is room for.
    pub(super) fn can(&self, choice: &TokenChoice) -> bool {
        match choice {
            TokenChoice::Greedy => true,
            TokenChoice::Drawn(draw) => draw.top_k as usize <= ROOM,
        }
    }

    /// The dispatches that choose, in order.
    pub(super) fn dispatches(&self, choice: &TokenChoice) -> impl Iterator<Item = &Dispatch> {
        let rest: [Option<&Dispatch>; 2] = match choice {
            TokenChoice::Greedy => [Some(&self.greedy), None],
            TokenChoice::Drawn(draw) if draw.by_rank() => [Some(&self.sorted), None],
            TokenChoice::Drawn(_) => [Some(&self.masses), Some(&self.drawn)],
        };
        std::iter::once(&self.largest).chain(rest.into_iter().flatten())
    }

    /// What the kernels are to know of a draw; nothing where none is needed.
    pub(super) fn draw_bytes(choice: &TokenChoice) -> Option<[u8; DRAW_BYTES as usize]> {
        let TokenChoice::Drawn(draw) = choice else { return None };
        // The largest number below 1 that binary32 has.
        let number = (draw.number as f32).min(1.0 - f32::EPSILON / 2.0);
        let words = [
            draw.cut_temperature.to_bits(),
            draw.draw_temperature.to_bits(),
            draw.top_p.to_bits(),
            draw.min_p.to_bits(),
            number.to_bits(),
            draw.top_k,
            0,
            0,
        ];
        let mut bytes = [0; DRAW_BYTES as usize];
        bytes.copy_from_slice(bytemuck::cast_slice(&words));
        Some(bytes)
    }
}
