//! The inputs of products: f32 activations, and 8-bit ones for packed weights that use them.

use super::kernel::dot::Vectors;
use super::kernel::packed::activations::{Quantize, row};
use super::kernel::packed::{Int8, Layout};
use super::projection::Projection;
use super::simd::Isa;
use super::split::chunks;
use super::step::{Locals, Scratch};
use super::team::Team;
use crate::{Activations, Error};

/// The inputs of a product.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub floats: Vectors<'a>,
    /// The same vectors in eight bits, if a matrix uses them.
    pub int8: Option<Int8<'a>>,
}

impl<'a> Inputs<'a> {
    pub(super) fn tokens(&self) -> usize {
        self.floats.tokens
    }

    /// Tokens `first .. first + tokens`.
    pub(super) fn slice(&self, first: usize, tokens: usize) -> Self {
        let Vectors { x, stride, .. } = self.floats;
        Self {
            floats: Vectors { x: &x[first * stride..], stride, tokens },
            int8: self.int8.map(|int8| int8.slice(first, tokens)),
        }
    }
}

/// Activations in eight bits, if any.
pub(super) struct Records {
    made: Option<(Vec<f32>, Layout)>,
}

impl Records {
    /// The inputs `x`, whose 8-bit form these records are.
    pub(super) fn inputs<'a>(&'a self, x: Vectors<'a>) -> Inputs<'a> {
        let int8 = |(memory, layout): &'a (Vec<f32>, Layout)| Int8::new(memory, *layout, x.tokens);
        Inputs { floats: x, int8: self.made.as_ref().map(int8) }
    }

    /// Returns the memory to `scratch`.
    pub(super) fn end(self, scratch: &mut Scratch) {
        if let Some((memory, _)) = self.made {
            scratch.give(memory);
        }
    }
}

/// The parts of a step that a product needs.
pub(super) struct Means<'s> {
    pub team: &'s Team,
    pub isa: Isa,
    pub locals: &'s mut Locals,
    pub scratch: &'s mut Scratch,
    pub activations: Activations,
}

/// Makes [`Means`] from a step's fields, leaving the others free.
macro_rules! means_from {
    ($step:expr) => {
        $crate::backend::cpu::inputs::Means {
            team: $step.team,
            isa: $step.isa,
            locals: &mut *$step.locals,
            scratch: &mut *$step.scratch,
            activations: $step.activations,
        }
    };
}
pub(super) use means_from;

impl Means<'_> {
    /// Converts `x`, of `cols` columns, to eight bits if one of `projections` uses that.
    pub(super) fn records<'p>(
        &mut self,
        x: Vectors<'_>,
        cols: usize,
        mut projections: impl Iterator<Item = &'p Projection>,
    ) -> Result<Records, Error> {
        if self.activations == Activations::F32 || !projections.any(Projection::takes_int8) {
            return Ok(Records { made: None });
        }
        let layout = Layout::new(cols);
        let len = layout.len();
        let mut memory = self.scratch.take(x.tokens * len)?;
        let records = &mut memory[..x.tokens * len];
        let isa = self.isa;
        let one = |t: usize, record: &mut [f32]| {
            isa.dispatch(Quantize { x: row(x, t, cols), layout, record });
        };
        if x.tokens < 4 {
            records.chunks_mut(len).enumerate().for_each(|(t, record)| one(t, record));
        } else {
            self.team.for_each(x.tokens, chunks(records, len), one);
        }
        Ok(Records { made: Some((memory, layout)) })
    }
}
