//! `attention` on the CPU: queries and keys are normed and rotated, keys and values join the cache,
//! then blocks of queries pass over the cache's pages with an online softmax (Milakov and
//! Gimelshein, 2018).
//!
//! If there are fewer blocks than threads (a single token over a long context), the pages are
//! divided among tasks too, and the parts are combined at the end.

use kinglet_models::Rope;

use super::CpuOp;
use super::kernel::elementwise::{RmsNorm, SumOfSquares};
use super::kernel::gemm::Gemm;
use super::kv::HeadCache;
use super::kv_page::{PAGE, Page, PageShape};
use super::simd::{Isa, Kernel, Simd, load, math, store};
use super::split::{chunks, per_run};
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, AttentionValues, Slice};
use crate::weights::Weights;

/// Query rows per task: tokens times heads of a group.
const QUERY_ROWS: usize = 32;

/// Products of a score that are summed one after the other: rounding errors of longer sums would show in the exponents.
const SUMMED: usize = 64;

/// Stands for "no score yet". Finite, so that differences are defined.
pub(super) const LOWEST: f32 = -1e30;

pub(super) struct Attention {
    op: op::Attention,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    /// Of the elements of a key that are its value; empty for none.
    latent_norm: Vec<f32>,
    latent_eps: f32,
}

impl Attention {
    pub(super) fn new(op: &op::Attention, weights: &Weights) -> Result<Self, Error> {
        let norm = |norm: Option<&kinglet_models::Norm>| match norm {
            Some(norm) => weights.norm_weight(norm),
            None => Ok(Vec::new()),
        };
        let latent = match &op.values {
            AttentionValues::Own(_) => None,
            AttentionValues::Latent { norm, .. } => norm.as_ref(),
        };
        Ok(Self {
            q_norm: norm(op.qk_norm.as_ref().map(|qk| &qk.q))?,
            k_norm: norm(op.qk_norm.as_ref().map(|qk| &qk.k))?,
            latent_norm: latent.map_or(Ok(Vec::new()), |latent| norm(Some(latent)))?,
            latent_eps: latent.map_or(0.0, |norm| norm.eps),
            op: op.clone(),
        })
    }
}

impl CpuOp for Attention {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (heads, kv_heads, dim) = (op.heads, op.kv_heads, op.head_dim);
        let (tokens, width, group) = (step.tokens.len(), heads * dim, heads / kv_heads);
        let value_dim = op.value_dim();
        let mut positions = Vec::with_capacity(tokens);
        for run in step.runs.iter_mut() {
            let position = run.state.position;
            run.state.cache(op.cache).reserve(position, run.len)?;
            positions.extend(position..position + run.len);
        }
        let table = op.rope.as_ref().map(|rope| Rotation::new(rope, &positions));
        let mut output = step.buffers.take(op.output);
        let buffers = &*step.buffers;
        let heads_of = |slice: Slice| buffers.slice(slice);
        let ready = Ready {
            attention: self,
            isa: step.isa,
            queries: heads_of(op.queries),
            keys: heads_of(op.keys),
            values: match op.values {
                AttentionValues::Own(values) => Some(heads_of(values)),
                AttentionValues::Latent { .. } => None,
            },
            table: table.as_ref(),
        };

        // Queries, `[kv_heads, T, group, dim]`: the rows of a task are adjacent.
        let mut queries = step.scratch.take(tokens * width)?;
        let split = chunks(&mut queries[..tokens * width], tokens * group * dim);
        step.team.for_each(kv_heads, split, |kv, out| ready.queries(kv, out));
        let queries_used = &queries[..tokens * width];

        let spans: Vec<_> = step.runs.iter().map(|run| (run.start, run.len)).collect();
        let caches: Vec<_> = step
            .runs
            .iter_mut()
            .map(|run| chunks(&mut run.state.cache(op.cache).heads, 1))
            .collect();
        let split = per_run(caches, kv_heads);
        let locals = step.locals.get(dim)?;
        step.team.for_each_with(locals, spans.len() * kv_heads, split, |local, task, cache| {
            let (start, len) = spans[task / kv_heads];
            if let [cache] = cache {
                ready.keys(task % kv_heads, start..start + len, &positions, cache, local);
            }
        });

        // Tasks: runs by key/value heads by query blocks by shares of the pages.
        let block = (QUERY_ROWS / group).max(1);
        let blocks = |len: usize| len.div_ceil(block);
        let pieces: usize = spans.iter().map(|(_, len)| blocks(*len) * kv_heads).sum();
        let shares = (4 * step.team.threads()).div_ceil(pieces.max(1));
        let mut tasks = Vec::with_capacity(pieces * shares);
        for (run, &(start, len)) in spans.iter().enumerate() {
            for kv in 0..kv_heads {
                for first in (0..len).step_by(block) {
                    let (from, to) = (start + first, start + len.min(first + block));
                    let oldest = op.span().oldest(positions[from]);
                    // Pages of sinks come first, then those from `oldest` on.
                    let sinks = op.sinks.div_ceil(PAGE).min(oldest / PAGE);
                    let skipped = oldest / PAGE - sinks;
                    let (first_page, end_page) = (0, positions[to - 1] / PAGE + 1 - skipped);
                    let shares = shares.min(end_page - first_page);
                    for share in 0..shares {
                        let at =
                            |share: usize| first_page + (end_page - first_page) * share / shares;
                        let pages = at(share)..at(share + 1);
                        tasks.push(Task { run, kv, from, to, pages, sinks, skipped, shares });
                    }
                }
            }
        }
        // A part: for each query row the weighted values, the largest score, the sum of weights.
        let row = value_dim + 2;
        let part = block * group * row;
        let mut parts = step.scratch.take(tasks.len() * part)?;
        let (format, shape) = step.runs.first_mut().map_or_else(Default::default, |run| {
            let cache = run.state.cache(op.cache);
            (cache.format(), cache.shape())
        });
        let scratch = Page::scratch(format, shape, value_dim);
        let locals = step.locals.get(block * group * PAGE + scratch)?;
        let caches: Vec<_> =
            step.runs.iter_mut().map(|run| &*run.state.cache(op.cache).heads).collect();
        let split = chunks(&mut parts[..tasks.len() * part], part);
        step.team.for_each_with(locals, tasks.len(), split, |local, index, out| {
            let task = &tasks[index];
            let queries = &queries_used[(task.kv * tokens + task.from) * group * dim..];
            let cache = (&caches[task.run][task.kv], shape);
            let (unpacked, scores) = local.split_at_mut(scratch);
            self.attend(ready.isa, task, queries, &positions, cache, (scores, unpacked), out);
        });

        // Combine the shares of each block.
        let out = output.data();
        let mut index = 0;
        while let Some(task) = tasks.get(index) {
            let shares = &parts[index * part..(index + task.shares) * part];
            for i in 0..(task.to - task.from) * group {
                let (token, head) = (task.from + i / group, task.kv * group + i % group);
                let out = &mut out[(token * heads + head) * value_dim..][..value_dim];
                combine(shares.chunks(part).map(|share| &share[i * row..][..row]), out);
            }
            index += task.shares;
        }
        step.buffers.put(output);
        step.scratch.give(queries);
        step.scratch.give(parts);
        Ok(())
    }
}

/// Some query rows of one key/value head over some pages.
struct Task {
    run: usize,
    kv: usize,
    /// Tokens `from..to` of the step.
    from: usize,
    to: usize,
    /// Indices among the pages of sinks and those after the `skipped` ones.
    pages: std::ops::Range<usize>,
    /// Number of pages of sinks, and number of pages after them that nothing attends to.
    sinks: usize,
    skipped: usize,
    /// Number of tasks that share these queries' pages.
    shares: usize,
}

/// `out = sum of e^(m - max) acc / sum of e^(m - max) l` over the shares `[acc, m, l]`.
fn combine<'a>(shares: impl Iterator<Item = &'a [f32]> + Clone, out: &mut [f32]) {
    let dim = out.len();
    let largest = shares.clone().map(|share| share[dim]).fold(LOWEST, f32::max);
    let mut total = 0.0;
    out.fill(0.0);
    for share in shares {
        let factor = (share[dim] - largest).exp();
        total += factor * share[dim + 1];
        out.iter_mut().zip(share).for_each(|(o, a)| *o += factor * a);
    }
    out.iter_mut().for_each(|o| *o /= total);
}

impl Attention {
    /// Attends with a task's query rows to its pages. `out` is `[rows, value_dim + 2]`: weighted values,
    /// largest score, sum of weights.
    #[allow(clippy::too_many_arguments)]
    fn attend(
        &self,
        isa: Isa,
        task: &Task,
        queries: &[f32],
        positions: &[usize],
        (cache, shape): (&HeadCache, PageShape),
        (scores, unpacked): (&mut [f32], &mut [f32]),
        out: &mut [f32],
    ) {
        let (dim, group) = (self.op.head_dim, self.op.heads / self.op.kv_heads);
        let value_dim = self.op.value_dim();
        let rows = (task.to - task.from) * group;
        let row = value_dim + 2;
        for out in out.chunks_mut(row).take(rows) {
            out.fill(0.0);
            out[value_dim] = LOWEST;
        }
        for page in task.pages.clone() {
            let page = if page < task.sinks { page } else { page + task.skipped };
            let (keys, values) = cache.page(page).unpacked(isa, shape, value_dim, unpacked);
            for first in (0..dim).step_by(SUMMED) {
                isa.dispatch(Gemm {
                    m: rows,
                    n: PAGE,
                    k: SUMMED.min(dim - first),
                    a: &queries[first..],
                    a_row: dim,
                    a_col: 1,
                    b: &keys[first * PAGE..],
                    b_row: PAGE,
                    c: &mut *scores,
                    c_row: PAGE,
                    accumulate: first > 0,
                });
            }
            for i in 0..rows {
                let position = positions[task.from + i / group];
                // The number of slots in the page that lie before a position.
                let before = |end: usize| end.saturating_sub(page * PAGE).min(PAGE);
                let (mut first, mut end) =
                    (before(self.op.span().oldest(position)), before(position + 1));
                let sinks = before(self.op.sinks.min(position + 1));
                let (scores, out) = (&mut scores[i * PAGE..][..PAGE], &mut out[i * row..][..row]);
                if sinks > 0 {
                    // Positions between sinks and window get no weight.
                    if sinks < first {
                        scores[sinks..first].fill(LOWEST);
                    }
                    (first, end) = (0, if first < end { end.max(sinks) } else { sinks });
                }
                isa.dispatch(SoftmaxRow { scores, first, end: end.max(first), out });
            }
            isa.dispatch(Gemm {
                m: rows,
                n: value_dim,
                k: PAGE,
                a: scores,
                a_row: PAGE,
                a_col: 1,
                b: values,
                b_row: value_dim,
                c: &mut *out,
                c_row: row,
                accumulate: true,
            });
        }
    }
}

/// Turns a page's scores into weights relative to the largest score so far, and rescales the
/// earlier sums to it.
pub(super) struct SoftmaxRow<'a> {
    pub scores: &'a mut [f32],
    /// Of these, the first that counts, and the one after the last.
    pub first: usize,
    pub end: usize,
    /// `[acc.., m, l]`.
    pub out: &'a mut [f32],
}

impl Kernel for SoftmaxRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scores, first, end, out } = self;
        scores[..first].fill(0.0);
        scores[end..].fill(0.0);
        let visible = &mut scores[first..end];
        if visible.is_empty() {
            return;
        }
        let dim = out.len() - 2;
        let (acc, stats) = out.split_at_mut(dim);
        let before = stats[0];
        let (blocks, rest) = S::blocks(visible);
        let mut most = s.splat(before);
        for block in blocks {
            most = s.max(most, s.load(block));
        }
        let largest = rest.iter().copied().fold(s.max_lane(most), f32::max);
        let shift = s.splat(largest);
        let mut sum = s.zero();
        let (blocks, rest) = S::blocks_mut(visible);
        for block in blocks {
            let weight = math::exp(s, s.sub(s.load(block), shift));
            sum = s.add(sum, weight);
            s.store(weight, block);
        }
        let mut total = s.sum(sum);
        for score in rest {
            *score = (*score - largest).exp();
            total += *score;
        }
        if largest > before {
            let factor = (before - largest).exp();
            stats[1] *= factor;
            let factor = s.splat(factor);
            for start in (0..dim).step_by(S::LANES) {
                let end = (start + S::LANES).min(dim);
                let scaled = s.mul(load(s, &acc[start..end]), factor);
                store(s, scaled, &mut acc[start..end]);
            }
        }
        stats[0] = largest;
        stats[1] += total;
    }
}

/// Prepares queries and keys: norm, clip, rotation.
struct Ready<'a> {
    attention: &'a Attention,
    isa: Isa,
    /// Each from its first element on, with the distance between tokens.
    queries: (&'a [f32], usize),
    keys: (&'a [f32], usize),
    /// `None` where values are elements of the keys.
    values: Option<(&'a [f32], usize)>,
    table: Option<&'a Rotation>,
}

impl Ready<'_> {
    /// The queries of key/value head `kv`, scaled, `[T, group, dim]`.
    fn queries(&self, kv: usize, out: &mut [f32]) {
        let op = &self.attention.op;
        let (dim, group) = (op.head_dim, op.heads / op.kv_heads);
        for (i, out) in out.chunks_mut(dim).enumerate() {
            let (token, head) = (i / group, kv * group + i % group);
            let norms = [&*self.attention.q_norm, &[]];
            self.one(token, head, (self.queries, op.heads), norms, out);
            self.rotate(token, out);
            out.iter_mut().for_each(|x| *x *= op.scale);
        }
    }

    /// Writes keys and values of head `kv` of tokens `tokens` to the cache.
    fn keys(
        &self,
        kv: usize,
        tokens: std::ops::Range<usize>,
        positions: &[usize],
        cache: &mut HeadCache,
        local: &mut [f32],
    ) {
        let op = &self.attention.op;
        let (dim, key) = (op.value_dim(), &mut local[..op.head_dim]);
        let mut clipped = Vec::new();
        let norms = [&*self.attention.k_norm, &*self.attention.latent_norm];
        for token in tokens {
            self.one(token, kv, (self.keys, op.kv_heads), norms, key);
            self.rotate(token, key);
            let mut value = match self.values {
                Some((values, stride)) => &values[token * stride + kv * dim..][..dim],
                None => &[],
            };
            if let Some(clip) = op.clip {
                clipped.clear();
                clipped.extend(value.iter().map(|x| x.clamp(-clip, clip)));
                value = &clipped;
            }
            cache.write(positions[token], key, value);
        }
    }

    /// Norms and clips head `head` of `count` queries or keys. `front` are the weights of a norm of its first elements alone.
    fn one(
        &self,
        token: usize,
        head: usize,
        ((all, stride), count): ((&[f32], usize), usize),
        [weight, front]: [&[f32]; 2],
        out: &mut [f32],
    ) {
        let op = &self.attention.op;
        let dim = op.head_dim;
        let row = &all[token * stride..];
        let x = &row[head * dim..][..dim];
        match &op.qk_norm {
            None => out.copy_from_slice(x),
            Some(qk) if qk.per_head => {
                self.isa.dispatch(RmsNorm { x, weight, bias: &[], eps: qk.q.eps, out });
            }
            Some(qk) => {
                let squares = self.isa.dispatch(SumOfSquares(&row[..count * dim]));
                let scale = 1.0 / (squares / (count * dim) as f32 + qk.q.eps).sqrt();
                let weight = &weight[head * dim..][..dim];
                for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *o = x * scale * w;
                }
            }
        }
        if !front.is_empty() {
            let (x, out) = (&x[..front.len()], &mut out[..front.len()]);
            let eps = self.attention.latent_eps;
            self.isa.dispatch(RmsNorm { x, weight: front, bias: &[], eps, out });
        }
        if let Some(clip) = op.clip {
            out.iter_mut().for_each(|x| *x = x.clamp(-clip, clip));
        }
    }

    fn rotate(&self, token: usize, head: &mut [f32]) {
        if let Some(table) = self.table {
            table.apply(token, &mut head[self.attention.op.rope_start..]);
        }
    }
}

/// Cosines and sines of the positions of a step.
pub(super) struct Rotation {
    /// `[T, pairs]` of (cos, sin).
    table: Vec<(f32, f32)>,
    pairs: usize,
    interleaved: bool,
}

impl Rotation {
    /// Cosines and sines are exact to f32.
    pub(super) fn new(rope: &Rope, positions: &[usize]) -> Self {
        let factor = f64::from(rope.attention_factor);
        let turn = |angle: f64| {
            let (sin, cos) = angle.sin_cos();
            ((cos * factor) as f32, (sin * factor) as f32)
        };
        let mut table = Vec::with_capacity(positions.len() * rope.inv_freq.len());
        for &position in positions {
            table.extend(rope.angles_at(position).into_iter().map(turn));
        }
        Self { table, pairs: rope.inv_freq.len(), interleaved: rope.interleaved }
    }

    /// Rotates the first `2 * pairs` elements of a head.
    pub(super) fn apply(&self, token: usize, head: &mut [f32]) {
        let angles = &self.table[token * self.pairs..][..self.pairs];
        let turn = |a: &mut f32, b: &mut f32, (cos, sin): &(f32, f32)| {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        };
        if self.interleaved {
            for (pair, angle) in head.chunks_exact_mut(2).zip(angles) {
                if let [a, b] = pair {
                    turn(a, b, angle);
                }
            }
        } else {
            let (first, rest) = head.split_at_mut(self.pairs);
            for ((a, b), angle) in first.iter_mut().zip(rest).zip(angles) {
                turn(a, b, angle);
            }
        }
    }
}
