//! `positions` on the CPU: rows of the table, or sines in double precision.

use kinglet_models as spec;

use super::CpuOp;
use super::split::chunks;
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, BufferId};
use crate::weights::{MatrixData, Weights};

pub(super) struct Positions {
    table: Table,
    output: BufferId,
}

enum Table {
    Learned(MatrixData),
    Sinusoidal,
}

impl Positions {
    pub(super) fn new(op: &op::Positions, weights: &Weights) -> Result<Self, Error> {
        let table = match &op.table {
            spec::Positions::Learned(table) => Table::Learned(weights.matrix(table)?),
            spec::Positions::Sinusoidal => Table::Sinusoidal,
        };
        Ok(Self { table, output: op.output })
    }
}

impl CpuOp for Positions {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let width = step.buffers.width(self.output);
        let mut positions = Vec::with_capacity(step.tokens.len());
        for run in step.runs.iter() {
            positions.extend(run.state.position..run.state.position + run.len);
        }
        let mut output = step.buffers.take(self.output);
        match &self.table {
            Table::Learned(table) => {
                if let Some(&last) = positions.iter().max().filter(|&&last| last >= table.rows()) {
                    step.buffers.put(output);
                    let positions = table.rows();
                    return Err(Error::PositionsFull { held: last, more: 1, positions });
                }
                let locals = step.locals.get(width)?;
                let rows = chunks(output.data(), width);
                step.team.for_each_with(locals, positions.len(), rows, |row, i, x| {
                    // The table has the row.
                    let decoded = table.decode_row(positions[i], &mut row[..width]);
                    debug_assert!(decoded.is_ok());
                    x.iter_mut().zip(row.iter()).for_each(|(x, p)| *x += p);
                });
            }
            Table::Sinusoidal => {
                let frequencies = spec::Positions::sinusoid(width);
                step.team.for_each(positions.len(), chunks(output.data(), width), |i, x| {
                    let (sines, cosines) = x.split_at_mut(frequencies.len());
                    let columns = sines.iter_mut().zip(cosines).zip(&frequencies);
                    for ((sine, cosine), frequency) in columns {
                        let (sin, cos) = (positions[i] as f64 * frequency).sin_cos();
                        *sine += sin as f32;
                        *cosine += cos as f32;
                    }
                });
            }
        }
        step.buffers.put(output);
        Ok(())
    }
}
