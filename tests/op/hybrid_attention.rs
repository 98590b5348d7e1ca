//! `hybrid_attention`: softmax over the keys of the position's tier, and a linear memory of those that left the window.

use kinglet::models::Tiers;
use kinglet::op::{HybridAttention, HybridLayout, Op, Slice};
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

/// Every tier within 130 tokens.
const SHORT: Tiers = Tiers {
    window: 5,
    full_until: 11,
    dilated_until: 47,
    linear_until: 66,
    levels: 3,
    global_first: 2,
    global_top: 3,
    hierarchy_block: 3,
    hierarchy_levels: 3,
    hierarchy_width: 2,
};

/// The size of scores: the larger they are, the fewer are equal when they are rounded.
#[derive(Clone, Copy, Debug)]
enum Scores {
    Absent,
    Sized(f64),
}

fn check(shape: Shape, tiers: Tiers, scores: Scores, lengths: &[usize]) {
    check_from(0, shape, tiers, scores, lengths);
}

/// Checks sessions that begin at `position`.
fn check_from(position: usize, shape: Shape, tiers: Tiers, scores: Scores, lengths: &[usize]) {
    let Shape { heads, kv_heads, dim } = shape;
    let name = format!("hybrid_attention {shape:?} {tiers:?} {scores:?}");
    let mut rig = Rig::new(name, Stored::F32, lengths).bound(2.0).starting_at(position);
    let tiers = match scores {
        Scores::Absent => Tiers { global_top: 0, ..tiers },
        Scores::Sized(_) => tiers,
    };
    // Queries and keys in one buffer, values and scores in another, each with other columns around.
    let (queries, keys) = (heads * dim, kv_heads * dim);
    let input = rig.input(queries + keys + 3, Random::normal);
    let mut column = 0;
    let width = 2 + keys + kv_heads;
    let others = rig.input(width, |random| {
        column += 1;
        let size = match scores {
            Scores::Sized(size) if (column - 1) % width >= 2 + keys => size,
            Scores::Sized(_) | Scores::Absent => 1.0,
        };
        size * random.normal()
    });
    let slice = |buffer, offset, width| Slice { buffer, offset, width };
    let state = rig.state(&[kv_heads, HybridLayout::new(&tiers, dim).head_state()]);
    let linear_gate = rig.tensor(&[heads], Random::normal);
    let output = rig.buffer("y", queries);
    rig.op(Op::HybridAttention(HybridAttention {
        queries: slice(input.buffer, 1, queries),
        keys: slice(input.buffer, queries + 2, keys),
        values: slice(others.buffer, 1, keys),
        scores: match scores {
            Scores::Absent => None,
            Scores::Sized(_) => Some(slice(others.buffer, 2 + keys, kv_heads)),
        },
        heads,
        kv_heads,
        head_dim: dim,
        scale: (dim as f32).powf(-0.5),
        tiers,
        linear_gate,
        eps: 1e-6,
        state,
        output,
    }));
    rig.check(output);
}

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
        check(shape, SHORT, Scores::Sized(0.3), SEQUENCES[turn]);
        check(shape, SHORT, Scores::Sized(0.3), &[130]);
    }
}

#[test]
fn few_tokens() {
    for lengths in FEW {
        check(shape(4, 2, 7), SHORT, Scores::Sized(0.3), lengths);
    }
    check(shape(4, 2, 7), SHORT, Scores::Sized(0.3), &[70, 3, 20, 1, 90]);
}

#[test]
fn scores_that_are_equal_and_absent_ones() {
    for scores in [Scores::Absent, Scores::Sized(0.0), Scores::Sized(1e-3), Scores::Sized(2.0)] {
        for lengths in [&[100][..], &[150, 33]] {
            check(shape(4, 2, 6), SHORT, scores, lengths);
        }
    }
}

/// Tiers that begin and end elsewhere, or are empty.
#[test]
fn every_order_of_tiers() {
    let tiers = [
        // The last one from the first token on.
        Tiers { window: 1, full_until: 1, dilated_until: 1, linear_until: 1, ..SHORT },
        Tiers { window: 8, full_until: 8, dilated_until: 8, linear_until: 8, ..SHORT },
        // None but the first.
        Tiers { full_until: 500, dilated_until: 500, linear_until: 500, ..SHORT },
        // Dilated keys up to the end; more levels than there are distances.
        Tiers { full_until: 5, dilated_until: 500, linear_until: 500, levels: 9, ..SHORT },
        Tiers { window: 4, full_until: 4, dilated_until: 90, linear_until: 90, levels: 3, ..SHORT },
        // Rings that hold several windows.
        Tiers {
            window: 3,
            full_until: 29,
            dilated_until: 60,
            linear_until: 80,
            levels: 4,
            ..SHORT
        },
        Tiers { full_until: 5, dilated_until: 5, linear_until: 60, ..SHORT },
        Tiers { window: 64, full_until: 64, dilated_until: 100, linear_until: 110, ..SHORT },
        Tiers { window: 20, full_until: 33, dilated_until: 33, linear_until: 33, ..SHORT },
    ];
    for tiers in tiers {
        for lengths in [&[130][..], &[65, 9, 150]] {
            check(shape(4, 2, 5), tiers, Scores::Sized(0.2), lengths);
        }
    }
}

#[test]
fn every_size_of_the_global_keys_and_the_hierarchy() {
    let tiers = [
        Tiers { global_first: 0, global_top: 0, hierarchy_levels: 0, ..SHORT },
        Tiers { global_first: 40, global_top: 1, hierarchy_width: 0, ..SHORT },
        Tiers { global_top: 70, hierarchy_block: 1, ..SHORT },
        Tiers { global_top: 200, hierarchy_width: 1, ..SHORT },
        Tiers { hierarchy_block: 1, hierarchy_levels: 6, hierarchy_width: 5, ..SHORT },
        Tiers { hierarchy_block: 40, hierarchy_levels: 2, hierarchy_width: 3, ..SHORT },
        Tiers { levels: 0, hierarchy_block: 7, hierarchy_levels: 1, ..SHORT },
    ];
    for tiers in tiers {
        for lengths in [&[130][..], &[200, 66]] {
            check(shape(3, 1, 6), tiers, Scores::Sized(0.2), lengths);
        }
    }
}

/// Runs that begin and end at each border of a tier.
#[test]
fn every_length_around_the_borders() {
    for length in [4, 5, 6, 10, 11, 12, 46, 47, 48, 65, 66, 67, 71, 83] {
        check(shape(2, 1, 4), SHORT, Scores::Sized(0.2), &[length]);
    }
}

/// A sequence that begins at a large position is one that begins at 0, as long as it is in the last tier from the first key that leaves the
/// window on, and blocks of all levels begin where it does.
#[test]
fn positions_up_to_four_billion_are_exact() {
    let last = |window| Tiers {
        window,
        full_until: window,
        dilated_until: window,
        linear_until: window,
        global_first: 0,
        global_top: 5,
        hierarchy_block: 4,
        ..SHORT
    };
    for position in [100_000_000, (1 << 24) + 16, 4_294_960_000] {
        for lengths in [&[100][..], &[150, 33]] {
            check_from(position, shape(4, 2, 6), last(7), Scores::Sized(0.1), lengths);
        }
    }
}
