//! Choosing the next token on the device: the kernels of `shaders/src/sample.wgsl`, after those of a step.

use kinglet_shaders::{Kernel, WeightType};

use super::api::Usage;
use super::builder::Builder;
use super::recording::{AllocationId, Extent, Resource, Scope, When};
use crate::Error;
use crate::backend::executable::TokenChoice;

/// Logits that a workgroup takes.
pub(super) const BLOCK: usize = 1024;
/// Candidates that the kernel for sorted ones has memory for.
pub(super) const ROOM: usize = 1024;
/// Bytes of the kernels' `Draw`.
const DRAW_BYTES: u64 = 32;

/// The launches that choose a token, by index in the recording.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    /// The kernels' `Draw`.
    pub draw: AllocationId,
    largest: usize,
    greedy: usize,
    masses: usize,
    drawn: usize,
    sorted: usize,
}

/// Adds the launches. They read the first row of the logits and write the first of the step's tokens: the next step of a single token begins
/// with it.
pub(super) fn add(builder: &mut Builder<'_>) -> Result<Sampling, Error> {
    let vocab = builder.plan.vocab;
    let blocks = vocab.div_ceil(BLOCK);
    let draw = builder.allocations.bound("a draw", "draw", DRAW_BYTES, Usage::Uniform)?;
    let resources = [
        ("logits", Resource::Memory(builder.memory.logits)),
        ("largest", Resource::Memory(builder.storage("blocks", "largest", 8 * blocks as u64)?)),
        ("masses", Resource::Memory(builder.storage("blocks", "masses", 4 * blocks as u64)?)),
        ("chosen", Resource::Memory(builder.memory.tokens)),
        ("draw", Resource::Memory(draw)),
    ];
    let mut launch = |kernel, groups| {
        builder.launch(
            kernel,
            WeightType::F32,
            |_, params| {
                params.set("vocab", vocab);
            },
            &resources,
            [Extent::Fixed(groups), Extent::Fixed(1)],
            (Scope::Sampling, When::Always),
        )?;
        Ok::<_, Error>(builder.launches.len() - 1)
    };
    Ok(Sampling {
        largest: launch(Kernel::SampleLargest, blocks)?,
        greedy: launch(Kernel::SampleGreedy, 1)?,
        masses: launch(Kernel::SampleMasses, blocks)?,
        drawn: launch(Kernel::SampleDrawn, 1)?,
        sorted: launch(Kernel::SampleSorted, 1)?,
        draw,
    })
}

impl Sampling {
    /// Whether the device can choose this way: not with more candidates than a kernel has memory for.
    pub(super) fn can(choice: &TokenChoice) -> bool {
        match choice {
            TokenChoice::Greedy => true,
            TokenChoice::Drawn(draw) => draw.top_k as usize <= ROOM,
        }
    }

    /// The launches that choose, in order.
    pub(super) fn launches(&self, choice: &TokenChoice) -> impl Iterator<Item = usize> {
        let rest: [Option<usize>; 2] = match choice {
            TokenChoice::Greedy => [Some(self.greedy), None],
            TokenChoice::Drawn(draw) if draw.by_rank() => [Some(self.sorted), None],
            TokenChoice::Drawn(_) => [Some(self.masses), Some(self.drawn)],
        };
        std::iter::once(self.largest).chain(rest.into_iter().flatten())
    }

    /// The kernels' `Draw`; `None` for a choice that needs none.
    pub(super) fn draw_bytes(choice: &TokenChoice) -> Option<[u8; DRAW_BYTES as usize]> {
        let TokenChoice::Drawn(draw) = choice else { return None };
        // Rounding may make it 1: the largest f32 below 1 then.
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
