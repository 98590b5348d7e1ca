// `kernel_attention`: with phi(x) = elu(x) + 1 on queries and keys, for each key/value head S = S + k v^T, z = z + k, and for each of its
// query heads y = S^T q / (z . q + eps). Few tokens step through the sums, all in one dispatch. Many go in chunks of 64 as matrix products,
//
//     Y = (tril(Q K^T) V + Q S) / (tril(Q K^T) 1 + Q z + eps),   S = S + K^T V,   z = z + K^T 1
//
// Dispatches: `scores`, Q K^T; `states`, what each chunk adds to S and z; `pass`, both before each chunk; `outputs`. A chunk's own sums are
// short; those over all of the past are compensated.
//# kernel KernelAttentionStep step reduce: few tokens
//# kernel KernelAttentionScores scores: many tokens: Q K^T of each chunk
//# kernel KernelAttentionStates states: many tokens: what each chunk adds to the sums
//# kernel KernelAttentionPass pass: many tokens: the sums before each chunk
//# kernel KernelAttentionOutputs outputs: many tokens: the outputs
//# when step pass
//# use runs
//# unless step pass
//# use step
//# end

struct Params {
    heads: u32,
    kv_heads: u32,
    key_dim: u32,
    value_dim: u32,
    /// First columns of queries and keys in `input`, and of values in `value_input`.
    queries: u32,
    keys: u32,
    values: u32,
    input_stride: u32,
    value_stride: u32,
    output_stride: u32,
    eps: f32,
    /// 0.
    zero: u32,
}

@group(0) @binding(_) var<uniform> params: Params;

//# when step scores states outputs
/// Queries and keys, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;

/// elu(x) + 1. The subtraction would cancel.
fn feature(x: f32) -> f32 {
    if x > 0.0 {
        return x + 1.0;
    }
    return exp(x);
}

fn key(t: u32, kv: u32, n: u32) -> f32 {
    return feature(input[(step.start + t) * params.input_stride + params.keys + kv * params.key_dim + n]);
}

//# when step scores outputs
fn query(t: u32, head: u32, n: u32) -> f32 {
    return feature(input[(step.start + t) * params.input_stride + params.queries + head * params.key_dim + n]);
}

//# when step states outputs
/// [T, value_stride].
@group(0) @binding(_) var<storage, read> value_input: array<f32>;

fn value(t: u32, kv: u32, n: u32) -> f32 {
    return value_input[(step.start + t) * params.value_stride + params.values + kv * params.value_dim + n];
}

//# when step pass
//# use compensated

/// [kv_heads, 2 * key_dim * value_dim + 2 * key_dim]: S by rows of keys, what it rounded off, z, and the same; then
/// [kv_heads, 2 * key_dim]: z, and what it rounded off, again.
@group(0) @binding(_) var<storage, read_write> state: array<f32>;

/// Index of S of a head.
fn memory_at(kv: u32) -> u32 {
    return step.slot * 4u + kv * 2u * params.key_dim * (params.value_dim + 1u);
}

/// Index of z of a head in one of the two copies. It is double-buffered: all workgroups of a head read the copy `step.parity` of the last
/// step, and new values go to the other.
fn weights_at(kv: u32, side: u32) -> u32 {
    let again = memory_at(params.kv_heads) + kv * 2u * params.key_dim;
    return select(again, memory_at(kv) + 2u * params.key_dim * params.value_dim, side == 0u);
}

//# when step
//# use reduce
// A workgroup takes 16 columns of a head's S through the run's tokens; each of its 256 threads holds up to 16 elements, so a pass covers
// 256 rows. Before the run's tokens there is one S for all of them, since nothing decays.
const THREADS: u32 = 256u;
/// Columns of S per workgroup.
const COLUMNS: u32 = 16u;
/// Threads that share a column.
const SHARES: u32 = 16u;
/// Rows per thread.
const HELD: u32 = 16u;
/// Rows per pass.
const PASS: u32 = 256u;
/// Most query heads of a key/value head.
const MOST_GROUP: u32 = 64u;

/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// [PASS]: queries and keys, with a component per token.
var<workgroup> queries: array<vec4<f32>, PASS>;
var<workgroup> keys: array<vec4<f32>, PASS>;
/// [MOST_GROUP]: what each query head's sums are divided by.
var<workgroup> divisors: array<vec4<f32>, MOST_GROUP>;

/// The sums of the first components.
fn sums_until(x: vec4<f32>) -> vec4<f32> {
    return vec4(x.x, x.x + x.y, x.x + x.y + x.z, x.x + x.y + x.z + x.w);
}

@compute @workgroup_size(THREADS)
//# use main
    step = runs[group.z];
    let count = runs[group.z].tokens;
    let thread = thread_of(ids);
    let kv = group.x;
    let column = group.y * COLUMNS + thread % COLUMNS;
    let share = thread / COLUMNS;
    let key_dim = params.key_dim;
    let value_dim = params.value_dim;
    let shared_by = params.heads / params.kv_heads;
    let used = column < value_dim;
    let memory = memory_at(kv);
    let low = memory + key_dim * value_dim;
    let weights = weights_at(kv, step.parity);
    let new_weights = weights_at(kv, 1u - step.parity);

    for (var g = 0u; g < shared_by; g += 1u) {
        var sum = vec4(0.0);
        for (var r = thread; r < key_dim; r += THREADS) {
            var q = vec4(0.0);
            var k = vec4(0.0);
            for (var t = 0u; t < count; t += 1u) {
                q[t] = query(t, kv * shared_by + g, r);
                k[t] = key(t, kv, r);
            }
            sum += q * (state[weights + r] + state[weights + key_dim + r] + sums_until(k));
        }
        sum = sum_over(sum, ids, THREADS);
        if thread == 0u {
            divisors[g] = sum + params.eps;
        }
    }
    if group.y == 0u {
        for (var r = thread; r < key_dim; r += THREADS) {
            var z = vec2(state[weights + r], state[weights + key_dim + r]);
            for (var t = 0u; t < count; t += 1u) {
                z = add_to(z, key(t, kv, r));
            }
            state[new_weights + r] = z.x;
            state[new_weights + key_dim + r] = z.y;
        }
    }

    var v = vec4(0.0);
    for (var t = 0u; t < count; t += 1u) {
        if used {
            v[t] = value(t, kv, column);
        }
    }
    for (var first = 0u; first < key_dim; first += PASS) {
        var held: array<vec2<f32>, HELD>;
        for (var i = 0u; i < HELD; i += 1u) {
            let r = first + i * SHARES + share;
            held[i] = vec2(0.0);
            if r < key_dim && used {
                held[i] = vec2(state[memory + r * value_dim + column], state[low + r * value_dim + column]);
            }
        }
        let r = first + thread;
        var k = vec4(0.0);
        for (var t = 0u; t < count; t += 1u) {
            if r < key_dim {
                k[t] = key(t, kv, r);
            }
        }
        keys[thread] = k;
        for (var g = 0u; g < shared_by; g += 1u) {
            var q = vec4(0.0);
            for (var t = 0u; t < count; t += 1u) {
                if r < key_dim {
                    q[t] = query(t, kv * shared_by + g, r);
                }
            }
            queries[thread] = q;
            workgroupBarrier();
            var sum = vec4(0.0);
            for (var i = 0u; i < HELD; i += 1u) {
                let place = i * SHARES + share;
                sum += queries[place] * (held[i].x + held[i].y + sums_until(keys[place] * v));
            }
            // Also: all have read the queries before the next ones overwrite them.
            sum = sum_strided(sum, ids, COLUMNS);
            if share == 0u && used {
                for (var t = 0u; t < count; t += 1u) {
                    let at = (step.start + t) * params.output_stride + (kv * shared_by + g) * value_dim + column;
                    var y = sum[t];
                    if first > 0u {
                        y += output[at];
                    }
                    if first + PASS >= key_dim {
                        y /= divisors[g][t];
                    }
                    output[at] = y;
                }
            }
        }
        for (var i = 0u; i < HELD; i += 1u) {
            let place = i * SHARES + share;
            if first + place < key_dim && used {
                var sum = held[i];
                for (var t = 0u; t < count; t += 1u) {
                    sum = add_to(sum, keys[place][t] * v[t]);
                }
                let at = (first + place) * value_dim + column;
                state[memory + at] = sum.x;
                state[low + at] = sum.y;
            }
        }
        // All have read the keys before the next pass overwrites them.
        workgroupBarrier();
    }
}

//# when scores
// A workgroup takes a query head of a chunk.
//# use products

/// Q K^T, [chunks, heads, SIDE, SIDE].
@group(0) @binding(_) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.y * SIDE;
    let count = min(SIDE, step.tokens - first);
    let kv = group.x / (params.heads / params.kv_heads);
    var block = empty_block();
    for (var base = 0u; base < params.key_dim; base += DEPTH) {
        let n = base + thread % DEPTH;
        let quad = thread / DEPTH;
        var k = vec4(0.0);
        var q = vec4(0.0);
        if n < params.key_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                if quad * 4u + i < count {
                    k[i] = key(first + quad * 4u + i, kv, n);
                    q[i] = query(first + quad * 4u + i, group.x, n);
                }
            }
        }
        left_tile[thread % DEPTH * COLUMN + quad] = q;
        right_tile[thread % DEPTH * COLUMN + quad] = k;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }
    let at = (group.y * params.heads + group.x) * SIDE * SIDE;
    for (var i = 0u; i < 4u; i += 1u) {
        for (var j = 0u; j < 4u; j += 1u) {
            scores[at + (thread / 16u * 4u + i) * SIDE + thread % 16u * 4u + j] = block[i][j];
        }
    }
}

//# when states outputs
//# use products

const CHUNK: u32 = 64u;

/// Four columns of v of a head at token `t`, from column `column` on.
fn load_value(t: u32, kv: u32, column: u32) -> vec4<f32> {
    var v = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.value_dim {
            v[i] = value(t, kv, column + i);
        }
    }
    return v;
}

//# when states
// A workgroup takes 64 rows by 64 columns of a head's S and a chunk.

/// What each chunk adds, [chunks, kv_heads, key_dim * value_dim + key_dim]: to S, to z.
@group(0) @binding(_) var<storage, read_write> added: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let across = (params.value_dim + SIDE - 1u) / SIDE;
    let down = (params.key_dim + SIDE - 1u) / SIDE;
    let kv = group.x / (across * down);
    let first_row = group.x / across % down * SIDE;
    let first_column = group.x % across * SIDE;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    var block = empty_block();
    // Each of the first 16 threads adds up four elements of z.
    var sum = vec4(0.0);
    for (var base = 0u; base < count; base += DEPTH) {
        let place = base + thread / 16u;
        var k = vec4(0.0);
        var v = vec4(0.0);
        if place < count {
            let n = first_row + thread % 16u * 4u;
            for (var i = 0u; i < 4u; i += 1u) {
                if n + i < params.key_dim {
                    k[i] = key(first + place, kv, n + i);
                }
            }
            v = load_value(first + place, kv, first_column + thread % 16u * 4u);
        }
        left_tile[thread / 16u * COLUMN + thread % 16u] = k;
        right_tile[thread / 16u * COLUMN + thread % 16u] = v;
        workgroupBarrier();
        add_product(&block, thread);
        if thread < 16u {
            for (var j = 0u; j < DEPTH; j += 1u) {
                sum += left_tile[j * COLUMN + thread];
            }
        }
        workgroupBarrier();
    }
    let at = (group.y * params.kv_heads + kv) * params.key_dim * (params.value_dim + 1u);
    for (var i = 0u; i < 4u; i += 1u) {
        let n = first_row + thread / 16u * 4u + i;
        for (var j = 0u; j < 4u; j += 1u) {
            let p = first_column + thread % 16u * 4u + j;
            if n < params.key_dim && p < params.value_dim {
                added[at + n * params.value_dim + p] = block[i][j];
            }
        }
    }
    if thread < 16u && first_column == 0u {
        for (var i = 0u; i < 4u; i += 1u) {
            let n = first_row + thread * 4u + i;
            if n < params.key_dim {
                added[at + params.key_dim * params.value_dim + n] = sum[i];
            }
        }
    }
}

//# when pass
// A thread takes an element of S or z through the chunks.
const THREADS: u32 = 256u;
const CHUNK: u32 = 64u;

/// What each chunk adds, then the sums before each chunk, [chunks, kv_heads, key_dim * value_dim + key_dim].
@group(0) @binding(_) var<storage, read_write> states: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    step = runs[group.z];
    let memory = params.key_dim * params.value_dim;
    let size = memory + params.key_dim;
    let element = group.x * THREADS + thread;
    let kv = group.y;
    if element < size {
        var read_at = memory_at(kv) + element;
        var write_at = read_at;
        var low = memory;
        if element >= memory {
            read_at = weights_at(kv, step.parity) + element - memory;
            write_at = weights_at(kv, 1u - step.parity) + element - memory;
            low = params.key_dim;
        }
        var sum = vec2(state[read_at], state[read_at + low]);
        let chunks = (step.tokens + CHUNK - 1u) / CHUNK;
        for (var chunk = 0u; chunk < chunks; chunk += 1u) {
            let at = (chunk * params.kv_heads + kv) * size + element;
            let added = states[at];
            states[at] = sum.x + sum.y;
            sum = add_to(sum, added);
        }
        state[write_at] = sum.x;
        state[write_at + low] = sum.y;
    }
}

//# when outputs
// A workgroup takes 64 columns of a query head and a chunk.

/// Q K^T, [chunks, heads, SIDE, SIDE].
@group(0) @binding(_) var<storage, read> scores: array<f32>;
/// The sums before each chunk, [chunks, kv_heads, key_dim * value_dim + key_dim].
@group(0) @binding(_) var<storage, read> states: array<f32>;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// [CHUNK]: what each token's sums are divided by.
var<workgroup> divisors: array<f32, CHUNK>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let across = (params.value_dim + SIDE - 1u) / SIDE;
    let head = group.x / across;
    let kv = head / (params.heads / params.kv_heads);
    let first_column = group.x % across * SIDE;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let memory = (group.y * params.kv_heads + kv) * params.key_dim * (params.value_dim + 1u);
    let weights_at = memory + params.key_dim * params.value_dim;
    let scores_at = (group.y * params.heads + head) * SIDE * SIDE;

    // Q S. Each of the first 16 threads adds up the weights of four tokens.
    var block = empty_block();
    var weight = vec4(params.eps);
    for (var base = 0u; base < params.key_dim; base += DEPTH) {
        var q = vec4(0.0);
        let n = base + thread % DEPTH;
        if n < params.key_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                let place = thread / DEPTH * 4u + i;
                if place < count {
                    q[i] = query(first + place, head, n);
                }
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = q;
        var s = vec4(0.0);
        let row = base + thread / 16u;
        if row < params.key_dim {
            let column = first_column + thread % 16u * 4u;
            for (var i = 0u; i < 4u; i += 1u) {
                if column + i < params.value_dim {
                    s[i] = states[memory + row * params.value_dim + column + i];
                }
            }
        }
        right_tile[thread / 16u * COLUMN + thread % 16u] = s;
        workgroupBarrier();
        add_product(&block, thread);
        if thread < 16u {
            for (var k = 0u; k < min(DEPTH, params.key_dim - base); k += 1u) {
                weight += states[weights_at + base + k] * left_tile[k * COLUMN + thread];
            }
        }
        workgroupBarrier();
    }

    // tril(Q K^T) V.
    for (var base = 0u; base < count; base += DEPTH) {
        var weights = vec4(0.0);
        let j = base + thread % DEPTH;
        for (var i = 0u; i < 4u; i += 1u) {
            let place = thread / DEPTH * 4u + i;
            if j <= place && place < count {
                weights[i] = scores[scores_at + place * SIDE + j];
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = weights;
        var v = vec4(0.0);
        let place = base + thread / 16u;
        if place < count {
            v = load_value(first + place, kv, first_column + thread % 16u * 4u);
        }
        right_tile[thread / 16u * COLUMN + thread % 16u] = v;
        workgroupBarrier();
        add_product(&block, thread);
        if thread < 16u {
            for (var k = 0u; k < DEPTH; k += 1u) {
                weight += left_tile[k * COLUMN + thread];
            }
        }
        workgroupBarrier();
    }
    if thread < 16u {
        for (var i = 0u; i < 4u; i += 1u) {
            divisors[thread * 4u + i] = weight[i];
        }
    }
    workgroupBarrier();

    let column = first_column + thread % 16u * 4u;
    for (var i = 0u; i < 4u; i += 1u) {
        let place = thread / 16u * 4u + i;
        if place < count {
            let at = (step.start + first + place) * params.output_stride + head * params.value_dim + column;
            for (var j = 0u; j < 4u; j += 1u) {
                if column + j < params.value_dim {
                    output[at + j] = block[i][j] / divisors[place];
                }
            }
        }
    }
}
