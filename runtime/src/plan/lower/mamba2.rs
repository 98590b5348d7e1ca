//! Mamba-2: one projection, convolution and scan in one op, gate and norm before the output projection.

use kinglet_models::{GateActivation, Linear, Mamba2, Mamba2Gate};

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, m: &Mamba2) -> Sum {
    let inner = m.heads * m.head_dim;
    let input = b.project("zxbcdt", in_projections(m, inner));
    let conv_state = b.conv_state(&m.conv);
    let state = b.state("ssm", &[m.heads, m.state, m.head_dim]);
    let output = b.op("scanned", inner, |output| {
        Op::Mamba2Scan(op::Mamba2Scan {
            input,
            conv: m.conv.clone(),
            a_log: m.a_log.clone(),
            d: m.d.clone(),
            dt_bias: m.dt_bias.clone(),
            dt_limit: m.dt_limit,
            heads: m.heads,
            head_dim: m.head_dim,
            groups: m.groups,
            state_dim: m.state,
            conv_state,
            state,
            output,
        })
    });
    let gate = Slice { buffer: input, offset: 0, width: inner };
    let prologue = match &m.gate {
        Mamba2Gate::Silu => Prologue::SiluGate { gate },
        Mamba2Gate::NormAfter { norm, groups } => {
            Prologue::GatedNorm { gate, norm: norm.clone(), groups: *groups }
        }
        Mamba2Gate::NormBefore { norm, groups } => Prologue::NormGate {
            norm: norm.clone(),
            groups: *groups,
            gate,
            activation: GateActivation::Silu,
        },
    };
    b.sum(output, prologue, &m.out_proj)
}

/// The projection in one, or its sections with their factors.
fn in_projections(m: &Mamba2, inner: usize) -> Vec<Linear> {
    let Some(scales) = m.in_scales else { return vec![m.in_proj.clone()] };
    let shared = m.groups * m.state;
    let mut first = 0;
    let sections = [inner, inner, shared, shared, m.heads].into_iter().zip(scales);
    let sections = sections.map(|(rows, scale)| {
        let section = m.in_proj.rows(first, rows).scaled(scale);
        first += rows;
        section
    });
    sections.collect()
}
