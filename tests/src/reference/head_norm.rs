//! `y = rotate(x / sqrt(mean(x^2) + eps) * weight)` for each head of each part.

use kinglet::op::HeadNorm;

use super::{Pass, Rows};

pub(super) fn head_norm(op: &HeadNorm, pass: &Pass<'_>) -> Rows {
    let mut outputs = vec![Vec::new(); pass.tokens.len()];
    for part in &op.parts {
        let norm = part.norm.as_ref().map(|norm| pass.values.norm(norm));
        for (position, row) in pass.columns(part.input).iter().enumerate() {
            for head in row.chunks(part.head_dim) {
                let mut head = norm.as_ref().map_or(head.to_vec(), |norm| norm.apply(head));
                if part.rotated {
                    rotate(op, &mut head, position);
                }
                outputs[position].extend(head);
            }
        }
    }
    outputs
}

/// Pair `(i, i + pairs)`, or pair `(2 i, 2 i + 1)`, is turned by `position * inv_freq[i]`.
fn rotate(op: &HeadNorm, head: &mut [f64], position: usize) {
    let Some(rope) = &op.rope else { return };
    let inv_freq: Vec<f64> = match &rope.exact {
        Some(exact) => exact.clone(),
        None => rope.inv_freq_at(position).iter().map(|&inv| inv.into()).collect(),
    };
    let factor = f64::from(rope.attention_factor);
    for (i, &inv) in inv_freq.iter().enumerate() {
        let (sin, cos) = (position as f64 * inv).sin_cos();
        let at = if rope.interleaved { (2 * i, 2 * i + 1) } else { (i, i + inv_freq.len()) };
        let (a, b) = (head[at.0], head[at.1]);
        head[at.0] = (a * cos - b * sin) * factor;
        head[at.1] = (b * cos + a * sin) * factor;
    }
}
