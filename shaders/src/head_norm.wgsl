// `head_norm`: each head of some columns is normed and rotated, y = rotate(x / sqrt(mean(x^2) + eps) * weight), and written beside the
// others. A workgroup takes a head of a token.
//# kernel HeadNorm - reduce: any number of tokens
//# use step
//# use reduce

const THREADS: u32 = 64u;

struct Params {
    input_stride: u32,
    other_stride: u32,
    output_stride: u32,
    /// Pairs that are rotated, and whether neighbours are a pair, or else elements `i` and `i + pairs`.
    pairs: u32,
    interleaved: u32,
}

@group(0) @binding(_) var<uniform> params: Params;

/// A head: where it is, and what is done to it.
struct Head {
    /// Whether it is in `other`, its first columns there and in the output, and its width.
    other: u32,
    first: u32,
    place: u32,
    width: u32,
    /// Offset of the norm's weight, [width], in `vectors`; `ABSENT` for none.
    weight: u32,
    eps: f32,
    rotated: u32,
    unused: u32,
}

/// In the order of the output.
@group(0) @binding(_) var<storage, read> heads: array<Head>;
/// [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// [T, other_stride]; the input again if all heads are there.
@group(0) @binding(_) var<storage, read> other: array<f32>;
/// The op's small tensors, concatenated.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// Cosine and sine by token, [T, pairs].
@group(0) @binding(_) var<storage, read> rotation: array<vec2<f32>>;
/// [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// Element `i` of a head of a token, before its norm.
fn element(head: Head, token: u32, i: u32) -> f32 {
    if head.other != 0u {
        return other[token * params.other_stride + head.first + i];
    }
    return input[token * params.input_stride + head.first + i];
}

/// The same after its norm.
fn normed(head: Head, token: u32, i: u32, factor: f32) -> f32 {
    let value = element(head, token, i);
    if head.weight == ABSENT {
        return value;
    }
    return value * factor * vectors[head.weight + i];
}

@compute @workgroup_size(THREADS)
//# use main
    let token = step.start + group.y;
    let head = heads[group.x];
    var squares = 0.0;
    if head.weight != ABSENT {
        for (var i = thread_of(ids); i < head.width; i += THREADS) {
            let x = element(head, token, i);
            squares += x * x;
        }
    }
    let total = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x;
    let factor = inverseSqrt(total / f32(head.width) + head.eps);
    for (var i = thread_of(ids); i < head.width; i += THREADS) {
        var value = normed(head, token, i, factor);
        if head.rotated != 0u && i < 2u * params.pairs {
            let neighbours = params.interleaved != 0u;
            let low = select(i < params.pairs, i % 2u == 0u, neighbours);
            let distance = select(params.pairs, 1u, neighbours);
            let partner = normed(head, token, select(i - distance, i + distance, low), factor);
            let pair = select(i % params.pairs, i / 2u, neighbours);
            let turn = rotation[token * params.pairs + pair];
            value = value * turn.x + select(partner, -partner, low) * turn.y;
        }
        output[token * params.output_stride + head.place + i] = value;
    }
}
