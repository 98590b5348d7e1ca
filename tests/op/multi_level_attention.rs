//! `multi_level_attention`: softmax attention over means of aligned blocks of `2^l` positions, mixed over the levels.

use kinglet::op::{AttentionSpan, MultiLevelAttention, Op, Slice, multi_level_window};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{FEW, SEQUENCES};

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

const fn shape(heads: usize, kv_heads: usize, dim: usize) -> Shape {
    Shape { heads, kv_heads, dim }
}

fn check(shape: Shape, windows: &[Option<usize>], lengths: &[usize]) {
    let Shape { heads, kv_heads, dim } = shape;
    let name = format!("multi_level_attention {shape:?} {windows:?}");
    let mut rig = Rig::new(name, Stored::F32, lengths).bound(2.0);
    let (queries, keys) = (heads * dim, kv_heads * dim);
    let input = rig.input(queries + keys + 3, Random::normal);
    let others = rig.input(2 + keys, Random::normal);
    let slice = |buffer, offset, width| Slice { buffer, offset, width };
    let level_logits = rig.tensor(&[heads, windows.len()], Random::normal);
    let output = rig.buffer("y", queries);
    let span = AttentionSpan { window: multi_level_window(windows), sinks: 0 };
    let cache = rig.cache(kv_heads, [dim; 2], span);
    rig.op(Op::MultiLevelAttention(MultiLevelAttention {
        queries: slice(input.buffer, 1, queries),
        keys: slice(input.buffer, queries + 2, keys),
        values: slice(others.buffer, 1, keys),
        heads,
        kv_heads,
        head_dim: dim,
        scale: (dim as f32).powf(-0.5),
        windows: windows.to_vec(),
        level_logits,
        cache,
        output,
    }));
    rig.check(output);
}

const ALL: [Option<usize>; 3] = [None; 3];

#[test]
fn every_shape_of_heads() {
    let shapes = [
        shape(1, 1, 1),
        shape(2, 1, 3),
        shape(3, 3, 5),
        shape(4, 2, 16),
        shape(6, 2, 17),
        shape(9, 1, 8),
        shape(12, 4, 33),
        shape(2, 2, 64),
        shape(2, 1, 130),
    ];
    for (turn, shape) in shapes.into_iter().enumerate() {
        check(shape, &ALL, SEQUENCES[turn]);
        check(shape, &ALL, SEQUENCES[(turn + 4) % SEQUENCES.len()]);
    }
}

#[test]
fn few_tokens() {
    for lengths in FEW {
        check(shape(4, 2, 7), &ALL, lengths);
    }
}

#[test]
fn every_number_of_levels() {
    for levels in 1..=8 {
        check(shape(4, 2, 6), &vec![None; levels], &[150, 33]);
    }
}

#[test]
fn with_windows() {
    let windows: [&[Option<usize>]; 7] = [
        &[Some(1)],
        &[Some(3), Some(7), Some(20)],
        &[None, Some(5), Some(1)],
        &[Some(64), Some(128), Some(100)],
        &[Some(1), Some(1), Some(1), Some(1), Some(1)],
        &[Some(500), Some(2), None],
        &[Some(70), Some(3)],
    ];
    for windows in windows {
        for lengths in [&[130][..], &[200, 9, 66]] {
            check(shape(4, 2, 5), windows, lengths);
        }
    }
}
