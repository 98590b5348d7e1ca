//! `kernel_attention`: with `phi(x) = elu(x) + 1`, for each key/value head `S = S + phi(k) v^T`, `z = z + phi(k)`, and for each of its query
//! heads `y = S^T phi(q) / (z . phi(q) + eps)`.

use kinglet::backend::{BackendRun, Logits, PortableState};
use kinglet::op::{Head, KernelAttention, Op, Slice};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::target::targets;
use kinglet_tests::tensors::Stored;

use crate::{FEW, SEQUENCES};

#[derive(Clone, Copy, Debug)]
struct Shape {
    kv_heads: usize,
    /// Query heads of each.
    group: usize,
    key_dim: usize,
    value_dim: usize,
}

const fn shape(kv_heads: usize, group: usize, key_dim: usize, value_dim: usize) -> Shape {
    Shape { kv_heads, group, key_dim, value_dim }
}

/// Distribution of the queries and keys before `phi`.
type Spread = (f64, f64);

fn check(shape: Shape, (mean, spread): Spread, apart: bool, lengths: &[usize]) {
    let Shape { kv_heads, group, key_dim, value_dim } = shape;
    let name = format!("kernel_attention {shape:?} {mean} {spread} apart {apart}");
    let mut rig = Rig::new(name, Stored::F32, lengths).bound(2.0);
    let (queries, keys, values) =
        (kv_heads * group * key_dim, kv_heads * key_dim, kv_heads * value_dim);
    // Queries, keys and values with gaps, values in a buffer of their own if `apart`.
    let mut draw = |random: &mut Random| mean + spread * random.normal();
    let input = rig.input(1 + queries + 2 + keys + 3, &mut draw);
    let own = rig.input(2 + values + 1, Random::normal);
    let whole = rig.input(1 + queries + 2 + keys + values, &mut draw);
    let slice = |buffer, offset, width| Slice { buffer, offset, width };
    let buffer = if apart { input.buffer } else { whole.buffer };
    let last = 3 + queries + keys;
    let state = rig.state(&[kv_heads, 2 * key_dim * (value_dim + 1)]);
    let output = rig.buffer("y", kv_heads * group * value_dim);
    rig.op(Op::KernelAttention(KernelAttention {
        queries: slice(buffer, 1, queries),
        keys: slice(buffer, 3 + queries, keys),
        values: if apart { slice(own.buffer, 2, values) } else { slice(buffer, last, values) },
        heads: kv_heads * group,
        kv_heads,
        head_dim: key_dim,
        eps: 1e-6,
        state,
        output,
    }));
    rig.check(output);
}

const USUAL: Spread = (0.0, 1.0);

const SHAPES: [Shape; 10] = [
    shape(1, 1, 1, 1),
    shape(2, 1, 3, 5),
    shape(3, 2, 7, 4),
    shape(1, 4, 16, 16),
    shape(2, 3, 33, 17),
    shape(2, 1, 64, 64),
    shape(1, 2, 130, 80),
    shape(4, 5, 20, 8),
    shape(1, 64, 3, 2),
    shape(5, 1, 9, 65),
];

#[test]
fn every_shape() {
    let mut turn = 0;
    for shape in SHAPES {
        for apart in [false, true] {
            check(shape, USUAL, apart, SEQUENCES[turn % SEQUENCES.len()]);
            check(shape, USUAL, apart, SEQUENCES[(turn + 4) % SEQUENCES.len()]);
            turn += 1;
        }
    }
}

#[test]
fn few_tokens() {
    for shape in [shape(2, 3, 33, 17), shape(4, 1, 70, 16)] {
        for lengths in FEW {
            check(shape, USUAL, true, lengths);
        }
    }
}

#[test]
fn shapes_of_real_models_and_beyond_a_pass() {
    for shape in [shape(1, 2, 128, 128), shape(1, 3, 300, 20), shape(1, 1, 520, 7)] {
        for lengths in [&[4][..], &[1, 3], &[70]] {
            check(shape, USUAL, true, lengths);
        }
    }
}

#[test]
fn every_length_around_a_chunk() {
    for length in [2, 7, 10, 63, 66, 127, 128, 129, 193] {
        check(shape(2, 2, 11, 9), USUAL, true, &[length]);
    }
}

/// Where all weights are tiny the epsilon counts; where `phi` is `x + 1` nothing is exponential.
#[test]
fn features_far_out() {
    for spread in [(-9.0, 2.0), (30.0, 5.0), (0.0, 20.0), (0.0, 1e-3)] {
        for lengths in [&[5][..], &[64], &[130], &[9, 70]] {
            check(shape(2, 2, 10, 12), spread, true, lengths);
        }
    }
}

/// In plain f32, 2^30 plus any number of ones is 2^30. No compiler of a device may find that what an addition rounds off is 0.
#[test]
fn sums_keep_what_their_additions_round_off() {
    const START: f32 = (1u32 << 30) as f32;
    const TOKENS: usize = 130;
    let mut rig = Rig::new("kernel_attention long", Stored::F32, &[TOKENS]).distinct(1);
    // Query and key 0, so that phi is 1; value 1.
    let input = rig.input_rows(vec![vec![0.0, 0.0, 1.0]]).buffer;
    let slice = |offset| Slice { buffer: input, offset, width: 1 };
    let state = rig.state(&[1, 4]);
    let output = rig.buffer("y", 1);
    rig.op(Op::KernelAttention(KernelAttention {
        queries: slice(0),
        keys: slice(1),
        values: slice(2),
        heads: 1,
        kv_heads: 1,
        head_dim: 1,
        eps: 1e-6,
        state,
        output,
    }));
    let linear = rig.matrix(1, 1).into();
    let bench = rig.finish(Head { input: output, norm: None, linear, scale: 1.0, soft_cap: None });
    for target in targets().iter().filter(|target| !target.products_only) {
        let executable = bench.compile(target);
        for chunk in [1, 3, 20, TOKENS] {
            let mut session = executable.new_state().unwrap();
            let before = vec![START, 0.0, START, 0.0];
            session.import(1, state, PortableState::Tensor(before)).unwrap();
            let mut logits = Vec::new();
            for first in (0..TOKENS).step_by(chunk) {
                let tokens = vec![0; chunk.min(TOKENS - first)];
                let run = BackendRun {
                    tokens: &tokens,
                    vectors: None,
                    state: &mut *session,
                    wanted: Logits::Last,
                    logits: &mut logits,
                    stream: None,
                };
                pollster::block_on(executable.step(vec![run])).unwrap();
            }
            let after = pollster::block_on(session.export(state)).unwrap();
            let PortableState::Tensor(after) = after else { panic!("no tensor: {after:?}") };
            for (what, pair) in ["S", "z"].iter().zip(after.chunks(2)) {
                let sum = f64::from(pair[0]) + f64::from(pair[1]);
                let expected = f64::from(START) + TOKENS as f64;
                assert_eq!(sum, expected, "{what} on {}, {chunk} at a time", target.name);
            }
        }
    }
}
