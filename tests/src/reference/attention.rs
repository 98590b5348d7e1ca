//! `o_i = sum_j softmax_j(scale * q_i . k_j) v_j` over the positions `j` that `i` sees. Queries and
//! keys are normed, clipped and rotated first; values are clipped, or are the first elements of keys.

use kinglet::op::{Attention, AttentionValues};

use super::math::{dot, softmax};
use super::{Norm, Pass, Rows};

pub(super) fn attention(op: &Attention, pass: &Pass<'_>) -> Rows {
    let Attention { heads, kv_heads, head_dim: dim, window, sinks, .. } = *op;
    let norms = op.qk_norm.as_ref();
    let norms = norms.map(|qk| (pass.values.norm(&qk.q), pass.values.norm(&qk.k), qk.per_head));
    let (mut keys, mut values, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
    let own = match &op.values {
        AttentionValues::Own(slice) => pass.columns(*slice),
        AttentionValues::Latent { .. } => Vec::new(),
    };
    let inputs = pass.columns(op.queries).into_iter().zip(pass.columns(op.keys));
    for (position, (mut q, mut k)) in inputs.enumerate() {
        if let Some((q_norm, k_norm, per_head)) = &norms {
            (q, k) = (normed(&q, q_norm, *per_head, dim), normed(&k, k_norm, *per_head, dim));
        }
        let value_dim = match &op.values {
            AttentionValues::Own(slice) => {
                values.push(clipped(op, &own[position]));
                slice.width / kv_heads
            }
            AttentionValues::Latent { width, norm } => {
                let norm = norm.as_ref().map(|norm| pass.values.norm(norm));
                for (head, norm) in k.chunks_mut(dim).zip(norm.iter().cycle()) {
                    let latent = norm.apply(&head[..*width]);
                    head[..*width].copy_from_slice(&latent);
                }
                let latents = k.chunks(dim).flat_map(|head| &head[..*width]).copied();
                values.push(clipped(op, &latents.collect::<Vec<_>>()));
                *width
            }
        };
        let q = rotated(op, clipped(op, &q), position);
        keys.push(rotated(op, clipped(op, &k), position));

        // The window, this position included, and the sinks before it.
        let oldest = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let seen: Vec<usize> = (0..sinks.min(oldest)).chain(oldest..=position).collect();
        let mut output = Vec::new();
        for head in 0..heads {
            // Query heads share key and value heads in groups.
            let kv = head / (heads / kv_heads);
            let q = &q[head * dim..][..dim];
            let score = |&j: &usize| f64::from(op.scale) * dot(q, &keys[j][kv * dim..][..dim]);
            let weights = softmax(&seen.iter().map(score).collect::<Vec<_>>());
            for d in 0..value_dim {
                let weighted = weights.iter().zip(&seen);
                output.push(weighted.map(|(w, &j)| w * values[j][kv * value_dim + d]).sum());
            }
        }
        outputs.push(output);
    }
    outputs
}

/// RMS norm, of each head separately or of all together.
fn normed(x: &[f64], norm: &Norm, per_head: bool, dim: usize) -> Vec<f64> {
    if per_head { x.chunks(dim).flat_map(|x| norm.apply(x)).collect() } else { norm.apply(x) }
}

/// Clamped to `[-clip, clip]`.
fn clipped(op: &Attention, x: &[f64]) -> Vec<f64> {
    let clip = op.clip.map_or(f64::INFINITY, f64::from);
    x.iter().map(|x| x.clamp(-clip, clip)).collect()
}

/// From `rope_start` on, pair `(i, i + pairs)` of each head, or pair `(2 i, 2 i + 1)`, is turned by `position * inv_freq[i]`.
fn rotated(op: &Attention, mut x: Vec<f64>, position: usize) -> Vec<f64> {
    let Some(rope) = &op.rope else { return x };
    let inv_freq: Vec<f64> = match &rope.exact {
        Some(exact) => exact.clone(),
        None => rope.inv_freq_at(position).iter().map(|&inv| inv.into()).collect(),
    };
    let factor = f64::from(rope.attention_factor);
    for head in x.chunks_mut(op.head_dim) {
        let head = &mut head[op.rope_start..];
        for (i, &inv) in inv_freq.iter().enumerate() {
            let (sin, cos) = (position as f64 * inv).sin_cos();
            let at = if rope.interleaved { (2 * i, 2 * i + 1) } else { (i, i + inv_freq.len()) };
            let (a, b) = (head[at.0], head[at.1]);
            head[at.0] = (a * cos - b * sin) * factor;
            head[at.1] = (b * cos + a * sin) * factor;
        }
    }
    x
}
