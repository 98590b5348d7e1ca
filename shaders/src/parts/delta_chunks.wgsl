// The gated delta rule of many tokens: in chunks.
//
// What a chunk of a head hands on, one after the other, rows of 64 tokens: queries `e^s q`, keys `e^s k`, then W in their place, keys
// `e^(s_last - s) k`, values V', then U in their place, and where each channel decays by itself the log decays. Tokens behind the last
// of the run have zeros.

//# when prepare prepare_channels scores_channels solve pass outputs
/// Elements of a chunk of a head in `work`.
fn chunk_size() -> u32 {
    return 64u * (3u * params.key_dim + params.value_dim + select(0u, params.key_dim, params.decays > 1u));
}

//# when prepare prepare_channels solve pass outputs
/// Where the keys `e^s k`, the keys `e^(s_last - s) k` and the values of a chunk begin.
fn keys_at(base: u32) -> u32 {
    return base + 64u * params.key_dim;
}

fn rest_at(base: u32) -> u32 {
    return base + 128u * params.key_dim;
}

fn values_at(base: u32) -> u32 {
    return base + 192u * params.key_dim;
}

//# when prepare_channels scores_channels
fn log_decays_at(base: u32) -> u32 {
    return base + 192u * params.key_dim + 64u * params.value_dim;
}

//# when prepare prepare_channels
/// [chunks, value_heads, chunk_size].
@group(0) @binding(_) var<storage, read_write> work: array<f32>;
/// The decay over each chunk, [chunks, value_heads, decays].
@group(0) @binding(_) var<storage, read_write> chunk_decays: array<f32>;

/// [64]: factors on the queries and keys of the chunk's tokens, which bring them to their length.
var<workgroup> query_factors: array<f32, 64>;
var<workgroup> key_factors: array<f32, 64>;
/// [64, 4].
var<workgroup> squares: array<vec2<f32>, 256>;

/// Fills the factors; 256 threads, four of which take a token.
fn find_lengths(head: u32, first: u32, count: u32, thread: u32) {
    var sums = vec2(0.0);
    if thread / 4u < count {
        let at = row_of(first + thread / 4u) + query_column(head);
        for (var i = thread % 4u; i < params.key_dim; i += 4u) {
            let pair = vec2(qkv[at + i], qkv[at + params.key_heads * params.key_dim + i]);
            sums += pair * pair;
        }
    }
    squares[thread] = sums;
    workgroupBarrier();
    if thread < 64u {
        let at = thread * 4u;
        let sum = squares[at] + squares[at + 1u] + squares[at + 2u] + squares[at + 3u];
        let factors = inverseSqrt(sum + params.norm_eps);
        query_factors[thread] = factors.x * inverseSqrt(f32(params.key_dim));
        key_factors[thread] = factors.y;
    }
    workgroupBarrier();
}

//# when prepare
// A workgroup takes a head of a chunk.
//# use decays

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.value_heads + head;
    let base = chunk_head * chunk_size();
    find_lengths(head, first, count, thread);
    var own = 0.0;
    if thread < count {
        own = log_decay(first + thread, head, 0u);
    }
    sum_decays(own, thread);
    if thread == 0u {
        chunk_decays[chunk_head] = exp(decay_until(CHUNK - 1u));
    }
    for (var i = thread; i < CHUNK * params.key_dim; i += 256u) {
        let t = i / params.key_dim;
        var q = 0.0;
        var k = 0.0;
        if t < count {
            let at = row_of(first + t) + query_column(head) + i % params.key_dim;
            q = query_factors[t] * qkv[at];
            k = key_factors[t] * qkv[at + params.key_heads * params.key_dim];
        }
        let until = exp(decay_until(t));
        work[base + i] = until * q;
        work[keys_at(base) + i] = until * k;
        work[rest_at(base) + i] = exp(decay_after(t)) * k;
    }
}

//# when prepare_channels
// A workgroup takes a head of a chunk, a thread a channel.
const CHUNK: u32 = 64u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.value_heads + head;
    let base = chunk_head * chunk_size();
    let key_dim = params.key_dim;
    find_lengths(head, first, count, thread);
    for (var channel = thread; channel < key_dim; channel += 256u) {
        var until = 0.0;
        for (var t = 0u; t < CHUNK; t += 1u) {
            var g = 0.0;
            var q = 0.0;
            var k = 0.0;
            if t < count {
                let at = row_of(first + t) + query_column(head) + channel;
                g = log_decay(first + t, head, channel);
                q = query_factors[t] * qkv[at];
                k = key_factors[t] * qkv[at + params.key_heads * key_dim];
            }
            until += g;
            let factor = exp(until);
            let place = t * key_dim + channel;
            work[log_decays_at(base) + place] = g;
            work[base + place] = factor * q;
            work[keys_at(base) + place] = factor * k;
        }
        chunk_decays[chunk_head * key_dim + channel] = exp(until);
        var after = 0.0;
        for (var back = 0u; back < CHUNK; back += 1u) {
            let t = CHUNK - 1u - back;
            let place = t * key_dim + channel;
            var k = 0.0;
            if t < count {
                k = key_factors[t] * qkv[row_of(first + t) + query_column(head) + params.key_heads * key_dim + channel];
            }
            work[rest_at(base) + place] = exp(after) * k;
            after += work[log_decays_at(base) + place];
        }
    }
}

//# when scores scores_channels
/// [chunks, value_heads, 2, 64, 64]: P, then L, transposed: by j.
@group(0) @binding(_) var<storage, read_write> scores: array<f32>;

/// Writes a thread's decayed products of queries and of keys, of tokens `thread / 16 * 4 ..`, with keys of tokens `thread % 16 * 4 ..`.
fn write_scores(
    head: u32, first: u32, count: u32, chunk_head: u32, thread: u32,
    products: array<vec4<f32>, 4>, system: array<vec4<f32>, 4>,
) {
    var qk = products;
    var kk = system;
    let at = chunk_head * 8192u;
    for (var i = 0u; i < 4u; i += 1u) {
        let place = thread / 16u * 4u + i;
        var beta = 0.0;
        if place < count {
            beta = beta_of(first + place, head);
        }
        for (var c = 0u; c < 4u; c += 1u) {
            let j = thread % 16u * 4u + c;
            scores[at + place * 64u + j] = select(0.0, qk[i][c], j <= place && place < count);
            scores[at + 4096u + j * 64u + place] = select(0.0, -beta * kk[i][c], j < place && place < count);
        }
    }
}

//# when scores
// A workgroup takes a head of a chunk.
//# use products
//# use decays

/// [SIDE / 4]: squared lengths of four queries and of four keys, then factors.
var<workgroup> query_squares: array<vec4<f32>, 16>;
var<workgroup> key_squares: array<vec4<f32>, 16>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.value_heads + head;
    let key_dim = params.key_dim;
    var gate = 0.0;
    if thread < count {
        gate = log_decay(first + thread, head, 0u);
    }
    sum_decays(gate, thread);
    var qk = empty_block();
    var kk = empty_block();
    var query_sum = vec4(0.0);
    var key_sum = vec4(0.0);
    for (var base = 0u; base < key_dim; base += DEPTH) {
        let r = base + thread % DEPTH;
        var q = vec4(0.0);
        var k = vec4(0.0);
        if r < key_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                let place = thread / DEPTH * 4u + i;
                if place < count {
                    let at = row_of(first + place) + query_column(head) + r;
                    q[i] = qkv[at];
                    k[i] = qkv[at + params.key_heads * key_dim];
                }
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = q;
        right_tile[thread % DEPTH * COLUMN + thread / DEPTH] = k;
        workgroupBarrier();
        add_product(&qk, thread);
        for (var d = 0u; d < DEPTH; d += 1u) {
            let left = right_tile[d * COLUMN + thread / 16u];
            let right = right_tile[d * COLUMN + thread % 16u];
            kk[0] += left.x * right;
            kk[1] += left.y * right;
            kk[2] += left.z * right;
            kk[3] += left.w * right;
        }
        if thread < 16u {
            for (var d = 0u; d < DEPTH; d += 1u) {
                let q = left_tile[d * COLUMN + thread];
                let k = right_tile[d * COLUMN + thread];
                query_sum += q * q;
                key_sum += k * k;
            }
        }
        workgroupBarrier();
    }
    if thread < 16u {
        query_squares[thread] = inverseSqrt(query_sum + params.norm_eps) * inverseSqrt(f32(key_dim));
        key_squares[thread] = inverseSqrt(key_sum + params.norm_eps);
    }
    workgroupBarrier();
    let columns = key_squares[thread % 16u];
    for (var i = 0u; i < 4u; i += 1u) {
        let place = thread / 16u * 4u + i;
        var factors = vec4(0.0);
        for (var c = 0u; c < 4u; c += 1u) {
            let j = thread % 16u * 4u + c;
            if j <= place {
                factors[c] = exp(decay_between(j, place));
            }
        }
        qk[i] *= factors * columns * query_squares[thread / 16u][i];
        kk[i] *= factors * columns * key_squares[thread / 16u][i];
    }
    write_scores(head, first, count, chunk_head, thread, qk, kk);
}

//# when scores_channels
// A workgroup takes a head of a chunk, a thread four rows by four columns: two blocks of four tokens each. The decay from one token to
// another is that to the end of its block, over the blocks between, and from the beginning of the other's block.
const CHUNK: u32 = 64u;
/// Channels at a time.
const DEPTH: u32 = 8u;
const COLUMN: u32 = 17u;

/// [chunks, value_heads, chunk_size].
@group(0) @binding(_) var<storage, read> work: array<f32>;

/// [DEPTH, 16]: queries and keys of four tokens, decayed from the beginning of their block; keys decayed to its end.
var<workgroup> query_tile: array<vec4<f32>, 136>;
var<workgroup> key_tile: array<vec4<f32>, 136>;
var<workgroup> rest_tile: array<vec4<f32>, 136>;
/// [DEPTH, 16]: log decays of the blocks.
var<workgroup> block_decays: array<f32, 136>;
/// [64]: squared lengths, then factors.
var<workgroup> query_squares: array<vec4<f32>, 16>;
var<workgroup> key_squares: array<vec4<f32>, 16>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.value_heads + head;
    let base = log_decays_at(chunk_head * chunk_size());
    let key_dim = params.key_dim;
    let row_block = thread / 16u;
    let column_block = thread % 16u;
    var qk = array<vec4<f32>, 4>(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
    var kk = array<vec4<f32>, 4>(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
    var query_sum = vec4(0.0);
    var key_sum = vec4(0.0);
    for (var start = 0u; start < key_dim; start += DEPTH) {
        // A thread brings four tokens of a channel.
        if thread < 16u * DEPTH {
            let block = thread / DEPTH;
            let channel = start + thread % DEPTH;
            var q = vec4(0.0);
            var k = vec4(0.0);
            var g = vec4(0.0);
            if channel < key_dim {
                for (var i = 0u; i < 4u; i += 1u) {
                    let place = block * 4u + i;
                    if place < count {
                        let at = row_of(first + place) + query_column(head) + channel;
                        q[i] = qkv[at];
                        k[i] = qkv[at + params.key_heads * key_dim];
                        g[i] = work[base + place * key_dim + channel];
                    }
                }
            }
            let until = exp(vec4(g.x, g.x + g.y, g.x + g.y + g.z, g.x + g.y + g.z + g.w));
            let after = exp(vec4(g.y + g.z + g.w, g.z + g.w, g.w, 0.0));
            let at = thread % DEPTH * COLUMN + block;
            query_tile[at] = until * q;
            key_tile[at] = until * k;
            rest_tile[at] = after * k;
            block_decays[at] = g.x + g.y + g.z + g.w;
        }
        workgroupBarrier();
        let depth = min(DEPTH, key_dim - start);
        if row_block > column_block {
            for (var d = 0u; d < depth; d += 1u) {
                var between = 0.0;
                for (var block = column_block + 1u; block < row_block; block += 1u) {
                    between += block_decays[d * COLUMN + block];
                }
                let right = exp(between) * rest_tile[d * COLUMN + column_block];
                let q = query_tile[d * COLUMN + row_block];
                let k = key_tile[d * COLUMN + row_block];
                qk[0] += q.x * right;
                qk[1] += q.y * right;
                qk[2] += q.z * right;
                qk[3] += q.w * right;
                kk[0] += k.x * right;
                kk[1] += k.y * right;
                kk[2] += k.z * right;
                kk[3] += k.w * right;
            }
        }
        if row_block == column_block {
            for (var d = 0u; d < depth; d += 1u) {
                var q = vec4(0.0);
                var k = vec4(0.0);
                var g = vec4(0.0);
                for (var i = 0u; i < 4u; i += 1u) {
                    let place = row_block * 4u + i;
                    if place < count {
                        let at = row_of(first + place) + query_column(head) + start + d;
                        q[i] = qkv[at];
                        k[i] = qkv[at + params.key_heads * key_dim];
                        g[i] = work[base + place * key_dim + start + d];
                    }
                }
                query_sum += q * q;
                key_sum += k * k;
                // Keys, decayed to each row of the block.
                var right = vec4(k.x, 0.0, 0.0, 0.0);
                qk[0] += q.x * right;
                right = vec4(right.x * exp(g.y), k.y, 0.0, 0.0);
                qk[1] += q.y * right;
                kk[1] += k.y * right;
                right = vec4(right.xy * exp(g.z), k.z, 0.0);
                qk[2] += q.z * right;
                kk[2] += k.z * right;
                right = vec4(right.xyz * exp(g.w), k.w);
                qk[3] += q.w * right;
                kk[3] += k.w * right;
            }
        }
        workgroupBarrier();
    }
    if row_block == column_block {
        query_squares[row_block] = inverseSqrt(query_sum + params.norm_eps) * inverseSqrt(f32(key_dim));
        key_squares[row_block] = inverseSqrt(key_sum + params.norm_eps);
    }
    workgroupBarrier();
    for (var i = 0u; i < 4u; i += 1u) {
        qk[i] *= key_squares[column_block] * query_squares[row_block][i];
        kk[i] *= key_squares[column_block] * key_squares[row_block][i];
    }
    write_scores(head, first, count, chunk_head, thread, qk, kk);
}

//# when solve
// A thread takes a column of a chunk's system: of the keys or of the values.
const CHUNK: u32 = 64u;
/// Rows that are solved together.
const ROWS: u32 = 8u;

/// [chunks, value_heads, chunk_size].
@group(0) @binding(_) var<storage, read_write> work: array<f32>;
/// [chunks, value_heads, 2, 64, 64 / 4]: P, then L, transposed: four rows of a column.
@group(0) @binding(_) var<storage, read> scores: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let blocks = (params.key_dim + params.value_dim + 255u) / 256u;
    let head = group.x / blocks;
    let column = group.x % blocks * 256u + thread;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.value_heads + head;
    let base = chunk_head * chunk_size();
    let system = chunk_head * 2048u + 1024u;
    if column >= params.key_dim + params.value_dim {
        return;
    }
    let is_key = column < params.key_dim;
    let width = select(params.value_dim, params.key_dim, is_key);
    let solved = select(values_at(base) + column - params.key_dim, keys_at(base) + column, is_key);
    let values = value_column(head) + column - params.key_dim;
    for (var start = 0u; start < CHUNK; start += ROWS) {
        var low = vec4(0.0);
        var high = vec4(0.0);
        for (var i = 0u; i < 4u; i += 1u) {
            low[i] = right_side(first, start + i, count, head, is_key, solved + (start + i) * width, values);
            high[i] = right_side(first, start + 4u + i, count, head, is_key, solved + (start + 4u + i) * width, values);
        }
        for (var j = 0u; j < start; j += 1u) {
            let x = work[solved + j * width];
            let at = system + j * 16u + start / 4u;
            low += x * scores[at];
            high += x * scores[at + 1u];
        }
        // The block itself: each row, once solved, adds to those that follow.
        for (var j = 0u; j < 4u; j += 1u) {
            let at = system + (start + j) * 16u + start / 4u;
            let x = low[j];
            low += x * scores[at];
            high += x * scores[at + 1u];
        }
        for (var j = 0u; j < 4u; j += 1u) {
            high += high[j] * scores[system + (start + 4u + j) * 16u + start / 4u + 1u];
        }
        for (var i = 0u; i < 4u; i += 1u) {
            work[solved + (start + i) * width] = low[i];
            work[solved + (start + 4u + i) * width] = high[i];
        }
    }
}

/// Row `place` of what a column's system equals: keys are where the solution goes.
fn right_side(first: u32, place: u32, count: u32, head: u32, is_key: bool, at: u32, column: u32) -> f32 {
    if place >= count {
        return 0.0;
    }
    var value = 0.0;
    if is_key {
        value = work[at];
    } else {
        value = qkv[row_of(first + place) + column];
    }
    return beta_of(first + place, head) * value;
}

//# when pass
// A workgroup takes 16 columns of a head's state through the chunks.
const CHUNK: u32 = 64u;
const COLUMNS: u32 = 16u;
/// Terms of a product at a time.
const DEPTH: u32 = 16u;

/// [chunks, value_heads, chunk_size].
@group(0) @binding(_) var<storage, read_write> work: array<f32>;
/// The decay over each chunk, [chunks, value_heads, decays].
@group(0) @binding(_) var<storage, read> chunk_decays: array<f32>;
/// The state before each chunk, [chunks, value_heads, key_dim, value_dim].
@group(0) @binding(_) var<storage, read_write> states: array<f32>;

/// [CHUNK, COLUMNS]: U.
var<workgroup> updates: array<f32, 1024>;
/// [DEPTH, CHUNK]: W or keys, by term, with a gap that keeps threads apart in memory's banks.
var<workgroup> left: array<f32, 1040>;
/// [DEPTH, COLUMNS]: S.
var<workgroup> right: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let column = group.y * COLUMNS + thread % COLUMNS;
    let key_dim = params.key_dim;
    let value_dim = params.value_dim;
    let used = column < value_dim;
    let memory = key_dim * value_dim;
    let row = thread / COLUMNS;
    let chunks = (runs[group.z].tokens + CHUNK - 1u) / CHUNK;
    let own = runs[group.z].slot * KEPT_UNIT + head * memory + column;
    // The state before the first chunk. Every thread reads and writes the same elements throughout: rows `row + 16 i` of its column.
    if used {
        for (var r = row; r < key_dim; r += 16u) {
            states[head * memory + r * value_dim + column] = f32(state[own + r * value_dim]);
        }
    }
    for (var chunk = 0u; chunk < chunks; chunk += 1u) {
        let chunk_head = chunk * params.value_heads + head;
        let base = chunk_head * chunk_size();
        let before = chunk_head * memory + column;
        // U = V' - W S: a thread has tokens `row * 4 ..`.
        var u = vec4(0.0);
        for (var start = 0u; start < key_dim; start += DEPTH) {
            for (var i = thread; i < CHUNK * DEPTH; i += 256u) {
                var w = 0.0;
                if start + i % DEPTH < key_dim {
                    w = work[keys_at(base) + i / DEPTH * key_dim + start + i % DEPTH];
                }
                left[i % DEPTH * 65u + i / DEPTH] = w;
            }
            var s = 0.0;
            if start + row < key_dim && used {
                s = states[before + (start + row) * value_dim];
            }
            right[thread] = s;
            workgroupBarrier();
            for (var d = 0u; d < DEPTH; d += 1u) {
                let at = d * 65u + row * 4u;
                u += right[d * COLUMNS + thread % COLUMNS] * vec4(left[at], left[at + 1u], left[at + 2u], left[at + 3u]);
            }
            workgroupBarrier();
        }
        for (var i = 0u; i < 4u; i += 1u) {
            let place = row * 4u + i;
            var value = 0.0;
            if used {
                let at = values_at(base) + place * value_dim + column;
                value = work[at] - u[i];
                work[at] = value;
            }
            updates[place * COLUMNS + thread % COLUMNS] = value;
        }
        workgroupBarrier();
        // S = diag(decay) S + K^T U, by 64 rows: a thread has rows `row + 16 i` of them.
        for (var start = 0u; start < key_dim; start += 64u) {
            var sum = vec4(0.0);
            for (var token = 0u; token < CHUNK; token += DEPTH) {
                for (var i = thread; i < 64u * DEPTH; i += 256u) {
                    var k = 0.0;
                    if start + i % 64u < key_dim {
                        k = work[rest_at(base) + (token + i / 64u) * key_dim + start + i % 64u];
                    }
                    left[i / 64u * 65u + i % 64u] = k;
                }
                workgroupBarrier();
                for (var d = 0u; d < DEPTH; d += 1u) {
                    let at = d * 65u + row;
                    let update = updates[(token + d) * COLUMNS + thread % COLUMNS];
                    sum += update * vec4(left[at], left[at + 16u], left[at + 32u], left[at + 48u]);
                }
                workgroupBarrier();
            }
            for (var i = 0u; i < 4u; i += 1u) {
                let r = start + row + 16u * i;
                if r < key_dim && used {
                    let decay = chunk_decays[chunk_head * params.decays + min(r, params.decays - 1u)];
                    let value = decay * states[before + r * value_dim] + sum[i];
                    if chunk + 1u < chunks {
                        states[before + params.value_heads * memory + r * value_dim] = value;
                    } else {
                        state[own + r * value_dim] = kept(value);
                    }
                }
            }
        }
    }
}

//# when outputs
// A workgroup takes 64 columns of a head and a chunk.
//# use products
const CHUNK: u32 = 64u;

/// [chunks, value_heads, chunk_size].
@group(0) @binding(_) var<storage, read> work: array<f32>;
/// [chunks, value_heads, 2, 64, 64]: P first.
@group(0) @binding(_) var<storage, read> scores: array<f32>;
/// The state before each chunk, [chunks, value_heads, key_dim, value_dim].
@group(0) @binding(_) var<storage, read> states: array<f32>;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// Four elements of a row that begins at `at` and has `width`, from `column` on.
fn quad_of_state(at: u32, column: u32) -> vec4<f32> {
    var value = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.value_dim {
            value[i] = states[at + column + i];
        }
    }
    return value;
}

fn quad_of_work(at: u32, column: u32) -> vec4<f32> {
    var value = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.value_dim {
            value[i] = work[at + column + i];
        }
    }
    return value;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let across = (params.value_dim + SIDE - 1u) / SIDE;
    let head = group.x / across;
    let first_column = group.x % across * SIDE;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.value_heads + head;
    let base = chunk_head * chunk_size();
    let key_dim = params.key_dim;
    let value_dim = params.value_dim;
    let column = first_column + thread % 16u * 4u;
    var block = empty_block();
    for (var start = 0u; start < key_dim; start += DEPTH) {
        var q = vec4(0.0);
        let r = start + thread % DEPTH;
        if r < key_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                q[i] = work[base + (thread / DEPTH * 4u + i) * key_dim + r];
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = q;
        var s = vec4(0.0);
        let row = start + thread / 16u;
        if row < key_dim {
            s = quad_of_state((chunk_head * key_dim + row) * value_dim, column);
        }
        right_tile[thread / 16u * COLUMN + thread % 16u] = s;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }
    for (var start = 0u; start < count; start += DEPTH) {
        var weights = vec4(0.0);
        for (var i = 0u; i < 4u; i += 1u) {
            weights[i] = scores[chunk_head * 8192u + (thread / DEPTH * 4u + i) * SIDE + start + thread % DEPTH];
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = weights;
        let place = start + thread / 16u;
        right_tile[thread / 16u * COLUMN + thread % 16u] = quad_of_work(values_at(base) + place * value_dim, column);
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let place = thread / 16u * 4u + i;
        if place < count {
            let at = (step.start + first + place) * params.output_stride + head * value_dim + column;
            for (var j = 0u; j < 4u; j += 1u) {
                if column + j < value_dim {
                    output[at + j] = block[i][j];
                }
            }
        }
    }
}
