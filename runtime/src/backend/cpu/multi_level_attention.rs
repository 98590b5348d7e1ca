//! `multi_level_attention` on the CPU, each query of a key/value head by itself: the logits of all positions that some level sees, from them
//! the weights of all levels, then the values. The logit of a block's mean is the mean of the logits, so the cache holds positions alone.

use super::CpuOp;
use super::kernel::gemm::Gemm;
use super::kv::HeadCache;
use super::kv_page::{PAGE, Page, PageShape};
use super::simd::{Isa, Kernel, Simd, math};
use super::split::{chunks, per_run};
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, Slice};
use crate::weights::Weights;

pub(super) struct MultiLevelAttention {
    op: op::MultiLevelAttention,
    /// How much each level counts, `[heads, levels]`.
    shares: Vec<f32>,
}

impl MultiLevelAttention {
    pub(super) fn new(op: &op::MultiLevelAttention, weights: &Weights) -> Result<Self, Error> {
        let mut shares = weights.vector(&op.level_logits)?;
        for shares in shares.chunks_mut(op.windows.len().max(1)) {
            let largest = shares.iter().copied().fold(f32::MIN, f32::max);
            shares.iter_mut().for_each(|share| *share = (*share - largest).exp());
            let total: f32 = shares.iter().sum();
            shares.iter_mut().for_each(|share| *share /= total);
        }
        Ok(Self { shares, op: op.clone() })
    }

    /// The first position that the query at `t` sees at a level: that of a block.
    fn first_seen(&self, level: usize, t: usize) -> usize {
        let outside = self.op.windows[level].map_or(0, |window| (t + 1).saturating_sub(window));
        outside - outside % block_size(level)
    }

    /// The first page that the query at `t` reads.
    fn first_page(&self, t: usize) -> usize {
        let levels = 0..self.op.windows.len();
        levels.map(|level| self.first_seen(level, t)).min().unwrap_or(0) / PAGE
    }
}

/// Positions of a block of a level.
fn block_size(level: usize) -> usize {
    1usize.checked_shl(level as u32).unwrap_or(usize::MAX)
}

impl CpuOp for MultiLevelAttention {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (isa, kv_heads, dim, group) =
            (step.isa, op.kv_heads, op.head_dim, op.heads / op.kv_heads.max(1));
        let mut positions = Vec::with_capacity(step.tokens.len());
        let mut spans = Vec::with_capacity(step.runs.len());
        for (index, run) in step.runs.iter_mut().enumerate() {
            let position = run.state.position;
            run.state.cache(op.cache).reserve(position, run.len)?;
            spans.push((run.start, run.len, position));
            positions.extend((position..position + run.len).map(|t| (index, t)));
        }
        let mut output = step.buffers.take(op.output);
        let buffers = &*step.buffers;
        let head_of = |slice: Slice, row: usize, column: usize| {
            let (data, stride) = buffers.slice(slice);
            &data[row * stride + column..]
        };

        let caches = step.runs.iter_mut();
        let caches = caches.map(|run| chunks(&mut run.state.cache(op.cache).heads, 1)).collect();
        let split = per_run(caches, kv_heads);
        step.team.for_each(spans.len() * kv_heads, split, |task, cache| {
            let ((row, len, position), kv) = (spans[task / kv_heads], task % kv_heads);
            for cache in cache {
                for i in 0..len {
                    let key = &head_of(op.keys, row + i, kv * dim)[..dim];
                    let value = &head_of(op.values, row + i, kv * dim)[..dim];
                    cache.write(position + i, key, value);
                }
            }
        });

        let (format, shape) = step.runs.first_mut().map_or_else(Default::default, |run| {
            let cache = run.state.cache(op.cache);
            (cache.format(), cache.shape())
        });
        let pages = positions.iter().map(|&(_, t)| t / PAGE + 1 - self.first_page(t)).max();
        let most = pages.unwrap_or(0) * PAGE;
        let scratch = Page::scratch(format, shape, dim);
        let locals = step.locals.get(scratch + group * dim + (2 * group + 1) * most)?;
        let caches: Vec<_> =
            step.runs.iter_mut().map(|run| &*run.state.cache(op.cache).heads).collect();
        let split = chunks(output.data(), group * dim);
        step.team.for_each_with(locals, positions.len() * kv_heads, split, |local, task, out| {
            let (row, kv) = (task / kv_heads, task % kv_heads);
            let (run, t) = positions[row];
            let (unpacked, local) = local.split_at_mut(scratch);
            let (queries, local) = local.split_at_mut(group * dim);
            let input = &head_of(op.queries, row, kv * group * dim)[..group * dim];
            queries.iter_mut().zip(input).for_each(|(q, x)| *q = op.scale * x);
            let query = Query { layer: self, isa, kv, t, cache: &caches[run][kv], shape };
            query.run(queries, unpacked, local, out);
        });
        step.buffers.put(output);
        Ok(())
    }
}

/// A token's queries of a key/value head.
struct Query<'a> {
    layer: &'a MultiLevelAttention,
    isa: Isa,
    kv: usize,
    /// Its position.
    t: usize,
    cache: &'a HeadCache,
    shape: PageShape,
}

impl Query<'_> {
    /// `queries` are scaled, `[group, head_dim]`, as is `out`.
    fn run(&self, queries: &[f32], unpacked: &mut [f32], local: &mut [f32], out: &mut [f32]) {
        let (dim, levels) = (self.layer.op.head_dim, self.layer.op.windows.len());
        let group = queries.len() / dim.max(1);
        let first = self.layer.first_page(self.t);
        let pages = first..self.t / PAGE + 1;
        let width = pages.len() * PAGE;
        let (logits, local) = local.split_at_mut(group * width);
        let (weights, means) = local.split_at_mut(group * width);
        for page in pages.clone() {
            let (keys, _) = self.cache.page(page).unpacked(self.isa, self.shape, dim, unpacked);
            self.isa.dispatch(Gemm {
                m: group,
                n: PAGE,
                k: dim,
                a: queries,
                a_row: dim,
                a_col: 1,
                b: keys,
                b_row: PAGE,
                c: &mut logits[(page - first) * PAGE..],
                c_row: width,
                accumulate: false,
            });
        }
        weights[..group * width].fill(0.0);
        // Logits and weights are those of positions from here to `t`.
        let (start, count) = (first * PAGE, self.t + 1 - first * PAGE);
        for h in 0..group {
            let (logits, weights) = (&logits[h * width..], &mut weights[h * width..][..count]);
            let shares = &self.layer.shares[(self.kv * group + h) * levels..][..levels];
            for (level, &share) in shares.iter().enumerate() {
                let (from, size) =
                    (self.layer.first_seen(level, self.t) - start, block_size(level));
                let mut blocks = 0;
                for (mean, block) in means.iter_mut().zip(logits[from..count].chunks(size)) {
                    *mean = block.iter().sum::<f32>() / block.len() as f32;
                    blocks += 1;
                }
                let total = self.isa.dispatch(Exponentials(&mut means[..blocks]));
                for (mean, block) in means.iter().zip(weights[from..].chunks_mut(size)) {
                    let weight = share * (mean / total) / block.len() as f32;
                    block.iter_mut().for_each(|w| *w += weight);
                }
            }
        }
        for page in pages {
            let (_, values) = self.cache.page(page).unpacked(self.isa, self.shape, dim, unpacked);
            let at = (page - first) * PAGE;
            self.isa.dispatch(Gemm {
                m: group,
                n: dim,
                k: PAGE.min(count - at),
                a: &weights[at..],
                a_row: width,
                a_col: 1,
                b: values,
                b_row: dim,
                c: &mut *out,
                c_row: dim,
                accumulate: page > first,
            });
        }
    }
}

/// Replaces numbers by `e^(x - largest)`; the sum of these.
struct Exponentials<'a>(&'a mut [f32]);

impl Kernel for Exponentials<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (blocks, rest) = S::blocks_mut(self.0);
        let mut most = s.splat(f32::MIN);
        for block in blocks.iter() {
            most = s.max(most, s.load(block));
        }
        let largest = rest.iter().copied().fold(s.max_lane(most), f32::max);
        let shift = s.splat(largest);
        let mut sum = s.zero();
        for block in blocks {
            let weight = math::exp(s, s.sub(s.load(block), shift));
            sum = s.add(sum, weight);
            s.store(weight, block);
        }
        let mut total = s.sum(sum);
        for x in rest {
            *x = (*x - largest).exp();
            total += *x;
        }
        total
    }
}
