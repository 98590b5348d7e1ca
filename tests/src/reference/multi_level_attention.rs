//! For each head `sum_l w_l sum_b softmax_b(scale q . mean_b(k)) mean_b(v)` over the aligned blocks of `2^l` positions that the query sees,
//! `w = softmax(level_logits)`. Means are over the positions up to the query's.

use kinglet::op::MultiLevelAttention;

use super::math::{dot, softmax};
use super::{Pass, Rows};

pub(super) fn multi_level_attention(op: &MultiLevelAttention, pass: &Pass<'_>) -> Rows {
    let MultiLevelAttention { heads, kv_heads, head_dim: dim, .. } = *op;
    let queries = pass.columns(op.queries);
    let (keys, values) = (pass.columns(op.keys), pass.columns(op.values));
    let logits = pass.values.vector(&op.level_logits);
    let levels = op.windows.len();
    let one = |(t, query): (usize, &Vec<f64>)| {
        let mut output = vec![0.0; heads * dim];
        for (head, output) in output.chunks_mut(dim).enumerate() {
            let kv = head / (heads / kv_heads);
            let q = &query[head * dim..][..dim];
            let shares = softmax(&logits[head * levels..][..levels]);
            for (level, share) in shares.into_iter().enumerate() {
                let blocks = seen(level, op.windows[level], t);
                let mean = |rows: &Rows, block: &Vec<usize>| -> Vec<f64> {
                    let sum = |d: usize| block.iter().map(|&j| rows[j][kv * dim + d]).sum::<f64>();
                    (0..dim).map(|d| sum(d) / block.len() as f64).collect()
                };
                let score = |block| f64::from(op.scale) * dot(q, &mean(&keys, block));
                let weights = softmax(&blocks.iter().map(score).collect::<Vec<_>>());
                for (weight, block) in weights.iter().zip(&blocks) {
                    let value = mean(&values, block);
                    output.iter_mut().zip(value).for_each(|(o, v)| *o += share * weight * v);
                }
            }
        }
        output
    };
    queries.iter().enumerate().map(one).collect()
}

/// The blocks of a level that the query at `t` sees, each with its positions up to `t`.
fn seen(level: usize, window: Option<usize>, t: usize) -> Vec<Vec<usize>> {
    let size = 1 << level;
    let block = |b: usize| (b * size..((b + 1) * size).min(t + 1)).collect();
    let visible = |b: &usize| window.is_none_or(|window| (b + 1) * size + window > t + 1);
    (0..=t / size).filter(visible).map(block).collect()
}
