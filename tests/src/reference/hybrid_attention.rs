//! For each head `(1 - g) sum_j softmax_j(scale q . k_j + s_j) v_j + g S^T phi(q) / (z . phi(q) + eps)`: the sum over the keys of the tier that
//! the position is in, `S` and `z` over all keys that have left the window.

use kinglet::models::Tiers;
use kinglet::op::HybridAttention;

use super::math::{dot, sigmoid, softmax};
use super::{Pass, Rows};

/// Keys and values `[n, head_dim]` and scores `[n]` of a key/value head.
struct Keys {
    keys: Rows,
    values: Rows,
    scores: Vec<f64>,
}

pub(super) fn hybrid_attention(op: &HybridAttention, pass: &Pass<'_>) -> Rows {
    let HybridAttention { heads, kv_heads, head_dim: dim, tiers, .. } = *op;
    let queries = pass.columns(op.queries);
    let (keys, values) = (pass.columns(op.keys), pass.columns(op.values));
    let scores = op.scores.map(|slice| pass.columns(slice));
    let gates = pass.values.vector(&op.linear_gate);
    let mut outputs = vec![Vec::new(); queries.len()];
    for head in 0..heads {
        let kv = head / (heads / kv_heads);
        let part = |rows: &Rows| rows.iter().map(|x| x[kv * dim..][..dim].to_vec()).collect();
        let past = Keys {
            keys: part(&keys),
            values: part(&values),
            scores: (0..keys.len()).map(|j| scores.as_ref().map_or(0.0, |s| s[j][kv])).collect(),
        };
        let gate = sigmoid(gates[head]);
        let mut memory = Memory::new(dim);
        for (t, query) in queries.iter().enumerate() {
            let q = &query[head * dim..][..dim];
            let seen = past.seen(&tiers, t);
            let logits = seen.keys.iter().zip(&seen.scores);
            let logits = logits.map(|(k, s)| f64::from(op.scale) * dot(q, k) + s);
            let weights = softmax(&logits.collect::<Vec<_>>());
            let mut output = vec![0.0; dim];
            for (w, v) in weights.iter().zip(&seen.values) {
                output.iter_mut().zip(v).for_each(|(o, v)| *o += w * v);
            }
            if let Some(left) = t.checked_sub(tiers.window) {
                memory.add(&past.keys[left], &past.values[left]);
                if t + 1 > tiers.dilated_until {
                    let read = memory.read(q, op.eps.into());
                    let mixed = output.iter().zip(&read);
                    output = mixed.map(|(o, m)| (1.0 - gate) * o + gate * m).collect();
                }
            }
            outputs[t].extend(output);
        }
    }
    outputs
}

impl Keys {
    /// What the query at `t` sees.
    fn seen(&self, tiers: &Tiers, t: usize) -> Keys {
        let positions: Vec<usize> = (0..=t).filter(|&j| self.sees(tiers, t, j)).collect();
        let mut blocks: Vec<Vec<usize>> = positions.into_iter().map(|j| vec![j]).collect();
        if t + 1 > tiers.linear_until {
            let outside = (t + 1).saturating_sub(tiers.window);
            for level in 0..tiers.hierarchy_levels {
                let size = tiers.hierarchy_block << level;
                let complete = outside / size;
                let first = complete.saturating_sub(tiers.hierarchy_width);
                blocks.extend((first..complete).map(|b| (b * size..(b + 1) * size).collect()));
            }
        }
        let means = |rows: &Rows| blocks.iter().map(|block| mean(rows, block)).collect();
        let scores: Rows = self.scores.iter().map(|s| vec![*s]).collect();
        let scores = blocks.iter().map(|block| mean(&scores, block)[0]).collect();
        Keys { keys: means(&self.keys), values: means(&self.values), scores }
    }

    /// Whether the query at `t` sees the key at `j <= t` by itself.
    fn sees(&self, tiers: &Tiers, t: usize, j: usize) -> bool {
        let (n, distance) = (t + 1, t - j);
        if n <= tiers.full_until || distance < tiers.window {
            return true;
        }
        let dilated = |level: usize| {
            let (near, far) = (tiers.window << (level - 1), tiers.window << level);
            (near..far).contains(&distance) && j.is_multiple_of(1 << level)
        };
        (n <= tiers.dilated_until && (1..=tiers.levels).any(dilated))
            || j < tiers.global_first
            || self.is_top(tiers, t, j)
    }

    /// Whether `j` is among the keys outside the window with the largest scores.
    fn is_top(&self, tiers: &Tiers, t: usize, j: usize) -> bool {
        let rounded = |j: usize| (1024.0 * self.scores[j] + 0.5).floor();
        let outside = 0..=t - tiers.window;
        let better = |&i: &usize| rounded(i) > rounded(j) || (rounded(i) == rounded(j) && i < j);
        outside.filter(better).count() < tiers.global_top
    }
}

fn mean(rows: &Rows, block: &[usize]) -> Vec<f64> {
    let width = rows[0].len();
    let sum = |d: usize| block.iter().map(|&j| rows[j][d]).sum::<f64>();
    (0..width).map(|d| sum(d) / block.len() as f64).collect()
}

/// `S` and `z`.
struct Memory {
    s: Rows,
    z: Vec<f64>,
}

impl Memory {
    fn new(dim: usize) -> Self {
        Self { s: vec![vec![0.0; dim]; dim], z: vec![0.0; dim] }
    }

    fn add(&mut self, key: &[f64], value: &[f64]) {
        for (i, k) in key.iter().map(|&k| phi(k)).enumerate() {
            self.z[i] += k;
            self.s[i].iter_mut().zip(value).for_each(|(s, v)| *s += k * v);
        }
    }

    fn read(&self, query: &[f64], eps: f64) -> Vec<f64> {
        let query: Vec<f64> = query.iter().map(|&q| phi(q)).collect();
        let weights = dot(&query, &self.z) + eps;
        let column = |c: usize| query.iter().zip(&self.s).map(|(q, row)| q * row[c]).sum::<f64>();
        (0..self.z.len()).map(|c| column(c) / weights).collect()
    }
}

/// `elu(x) + 1`.
fn phi(x: f64) -> f64 {
    if x > 0.0 { x + 1.0 } else { x.exp() }
}
