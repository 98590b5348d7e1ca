//! `embed` on the CPU: rows of the table, decoded and scaled.

use super::CpuOp;
use super::split::chunks;
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, BufferId};
use crate::weights::{MatrixData, Weights};

pub(super) struct Embed {
    /// Missing if every row comes as a vector.
    table: Option<MatrixData>,
    scale: f32,
    output: BufferId,
}

impl Embed {
    pub(super) fn new(op: &op::Embed, weights: &Weights) -> Result<Self, Error> {
        let table = op.table.as_ref().map(|table| weights.matrix(table)).transpose()?;
        Ok(Self { table, scale: op.scale, output: op.output })
    }
}

impl CpuOp for Embed {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let width = step.buffers.width(self.output);
        let (tokens, vectors) = (step.tokens, step.vectors);
        if self.table.is_none() && vectors.is_none() {
            return Err(Error::Unsupported { what: "tokens in a plan that takes vectors" });
        }
        let mut output = step.buffers.take(self.output);
        step.team.for_each(tokens.len(), chunks(output.data(), width), |i, out| {
            if let Some(vector) = vectors.and_then(|all| all.get(i * width..(i + 1) * width)) {
                out.copy_from_slice(vector);
            } else if let Some(table) = &self.table {
                // Ids were checked against the table's rows before the step.
                let decoded = table.decode_row(tokens[i] as usize, out);
                debug_assert!(decoded.is_ok());
            }
            if self.scale != 1.0 {
                out.iter_mut().for_each(|x| *x *= self.scale);
            }
        });
        step.buffers.put(output);
        Ok(())
    }
}
