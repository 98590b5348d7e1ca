// `multi_level_attention`: keys and values join the cache; then each query attends at several levels, to means over aligned blocks of 2^l
// positions. The logit of a mean is the mean of the logits, so that only positions are stored.
//
// Dispatches: `store`, then `attend`, which goes over the positions twice: for the largest logit and the sum of weights of each level, then for
// the values.
//# kernel MultiLevelStore store: keys and values join the cache
//# kernel MultiLevelAttend attend reduce: attention of a token
//# use step

struct Params {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    levels: u32,
    /// First columns and strides of the inputs.
    query_start: u32,
    query_stride: u32,
    key_start: u32,
    key_stride: u32,
    value_start: u32,
    value_stride: u32,
    output_stride: u32,
    scale: f32,
    /// Offsets in `vectors`: [heads, levels], how much each level counts; [levels], windows, as numbers of 16 bits, the high one first;
    /// all ones for none.
    shares: u32,
    windows: u32,
}

@group(0) @binding(_) var<uniform> params: Params;

//# when store
/// [T, key_stride].
@group(0) @binding(_) var<storage, read> key_input: array<f32>;
/// [T, value_stride].
@group(0) @binding(_) var<storage, read> value_input: array<f32>;
/// [capacity, kv_heads, dim].
@group(0) @binding(_) var<storage, read_write> keys: array<f32>;
/// [capacity, kv_heads, dim].
@group(0) @binding(_) var<storage, read_write> values: array<f32>;

//# when attend
/// [T, query_stride].
@group(0) @binding(_) var<storage, read> query_input: array<f32>;
/// The op's small tensors, one after the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// [capacity, kv_heads, dim].
@group(0) @binding(_) var<storage, read> keys: array<f32>;
/// [capacity, kv_heads, dim].
@group(0) @binding(_) var<storage, read> values: array<f32>;
/// [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

//# when store attend
/// Index of the first element of the key and of the value at position `j`.
fn place_of(j: u32, kv: u32) -> u32 {
    let capacity = arrayLength(&keys) / (params.kv_heads * params.dim);
    return (j % capacity * params.kv_heads + kv) * params.dim;
}

//# when store
// A workgroup takes a token of a key/value head.
const THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let kv = group.x;
    let row = step.start + group.y;
    let place = place_of(step.position + group.y, kv);
    for (var i = thread; i < params.dim; i += THREADS) {
        keys[place + i] = key_input[row * params.key_stride + params.key_start + kv * params.dim + i];
        values[place + i] = value_input[row * params.value_stride + params.value_start + kv * params.dim + i];
    }
}

//# when attend
//# use reduce
// A workgroup takes the query heads of a key/value head of a token, four at a time, over 128 positions at a time: whole blocks of every level.
const THREADS: u32 = 128u;
/// Widest head.
const MOST_DIM: u32 = 512u;
/// Elements of a value per thread.
const HELD: u32 = 4u;
/// Most levels.
const LEVELS: u32 = 8u;
/// No score yet: finite, so that differences stay defined.
const LOWEST: f32 = -1e30;

/// [MOST_DIM]: four query heads.
var<workgroup> queries: array<vec4<f32>, MOST_DIM>;
/// [THREADS]: logits, then weights of four query heads.
var<workgroup> logits: array<vec4<f32>, THREADS>;
var<workgroup> weights: array<vec4<f32>, THREADS>;

/// The first block of a level that the query at `t` sees.
fn first_block(level: u32, t: u32) -> u32 {
    let at = params.windows + 2u * level;
    let window = (u32(vectors[at]) << 16u) | u32(vectors[at + 1u]);
    return (t + 1u - min(t + 1u, window)) >> level;
}

/// The logits of the key at `j`.
fn logits_at(j: u32, kv: u32) -> vec4<f32> {
    let place = place_of(j, kv);
    var sum = vec4(0.0);
    for (var i = 0u; i < params.dim; i += 1u) {
        sum += queries[i] * keys[place + i];
    }
    return sum;
}

/// The mean of the logits of block `block` of a level, which is among the 128 positions from `first` on, up to `t`; with their number.
struct Mean {
    logits: vec4<f32>,
    count: f32,
}

fn mean_of(block: u32, level: u32, first: u32, t: u32) -> Mean {
    let start = block << level;
    let end = min(start + (1u << level), t + 1u);
    var sum = vec4(0.0);
    for (var j = start; j < end; j += 1u) {
        sum += logits[j - first];
    }
    let count = f32(end - start);
    return Mean(sum / count, count);
}

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let kv = group.x;
    let t = step.position + group.y;
    let row = step.start + group.y;
    let sharing = params.heads / params.kv_heads;
    var oldest = t;
    for (var level = 0u; level < params.levels; level += 1u) {
        oldest = min(oldest, first_block(level, t) << level);
    }
    oldest = oldest / THREADS * THREADS;
    for (var head = 0u; head < sharing; head += 4u) {
        let used = min(4u, sharing - head);
        for (var i = thread; i < params.dim; i += THREADS) {
            var own = vec4(0.0);
            for (var h = 0u; h < used; h += 1u) {
                let column = params.query_start + (kv * sharing + head + h) * params.dim + i;
                own[h] = params.scale * query_input[row * params.query_stride + column];
            }
            queries[i] = own;
        }
        workgroupBarrier();
        // By level: the largest mean of this thread's blocks, and the sum of weights relative to it.
        var largest: array<vec4<f32>, LEVELS>;
        var total: array<vec4<f32>, LEVELS>;
        for (var level = 0u; level < LEVELS; level += 1u) {
            largest[level] = vec4(LOWEST);
            total[level] = vec4(0.0);
        }
        for (var first = oldest; first <= t; first += THREADS) {
            let j = first + thread;
            if j <= t {
                logits[thread] = logits_at(j, kv);
            }
            workgroupBarrier();
            for (var level = 0u; level < params.levels; level += 1u) {
                let block = j >> level;
                if j <= t && j == block << level && block >= first_block(level, t) {
                    let mean = mean_of(block, level, first, t).logits;
                    let next = max(largest[level], mean);
                    total[level] = exp(largest[level] - next) * total[level] + exp(mean - next);
                    largest[level] = next;
                }
            }
            workgroupBarrier();
        }
        for (var level = 0u; level < params.levels; level += 1u) {
            let all = largest_over(largest[level], ids, THREADS);
            total[level] = sum_over(exp(largest[level] - all) * total[level], ids, THREADS);
            largest[level] = all;
        }
        var sums: array<vec4<f32>, HELD>;
        for (var e = 0u; e < HELD; e += 1u) {
            sums[e] = vec4(0.0);
        }
        for (var first = oldest; first <= t; first += THREADS) {
            let j = first + thread;
            if j <= t {
                logits[thread] = logits_at(j, kv);
            }
            workgroupBarrier();
            var weight = vec4(0.0);
            for (var level = 0u; level < params.levels; level += 1u) {
                let block = j >> level;
                if j <= t && block >= first_block(level, t) {
                    let mean = mean_of(block, level, first, t);
                    var share = vec4(0.0);
                    for (var h = 0u; h < used; h += 1u) {
                        share[h] = vectors[params.shares + (kv * sharing + head + h) * params.levels + level];
                    }
                    weight += share * exp(mean.logits - largest[level]) / (total[level] * mean.count);
                }
            }
            weights[thread] = weight;
            workgroupBarrier();
            for (var e = 0u; e < HELD; e += 1u) {
                let i = e * THREADS + thread;
                if i < params.dim {
                    var sum = sums[e];
                    for (var k = 0u; k < min(THREADS, t + 1u - first); k += 1u) {
                        sum += weights[k] * values[place_of(first + k, kv) + i];
                    }
                    sums[e] = sum;
                }
            }
            workgroupBarrier();
        }
        for (var h = 0u; h < used; h += 1u) {
            for (var e = 0u; e < HELD; e += 1u) {
                let i = e * THREADS + thread;
                if i < params.dim {
                    output[row * params.output_stride + (kv * sharing + head + h) * params.dim + i] = sums[e][h];
                }
            }
        }
    }
}
