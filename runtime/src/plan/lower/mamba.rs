//! Mamba: `x` and `z`, the convolution, step sizes with B and C, the scan, the output projection.

use kinglet_models::{Mamba, Norm};

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue, Slice, Strided};

pub(super) fn lower(b: &mut Branch<'_>, m: &Mamba) -> Sum {
    let mut xz = b.project("xz", vec![m.in_proj.clone()]);
    if m.alternating {
        let mixed = xz;
        let half = |offset| Strided { buffer: mixed, offset, step: 2, width: m.inner };
        xz = b.op("xz", 2 * m.inner, |output| {
            Op::Concat(op::Concat { inputs: vec![half(0), half(1)], output })
        });
    }
    let conv_state = b.conv_state(&m.conv);
    let convolved = b.op("convolved", m.inner, |output| {
        Op::Conv1d(op::Conv1d {
            input: Slice { buffer: xz, offset: 0, width: m.inner },
            input_gate: None,
            convs: vec![m.conv.clone()],
            silu: true,
            output_gate: None,
            state: conv_state,
            output,
        })
    });
    // r, B and C of each head, from its own channels.
    let heads = m.heads();
    let (channels, each) = (m.inner / heads, m.dt_rank + 2 * m.state);
    let by_head =
        |buffer, width: usize| move |head: usize| Slice { buffer, offset: head * width, width };
    let rbc = b.by_head("rbc", by_head(convolved, channels), &Prologue::None, &m.x_proj);
    let norm = m.bcdt_norm.as_ref();
    let prologue = match norm.map(|norm| (norm.eps, &norm.weights)) {
        Some((eps, Some(weights))) => {
            let weight = weights.dt.clone();
            Prologue::Norm(Norm { weight, ..Norm::new("", 0, eps) })
        }
        Some((eps, None)) => Prologue::PlainNorm { eps },
        None => Prologue::None,
    };
    let bc_norm = norm.map(|norm| op::BcNorm {
        eps: norm.eps,
        weights: norm.weights.as_ref().map(|weights| [weights.b.clone(), weights.c.clone()]),
    });
    let rank = |head: usize| Slice { buffer: rbc, offset: head * each, width: m.dt_rank };
    let dt = b.by_head("dt", rank, &prologue, &m.dt_proj);
    let state = b.state("ssm", &[m.state, m.inner]);
    let output = b.op("scanned", m.inner, |output| {
        Op::MambaScan(op::MambaScan {
            x: convolved,
            z: Slice { buffer: xz, offset: m.inner, width: m.inner },
            dt,
            b: Slice { buffer: rbc, offset: m.dt_rank, width: m.state },
            c: Slice { buffer: rbc, offset: m.dt_rank + m.state, width: m.state },
            heads,
            head_stride: each,
            bc_norm,
            a_log: m.a_log.clone(),
            d: m.d.clone(),
            inner: m.inner,
            state_dim: m.state,
            state,
            output,
        })
    });
    b.sum(output, Prologue::None, &m.out_proj)
}
