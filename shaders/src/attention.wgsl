// `attention`: queries and keys are normed, clipped and rotated, keys and values join the cache; then each query attends
// to the cache up to its own position with an online softmax (Milakov and Gimelshein, 2018).

//# when prepare
// A workgroup makes a head of a token ready: first the query heads, then those of keys, then of values.
//# use reduce
//# use step

const THREADS: u32 = 64u;
const QUERY: u32 = 0u;
const KEY: u32 = 1u;
const VALUE: u32 = 2u;

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    input_stride: u32,
    /// Norms' weights in `vectors`.
    q_norm: u32,
    k_norm: u32,
    /// Whether each head is normed by itself.
    per_head: u32,
    /// Pairs that are rotated.
    pairs: u32,
    q_eps: f32,
    k_eps: f32,
    /// 0 for none.
    clip: f32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// Queries, keys, values, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// The op's small tensors, one behind the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// Cosine and sine by position, [T, pairs].
@group(0) @binding(_) var<storage, read> rotation: array<vec2<f32>>;
/// [T, heads, head_dim].
@group(0) @binding(_) var<storage, read_write> queries: array<f32>;
/// [capacity, kv_heads, head_dim] each: a position's place is its remainder by the capacity.
@group(0) @binding(_) var<storage, read_write> keys: array<f32>;
@group(0) @binding(_) var<storage, read_write> values: array<f32>;

@compute @workgroup_size(THREADS)
fn main(ids: Ids) {
    let thread = thread_of(ids);
    let t = ids.group.y;
    let token = step.start + t;
    var kind = QUERY;
    var head = ids.group.x;
    var heads = params.heads;
    var part = token * params.input_stride;
    var norm = params.q_norm;
    var eps = params.q_eps;
    if head >= params.heads {
        head -= params.heads;
        kind = KEY;
        heads = params.kv_heads;
        part += params.heads * params.head_dim;
        norm = params.k_norm;
        eps = params.k_eps;
        if head >= params.kv_heads {
            head -= params.kv_heads;
            kind = VALUE;
            part += params.kv_heads * params.head_dim;
            norm = ABSENT;
        }
    }
    let first = part + head * params.head_dim;

    var factor = 1.0;
    if norm != ABSENT {
        let own = params.per_head != 0u;
        let start = select(part, first, own);
        let width = select(heads * params.head_dim, params.head_dim, own);
        var squares = 0.0;
        for (var i = thread; i < width; i += THREADS) {
            squares += input[start + i] * input[start + i];
        }
        factor = inverseSqrt(sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x / f32(width) + eps);
        norm += select(head * params.head_dim, 0u, own);
    }

    let place = (step.position + t) % (arrayLength(&keys) / (params.kv_heads * params.head_dim));
    for (var i = thread; i < params.head_dim; i += THREADS) {
        var value = ready(first, i, factor, norm);
        if kind != VALUE && i < 2u * params.pairs {
            let low = i < params.pairs;
            let other = ready(first, select(i - params.pairs, i + params.pairs, low), factor, norm);
            let turn = rotation[token * params.pairs + i % params.pairs];
            value = value * turn.x + select(other, -other, low) * turn.y;
        }
        if kind == QUERY {
            queries[(token * params.heads + head) * params.head_dim + i] = value;
        } else {
            let at = (place * params.kv_heads + head) * params.head_dim + i;
            if kind == KEY {
                keys[at] = value;
            } else {
                values[at] = value;
            }
        }
    }
}

/// Element `i` of a head, normed and clipped.
fn ready(first: u32, i: u32, factor: f32, norm: u32) -> f32 {
    var value = input[first + i];
    if norm != ABSENT {
        value *= factor * vectors[norm + i];
    }
    if params.clip > 0.0 {
        value = clamp(value, -params.clip, params.clip);
    }
    return value;
}

//# when attend
// A workgroup takes a query head of a token over the cache, 128 positions at a time.
//# use reduce
//# use step

const THREADS: u32 = 128u;
/// Most elements of a head for each thread.
const HELD: u32 = 8u;
const MAX_HEAD: u32 = 1024u;
/// Stands for "no score yet": finite, so that differences stay defined.
const LOWEST: f32 = -1e30;

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    output_stride: u32,
    /// Positions that a query sees; `ABSENT` for all.
    window: u32,
    scale: f32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// [T, heads, head_dim].
@group(0) @binding(_) var<storage, read> queries: array<f32>;
/// [capacity, kv_heads, head_dim] each: a position's place is its remainder by the capacity.
@group(0) @binding(_) var<storage, read> keys: array<f32>;
@group(0) @binding(_) var<storage, read> values: array<f32>;
/// [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// [head_dim].
var<workgroup> query: array<f32, MAX_HEAD>;
/// [THREADS]: weights of the positions at hand.
var<workgroup> scores: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(ids: Ids) {
    let thread = thread_of(ids);
    let head = ids.group.x;
    let token = step.start + ids.group.y;
    let position = step.position + ids.group.y;
    let kv = head / (params.heads / params.kv_heads);
    let stride = params.kv_heads * params.head_dim;
    let capacity = arrayLength(&keys) / stride;
    var oldest = 0u;
    if position >= params.window {
        oldest = position - params.window + 1u;
    }

    for (var i = thread; i < params.head_dim; i += THREADS) {
        query[i] = params.scale * queries[(token * params.heads + head) * params.head_dim + i];
    }
    workgroupBarrier();

    var sum: array<f32, HELD>;
    for (var j = 0u; j < HELD; j += 1u) {
        sum[j] = 0.0;
    }
    var largest = LOWEST;
    var total = 0.0;
    for (var first = oldest; first <= position; first += THREADS) {
        var score = LOWEST;
        if first + thread <= position {
            let at = (first + thread) % capacity * stride + kv * params.head_dim;
            score = 0.0;
            for (var i = 0u; i < params.head_dim; i += 1u) {
                score += query[i] * keys[at + i];
            }
        }
        let next = max(largest, max_over(score, ids, THREADS));
        let keep = exp(largest - next);
        largest = next;
        var weight = 0.0;
        if first + thread <= position {
            weight = exp(score - largest);
        }
        scores[thread] = weight;
        // Behind this, the scores are there for all.
        total = keep * total + sum_over(vec4(weight, 0.0, 0.0, 0.0), ids, THREADS).x;
        let count = min(THREADS, position + 1u - first);
        for (var j = 0u; j < HELD; j += 1u) {
            let i = j * THREADS + thread;
            if i < params.head_dim {
                var part = 0.0;
                for (var k = 0u; k < count; k += 1u) {
                    part += scores[k] * values[(first + k) % capacity * stride + kv * params.head_dim + i];
                }
                sum[j] = keep * sum[j] + part;
            }
        }
        workgroupBarrier();
    }
    for (var j = 0u; j < HELD; j += 1u) {
        let i = j * THREADS + thread;
        if i < params.head_dim {
            output[token * params.output_stride + head * params.head_dim + i] = sum[j] / total;
        }
    }
}
//# end
