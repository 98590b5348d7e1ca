// `linear_attention`: for each head of decay a, with q, k and v passed through the activation, S = a S + k v^T, y = scale S^T q. Few
// tokens step through the recurrence, all in one dispatch. Many go in chunks of 64 as matrix products: for token i of a chunk of n
// tokens, counted from 0,
//
//     Y = (Q K^T * L) V + diag(a^(i+1)) Q S,   L[i,j] = a^(i-j)  for j <= i, else 0
//     S = a^n S + (diag(a^(n-1-i)) K)^T V
//
// Dispatches: `scores`, Q K^T; `states`, what each chunk adds to S; `pass`, S before each chunk; `outputs`.
//# kernel LinearAttentionStep step states reduce: few tokens
//# kernel LinearAttentionStepAny step_any states reduce: few tokens, for heads whose values' width is not a multiple of 4
//# kernel LinearAttentionScores scores: many tokens: Q K^T of each chunk
//# kernel LinearAttentionStates states: many tokens: what each chunk adds to the state
//# kernel LinearAttentionPass pass states: many tokens: the state before each chunk
//# kernel LinearAttentionOutputs outputs: many tokens: the outputs
//# use math
//# when step step_any pass
//# use runs
//# unless step step_any pass
//# use step
//# end

struct Params {
    heads: u32,
    key_dim: u32,
    value_dim: u32,
    /// First columns of head 0, and columns from one head to the next.
    queries: u32,
    queries_stride: u32,
    keys: u32,
    keys_stride: u32,
    values: u32,
    values_stride: u32,
    /// On q, k and v; `ABSENT` where there is none.
    activation: u32,
    scale: f32,
    /// Logarithm of each head's decay, [heads], in `vectors`.
    log_decays: u32,
    input_stride: u32,
    output_stride: u32,
}

@group(0) @binding(_) var<uniform> params: Params;

//# when step step_any pass states outputs
/// The op's small tensors, one after the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;

/// A head's decay over `tokens` tokens.
fn decay(head: u32, tokens: u32) -> f32 {
    return exp(vectors[params.log_decays + head] * f32(tokens));
}

//# when step step_any scores states outputs
/// [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;

/// A column of the input at token `t` of the run, passed through the activation.
fn activated(t: u32, column: u32) -> f32 {
    let x = input[(step.start + t) * params.input_stride + column];
    if params.activation == ABSENT {
        return x;
    }
    return activation(params.activation, x);
}

//# when step step_any outputs scores
fn query(t: u32, head: u32, n: u32) -> f32 {
    return params.scale * activated(t, params.queries + head * params.queries_stride + n);
}

//# when step step_any states scores
fn key(t: u32, head: u32, n: u32) -> f32 {
    return activated(t, params.keys + head * params.keys_stride + n);
}

//# when step step_any states outputs
fn value(t: u32, head: u32, n: u32) -> f32 {
    return activated(t, params.values + head * params.values_stride + n);
}

//# when step step_any pass
//# use weights

//# when step
/// S, [heads, key_dim, value_dim / 4].
@group(0) @binding(_) var<storage, read_write> state: array<Kept4>;

/// Four columns of row `row` of all heads' rows.
fn load_state(row: u32, column: u32) -> vec4<f32> {
    return vec4<f32>(state[step.slot * KEPT4_UNIT + (row * params.value_dim + column) / 4u]);
}

fn store_state(row: u32, column: u32, value: vec4<f32>) {
    state[step.slot * KEPT4_UNIT + (row * params.value_dim + column) / 4u] = kept4(value);
}

//# when step_any
/// S, [heads, key_dim, value_dim].
@group(0) @binding(_) var<storage, read_write> state: array<Kept>;

/// Four columns of row `row` of all heads' rows.
fn load_state(row: u32, column: u32) -> vec4<f32> {
    var value = vec4(0.0);
    for (var i = 0u; i < min(4u, params.value_dim - column); i += 1u) {
        value[i] = f32(state[step.slot * KEPT_UNIT + row * params.value_dim + column + i]);
    }
    return value;
}

fn store_state(row: u32, column: u32, value: vec4<f32>) {
    for (var i = 0u; i < min(4u, params.value_dim - column); i += 1u) {
        state[step.slot * KEPT_UNIT + row * params.value_dim + column + i] = kept(value[i]);
    }
}

//# when step step_any
// A workgroup takes 16 columns of a head's state through the run's tokens; its 256 threads hold four columns of up to four
// rows each, so that 256 rows fit in a pass.
//# use reduce

/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

const THREADS: u32 = 256u;
/// Most tokens of a run.
const MOST: u32 = 4u;
/// Columns of the state in a workgroup.
const COLUMNS: u32 = 16u;
const QUADS: u32 = 4u;
/// Threads that share a column.
const SHARES: u32 = 64u;
/// Rows of a thread.
const HELD: u32 = 4u;
/// Rows of a pass.
const PASS: u32 = 256u;
/// v of this workgroup's columns, k and q of the pass.
const ROW: u32 = 528u;

/// [MOST, ROW].
var<workgroup> tokens: array<f32, 2112>;

@compute @workgroup_size(THREADS)
//# use main
    step = runs[group.z];
    let count = runs[group.z].tokens;
    let thread = thread_of(ids);
    let head = group.x;
    let first_column = group.y * COLUMNS;
    let columns = min(COLUMNS, params.value_dim - first_column);
    let column = thread % QUADS * 4u;
    let share = thread / QUADS;
    let used = column < columns;
    let first_row = head * params.key_dim;
    let fade = decay(head, 1u);

    for (var first = 0u; first < params.key_dim; first += PASS) {
        let width = min(PASS, params.key_dim - first);
        // What takes longest comes first.
        var held: array<vec4<f32>, HELD>;
        for (var i = 0u; i < HELD; i += 1u) {
            let n = i * SHARES + share;
            held[i] = vec4(0.0);
            if n < width && used {
                held[i] = load_state(first_row + first + n, first_column + column);
            }
        }
        for (var i = thread; i < count * (COLUMNS + 2u * width); i += THREADS) {
            let t = i / (COLUMNS + 2u * width);
            let place = i % (COLUMNS + 2u * width);
            if place >= COLUMNS + width {
                let n = place - COLUMNS - width;
                tokens[t * ROW + COLUMNS + PASS + n] = query(t, head, first + n);
            } else if place >= COLUMNS {
                tokens[t * ROW + place] = key(t, head, first + place - COLUMNS);
            } else if place < columns {
                tokens[t * ROW + place] = value(t, head, first_column + place);
            } else {
                tokens[t * ROW + place] = 0.0;
            }
        }
        workgroupBarrier();
        for (var t = 0u; t < count; t += 1u) {
            let at = t * ROW + column;
            let v = vec4(tokens[at], tokens[at + 1u], tokens[at + 2u], tokens[at + 3u]);
            var sum = vec4(0.0);
            for (var i = 0u; i < HELD; i += 1u) {
                let n = i * SHARES + share;
                if n < width && used {
                    held[i] = fade * held[i] + tokens[t * ROW + COLUMNS + n] * v;
                    sum += tokens[t * ROW + COLUMNS + PASS + n] * held[i];
                    if t + 1u == count {
                        store_state(first_row + first + n, first_column + column, held[i]);
                    }
                }
            }
            sum = sum_strided(sum, ids, QUADS);
            if share == 0u && used {
                for (var i = 0u; i < min(4u, columns - column); i += 1u) {
                    let place = (step.start + t) * params.output_stride + head * params.value_dim + first_column + column + i;
                    if first == 0u {
                        output[place] = sum[i];
                    } else {
                        output[place] += sum[i];
                    }
                }
            }
        }
        // The next pass fills `tokens` only when all have read it.
        workgroupBarrier();
    }
}

//# when scores
// A workgroup takes a head of a chunk.
//# use products

/// Q K^T, [chunks, heads, SIDE, SIDE].
@group(0) @binding(_) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.y * SIDE;
    let count = min(SIDE, step.tokens - first);
    var block = empty_block();
    for (var base = 0u; base < params.key_dim; base += DEPTH) {
        let n = base + thread % DEPTH;
        let quad = thread / DEPTH;
        var k = vec4(0.0);
        var q = vec4(0.0);
        if n < params.key_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                if quad * 4u + i < count {
                    k[i] = key(first + quad * 4u + i, group.x, n);
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
fn load_value(t: u32, head: u32, column: u32) -> vec4<f32> {
    var v = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.value_dim {
            v[i] = value(t, head, column + i);
        }
    }
    return v;
}

//# when states
// A workgroup takes 64 rows by 64 columns of a head's state and a chunk.

/// What each chunk adds to S, [chunks, heads, key_dim, value_dim].
@group(0) @binding(_) var<storage, read_write> added: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let across = (params.value_dim + SIDE - 1u) / SIDE;
    let down = (params.key_dim + SIDE - 1u) / SIDE;
    let head = group.x / (across * down);
    let first_row = group.x / across % down * SIDE;
    let first_column = group.x % across * SIDE;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    var block = empty_block();
    for (var base = 0u; base < count; base += DEPTH) {
        let place = base + thread / 16u;
        var k = vec4(0.0);
        var v = vec4(0.0);
        if place < count {
            let factor = decay(head, count - 1u - place);
            let n = first_row + thread % 16u * 4u;
            for (var i = 0u; i < 4u; i += 1u) {
                if n + i < params.key_dim {
                    k[i] = factor * key(first + place, head, n + i);
                }
            }
            v = load_value(first + place, head, first_column + thread % 16u * 4u);
        }
        left_tile[thread / 16u * COLUMN + thread % 16u] = k;
        right_tile[thread / 16u * COLUMN + thread % 16u] = v;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }
    let chunk_head = group.y * params.heads + head;
    for (var i = 0u; i < 4u; i += 1u) {
        let n = first_row + thread / 16u * 4u + i;
        for (var j = 0u; j < 4u; j += 1u) {
            let p = first_column + thread % 16u * 4u + j;
            if n < params.key_dim && p < params.value_dim {
                added[(chunk_head * params.key_dim + n) * params.value_dim + p] = block[i][j];
            }
        }
    }
}

//# when pass
// A thread takes an element of the state through the chunks.
const THREADS: u32 = 256u;
const CHUNK: u32 = 64u;

/// What each chunk adds to S, then S before each chunk, [chunks, heads, key_dim, value_dim].
@group(0) @binding(_) var<storage, read_write> states: array<f32>;
/// S, [heads, key_dim, value_dim].
@group(0) @binding(_) var<storage, read_write> state: array<Kept>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    step = runs[group.z];
    let size = params.key_dim * params.value_dim;
    let element = group.x * THREADS + thread;
    if element < size {
        let head = group.y;
        let chunks = (step.tokens + CHUNK - 1u) / CHUNK;
        let place = step.slot * KEPT_UNIT + head * size + element;
        var value = f32(state[place]);
        for (var chunk = 0u; chunk < chunks; chunk += 1u) {
            let at = (chunk * params.heads + head) * size + element;
            let added = states[at];
            states[at] = value;
            value = decay(head, min(CHUNK, step.tokens - chunk * CHUNK)) * value + added;
        }
        state[place] = kept(value);
    }
}

//# when outputs
// A workgroup takes 64 columns of a head and a chunk.

/// Q K^T, [chunks, heads, SIDE, SIDE].
@group(0) @binding(_) var<storage, read> scores: array<f32>;
/// S before each chunk, [chunks, heads, key_dim, value_dim].
@group(0) @binding(_) var<storage, read> states: array<f32>;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let across = (params.value_dim + SIDE - 1u) / SIDE;
    let head = group.x / across;
    let first_column = group.x % across * SIDE;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.heads + head;

    // diag(a^(i+1)) Q S.
    var block = empty_block();
    for (var base = 0u; base < params.key_dim; base += DEPTH) {
        var q = vec4(0.0);
        let n = base + thread % DEPTH;
        if n < params.key_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                let place = thread / DEPTH * 4u + i;
                if place < count {
                    q[i] = decay(head, place + 1u) * query(first + place, head, n);
                }
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = q;
        var s = vec4(0.0);
        let row = base + thread / 16u;
        if row < params.key_dim {
            let column = first_column + thread % 16u * 4u;
            let at = (chunk_head * params.key_dim + row) * params.value_dim + column;
            for (var i = 0u; i < 4u; i += 1u) {
                if column + i < params.value_dim {
                    s[i] = states[at + i];
                }
            }
        }
        right_tile[thread / 16u * COLUMN + thread % 16u] = s;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }

    // (Q K^T * L) V.
    for (var base = 0u; base < count; base += DEPTH) {
        var weights = vec4(0.0);
        let j = base + thread % DEPTH;
        for (var i = 0u; i < 4u; i += 1u) {
            let place = thread / DEPTH * 4u + i;
            if j <= place && place < count {
                weights[i] = scores[chunk_head * SIDE * SIDE + place * SIDE + j] * decay(head, place - j);
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = weights;
        var v = vec4(0.0);
        let place = base + thread / 16u;
        if place < count {
            v = load_value(first + place, head, first_column + thread % 16u * 4u);
        }
        right_tile[thread / 16u * COLUMN + thread % 16u] = v;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }

    let column = first_column + thread % 16u * 4u;
    for (var i = 0u; i < 4u; i += 1u) {
        let place = thread / 16u * 4u + i;
        if place < count {
            let at = (step.start + first + place) * params.output_stride + head * params.value_dim + column;
            for (var j = 0u; j < 4u; j += 1u) {
                if column + j < params.value_dim {
                    output[at + j] = block[i][j];
                }
            }
        }
    }
}
