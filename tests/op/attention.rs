//! `attention`: `o_i = sum_j softmax_j(scale * q_i . k_j) v_j` over `j` in `max(0, i - window + 1) ..= i`, queries and keys
//! normed, clipped and rotated before.

use kinglet::models::{QkNorm, Rope};
use kinglet::op::{Attention, AttentionSpan, AttentionValues, Op, Slice};
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::each;

/// Sequences around the length of a cache page, 64, and of a block of queries.
const SEQUENCES: &[&[usize]] =
    &[&[1], &[2], &[40], &[64], &[65], &[130], &[200], &[70, 3, 20], &[5, 90], &[4, 2, 5, 1]];

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    value_dim: usize,
}

const fn shape(heads: usize, kv_heads: usize, dim: usize) -> Shape {
    Shape { heads, kv_heads, dim, value_dim: dim }
}

#[derive(Clone, Copy, Debug, Default)]
struct Choices {
    window: Option<usize>,
    /// First positions that are seen regardless of the window.
    sinks: usize,
    clip: Option<f32>,
    /// Number of rotated pairs.
    rope: usize,
    /// Whether each head is normed separately.
    norm: Option<bool>,
    /// Factor on the queries that makes the softmax sharp.
    sharp: Option<f64>,
    /// Whether values are the first elements of keys, and whether these are normed.
    latent: Option<bool>,
}

const PLAIN: Choices =
    Choices { window: None, sinks: 0, clip: None, rope: 0, norm: None, sharp: None, latent: None };

/// Angles whose products are exact in `f32`, so that there is only one right answer.
fn inv_freq(pairs: usize) -> Vec<f32> {
    (0..pairs)
        .map(|i| ((1024.0 * 100f64.powf(-(i as f64) / pairs as f64)).round() / 1024.0) as f32)
        .collect()
}

fn check(shape: Shape, choices: Choices, stored: Stored, lengths: &[usize]) {
    let Shape { heads, kv_heads, dim, value_dim } = shape;
    let Choices { window, sinks, clip, rope: pairs, norm, sharp, latent } = choices;
    // An error in a score is an error in an exponent.
    let factor = sharp.map_or(2.0, |sharp| sharp / 2.0);
    let mut rig =
        Rig::new(format!("attention {shape:?} {choices:?}"), stored, lengths).bound(factor);
    // Gates may come after queries, keys and values; queries may be in a buffer of their own.
    let widths = [heads * dim, kv_heads * dim, kv_heads * value_dim];
    let apart = rig.random.between(0, 1) == 1;
    let rest = rig.random.between(0, 2 * heads);
    let first = if apart { 0 } else { widths[0] };
    let width = first + widths[1] + widths[2] + rest;
    let mut column = 0;
    let input = rig.input(width, |random| {
        let is_query = column % width < first;
        column += 1;
        if is_query { sharp.unwrap_or(1.0) * random.normal() } else { random.normal() }
    });
    let queries = if apart {
        let before = rig.random.between(0, 3);
        let input = rig.input(before + widths[0], |random| sharp.unwrap_or(1.0) * random.normal());
        Slice { buffer: input.buffer, offset: before, width: widths[0] }
    } else {
        Slice { buffer: input.buffer, offset: 0, width: widths[0] }
    };
    let slice = |offset, width| Slice { buffer: input.buffer, offset, width };
    let values = match latent {
        None => AttentionValues::Own(slice(first + widths[1], widths[2])),
        Some(normed) => {
            let norm = normed.then(|| rig.norm(value_dim, 1e-3, false));
            AttentionValues::Latent { width: value_dim, norm }
        }
    };
    let scale = (dim as f32).powf(-0.5);
    let eps = 1e-3;
    let (q_width, k_width) =
        if norm == Some(true) { (dim, dim) } else { (heads * dim, kv_heads * dim) };
    let q_norm = rig.norm(q_width, eps, false);
    let k_norm = rig.norm(k_width, eps, false);
    let rope = (pairs > 0).then(|| Rope {
        inv_freq: inv_freq(pairs),
        exact: None,
        attention_factor: 1.25,
        interleaved: rig.random.between(0, 1) == 1,
        dynamic: None,
    });
    let held = if latent.is_some() { 0 } else { value_dim };
    let cache = rig.cache(kv_heads, [dim, held], AttentionSpan { window, sinks });
    let output = rig.buffer("attended", heads * value_dim);
    // After the latent, as far as the rotated elements fit there.
    let rope_start = if latent.is_some() { value_dim.min(dim - 2 * pairs) } else { 0 };
    rig.op(Op::Attention(Attention {
        queries,
        keys: slice(first, widths[1]),
        values,
        heads,
        kv_heads,
        head_dim: dim,
        scale,
        qk_norm: norm.map(|per_head| QkNorm { q: q_norm, k: k_norm, per_head }),
        clip,
        rope,
        rope_start,
        window,
        sinks,
        cache,
        output,
    }));
    rig.check(output);
}

#[test]
fn every_shape_of_heads() {
    let shapes = [
        shape(1, 1, 3),
        shape(2, 1, 4),
        shape(3, 3, 5),
        shape(4, 2, 16),
        shape(6, 2, 17),
        shape(8, 1, 32),
        shape(5, 5, 33),
        shape(4, 2, 64),
        shape(2, 1, 80),
        shape(40, 1, 6),
        shape(12, 4, 8),
    ];
    each(&shapes, SEQUENCES, |shape, stored, lengths| check(shape, PLAIN, stored, lengths));
}

#[test]
fn wide_heads() {
    for shape in [shape(9, 1, 128), shape(5, 1, 132), shape(3, 1, 256), shape(2, 2, 513)] {
        for lengths in [&[3][..], &[70, 4], &[66]] {
            check(shape, Choices { rope: 2, ..PLAIN }, Stored::F32, lengths);
        }
    }
}

#[test]
fn caches_longer_than_a_workgroup_takes_at_once() {
    // With more key/value heads the cache is cut into fewer pieces.
    check(shape(256, 256, 1), Choices { window: Some(130), ..PLAIN }, Stored::F32, &[135]);
}

#[test]
fn with_windows() {
    let lengths = [&[40][..], &[200], &[70, 3, 120], &[130]];
    for (turn, window) in [1, 2, 5, 63, 64, 65, 100, 1000].into_iter().enumerate() {
        for lengths in lengths {
            let shape = [shape(4, 2, 16), shape(3, 1, 7)][turn % 2];
            check(shape, Choices { window: Some(window), ..PLAIN }, Stored::F32, lengths);
        }
    }
}

#[test]
fn with_sinks_before_a_window() {
    let lengths = [&[40][..], &[200], &[70, 3, 120], &[330]];
    let sights = [(1, 1), (5, 4), (20, 70), (63, 64), (64, 3), (100, 130), (65, 1)];
    for (turn, (window, sinks)) in sights.into_iter().enumerate() {
        for lengths in lengths {
            let shape = [shape(4, 2, 16), shape(3, 1, 7)][turn % 2];
            let choices = Choices { window: Some(window), sinks, ..PLAIN };
            check(shape, choices, Stored::F32, lengths);
        }
    }
}

#[test]
fn rotated() {
    // All of the head, a part of it, one pair.
    for (shape, rope) in
        [(shape(4, 2, 16), 8), (shape(4, 2, 16), 4), (shape(3, 1, 7), 3), (shape(2, 2, 80), 1)]
    {
        for lengths in SEQUENCES {
            check(shape, Choices { rope, ..PLAIN }, Stored::F32, lengths);
        }
    }
}

#[test]
fn normed_and_clipped() {
    let shapes = [shape(1, 1, 1), shape(4, 2, 16), shape(6, 3, 7), shape(2, 1, 66)];
    each(&shapes, SEQUENCES, |shape, stored, lengths| {
        for norm in [None, Some(true), Some(false)] {
            for clip in [None, Some(0.7)] {
                let choices = Choices { clip, norm, rope: shape.dim / 2, ..PLAIN };
                check(shape, choices, stored, lengths);
            }
        }
    });
}

#[test]
fn sharp_scores() {
    for sharp in [8.0, 60.0] {
        for lengths in [&[200][..], &[5, 90]] {
            check(shape(4, 2, 16), Choices { sharp: Some(sharp), ..PLAIN }, Stored::F32, lengths);
        }
    }
}

#[test]
fn all_at_once() {
    let choices = Choices {
        window: Some(37),
        sinks: 5,
        clip: Some(1.1),
        rope: 5,
        norm: Some(true),
        sharp: None,
        latent: None,
    };
    for (stored, lengths) in Stored::ALL.into_iter().zip([&[200][..], &[70, 3, 20], &[5, 90]]) {
        check(shape(6, 2, 14), choices, stored, lengths);
    }
}

/// Widths of keys and of values that differ.
const UNEQUAL: [Shape; 7] = [
    Shape { heads: 4, kv_heads: 2, dim: 16, value_dim: 24 },
    Shape { heads: 3, kv_heads: 1, dim: 7, value_dim: 3 },
    Shape { heads: 6, kv_heads: 3, dim: 20, value_dim: 13 },
    Shape { heads: 5, kv_heads: 1, dim: 132, value_dim: 64 },
    Shape { heads: 2, kv_heads: 2, dim: 40, value_dim: 160 },
    Shape { heads: 9, kv_heads: 1, dim: 64, value_dim: 128 },
    Shape { heads: 1, kv_heads: 1, dim: 1, value_dim: 2 },
];

#[test]
fn values_of_another_width_than_keys() {
    each(&UNEQUAL, SEQUENCES, |shape, stored, lengths| {
        let choices = Choices { rope: shape.dim / 4, norm: Some(true), ..PLAIN };
        check(shape, choices, stored, lengths);
    });
}

#[test]
fn latents() {
    let shapes = [
        Shape { heads: 4, kv_heads: 1, dim: 24, value_dim: 16 },
        Shape { heads: 3, kv_heads: 1, dim: 7, value_dim: 5 },
        Shape { heads: 2, kv_heads: 2, dim: 40, value_dim: 33 },
        Shape { heads: 1, kv_heads: 1, dim: 12, value_dim: 12 },
    ];
    each(&shapes, SEQUENCES, |shape, stored, lengths| {
        let rope = (shape.dim - shape.value_dim) / 2;
        for normed in [true, false] {
            check(shape, Choices { rope, latent: Some(normed), ..PLAIN }, stored, lengths);
        }
    });
}

#[test]
fn wide_latents() {
    for shape in [
        Shape { heads: 32, kv_heads: 1, dim: 72, value_dim: 64 },
        Shape { heads: 5, kv_heads: 1, dim: 576, value_dim: 512 },
        Shape { heads: 3, kv_heads: 1, dim: 262, value_dim: 257 },
    ] {
        for lengths in [&[3][..], &[70, 4], &[66]] {
            let choices = Choices { rope: 2, latent: Some(true), ..PLAIN };
            check(shape, choices, Stored::F32, lengths);
        }
    }
}

#[test]
fn latents_with_windows_and_sinks() {
    let shape = Shape { heads: 4, kv_heads: 1, dim: 18, value_dim: 12 };
    let lengths = [&[40][..], &[200], &[70, 3, 120], &[330]];
    for ((window, sinks), lengths) in [(1, 0), (5, 4), (64, 3), (100, 130)].into_iter().zip(lengths)
    {
        let window = Some(window);
        let choices = Choices { window, sinks, rope: 3, latent: Some(true), ..PLAIN };
        check(shape, choices, Stored::F32, lengths);
    }
}
