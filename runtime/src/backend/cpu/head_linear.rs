//! `head_linear` on the CPU: a task for each head.
//!
//! A transposed matrix is decoded a few rows at a time, which are then added to the outputs, times the head's inputs.

use super::CpuOp;
use super::inputs::Inputs;
use super::kernel::dot::Vectors;
use super::kernel::gemm::Gemm;
use super::projection::Projection;
use super::split::columns;
use super::step::Step;
use crate::Error;
use crate::plan::op;
use crate::weights::Weights;

/// Rows of a transposed matrix that are decoded at once.
const ROWS: usize = 16;
/// Tokens that are multiplied at once.
const TOKENS: usize = 48;

pub(super) struct HeadLinear {
    op: op::HeadLinear,
    heads: Vec<Projection>,
}

impl HeadLinear {
    pub(super) fn new(op: &op::HeadLinear, weights: &Weights) -> Result<Self, Error> {
        let heads = op.heads.iter().map(|matrix| Projection::weights_only(matrix, weights));
        Ok(Self { op: op.clone(), heads: heads.collect::<Result<_, _>>()? })
    }
}

impl CpuOp for HeadLinear {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (inputs, outputs, carried) = (op.inputs(), op.outputs(), op.carried);
        let (tokens, isa) = (step.tokens.len(), step.isa);
        let mut output = step.buffers.take(op.output);
        let width = step.buffers.width(op.output);
        let (all, stride) = step.buffers.slice(op.input);
        let own = if op.transposed { ROWS * outputs } else { 0 };
        let locals = step.locals.get(own + TOKENS * outputs)?;
        let split = columns(output.data(), width, width, outputs + carried);
        step.team.for_each_with(locals, self.heads.len(), split, |local, head, mut block| {
            let (decoded, products) = local.split_at_mut(own);
            let matrix = &self.heads[head];
            let x = &all[head * (inputs + carried)..];
            for first in (0..tokens).step_by(TOKENS) {
                let (count, x) = (TOKENS.min(tokens - first), &x[first * stride..]);
                let products = &mut products[..count * outputs];
                if op.transposed {
                    products.fill(0.0);
                    for row in (0..inputs).step_by(ROWS) {
                        let rows = ROWS.min(inputs - row);
                        for (i, decoded) in decoded.chunks_mut(outputs).take(rows).enumerate() {
                            // The matrix is in memory and has these rows.
                            let done = matrix.matrix.decode_row(row + i, decoded);
                            debug_assert!(done.is_ok());
                        }
                        isa.dispatch(Gemm {
                            m: count,
                            n: outputs,
                            k: rows,
                            a: &x[row..],
                            a_row: stride,
                            a_col: 1,
                            b: &*decoded,
                            b_row: outputs,
                            c: &mut *products,
                            c_row: outputs,
                            accumulate: true,
                        });
                    }
                } else {
                    let floats = Vectors { x, stride, tokens: count };
                    let x = Inputs { floats, int8: None };
                    matrix.tile(isa, 0, outputs, x, products, outputs);
                }
                for (t, products) in products.chunks(outputs).enumerate() {
                    let (out, after) = block.row(first + t).split_at_mut(outputs);
                    out.copy_from_slice(products);
                    after.copy_from_slice(&x[t * stride + inputs..][..carried]);
                }
            }
        });
        step.buffers.put(output);
        Ok(())
    }
}
