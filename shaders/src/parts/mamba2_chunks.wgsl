// The Mamba-2 scan of many tokens, in chunks, as products of tiles.

//# when scores states outputs
/// x, B, C, [T, channels], for the run's tokens.
@group(0) @binding(_) var<storage, read> convolved: array<f32>;

//# when scores
// One workgroup per group of a chunk.
//# use products

/// C B^T, [chunks, groups, SIDE, SIDE].
@group(0) @binding(_) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.y * SIDE;
    let count = min(SIDE, step.tokens - first);
    let b_at = params.heads * params.head_dim + group.x * params.state_dim;
    let c_at = b_at + params.groups * params.state_dim;
    var block = empty_block();
    for (var base = 0u; base < params.state_dim; base += DEPTH) {
        let n = base + thread % DEPTH;
        let quad = thread / DEPTH;
        var b = vec4(0.0);
        var c = vec4(0.0);
        if n < params.state_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                if quad * 4u + i < count {
                    let row = (first + quad * 4u + i) * params.channels;
                    b[i] = convolved[row + b_at + n];
                    c[i] = convolved[row + c_at + n];
                }
            }
        }
        left_tile[thread % DEPTH * COLUMN + quad] = c;
        right_tile[thread % DEPTH * COLUMN + quad] = b;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }
    let at = (group.y * params.groups + group.x) * SIDE * SIDE;
    for (var i = 0u; i < 4u; i += 1u) {
        for (var j = 0u; j < 4u; j += 1u) {
            scores[at + (thread / 16u * 4u + i) * SIDE + thread % 16u * 4u + j] = block[i][j];
        }
    }
}

//# when states outputs
//# use products
//# use decays

/// [CHUNK]: the step sizes of a head.
var<workgroup> step_sizes: array<f32, CHUNK>;

/// Computes the sums of a head's log decays, and its step sizes.
fn prepare(head: u32, first: u32, count: u32, thread: u32) {
    var dt = 0.0;
    if thread < count {
        dt = step_size(first + thread, head);
    }
    if thread < CHUNK {
        step_sizes[thread] = dt;
    }
    sum_decays(-dt * exp(vectors[params.a_log + head]), thread);
}

/// Four columns, from `column` on, of x of a head at token `t`.
fn load_x(t: u32, head: u32, column: u32) -> vec4<f32> {
    var x = vec4(0.0);
    let at = t * params.channels + head * params.head_dim + column;
    for (var i = 0u; i < 4u; i += 1u) {
        if column + i < params.head_dim {
            x[i] = convolved[at + i];
        }
    }
    return x;
}

//# when states
// One workgroup per 64 rows by 64 columns of a head's state and chunk.

/// What each chunk adds to S, [chunks, heads, state_dim, head_dim].
@group(0) @binding(_) var<storage, read_write> added: array<f32>;
/// Decay over each chunk, [chunks, heads].
@group(0) @binding(_) var<storage, read_write> chunk_decays: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let across = (params.head_dim + SIDE - 1u) / SIDE;
    let down = (params.state_dim + SIDE - 1u) / SIDE;
    let head = group.x / (across * down);
    let first_row = group.x / across % down * SIDE;
    let first_column = group.x % across * SIDE;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let b_at = params.heads * params.head_dim + head / (params.heads / params.groups) * params.state_dim;
    prepare(head, first, count, thread);
    var block = empty_block();
    for (var base = 0u; base < count; base += DEPTH) {
        let place = base + thread / 16u;
        var b = vec4(0.0);
        var x = vec4(0.0);
        if place < count {
            let factor = exp(decay_after(place)) * step_sizes[place];
            let n = first_row + thread % 16u * 4u;
            let row = (first + place) * params.channels + b_at + n;
            for (var i = 0u; i < 4u; i += 1u) {
                if n + i < params.state_dim {
                    b[i] = factor * convolved[row + i];
                }
            }
            x = load_x(first + place, head, first_column + thread % 16u * 4u);
        }
        left_tile[thread / 16u * COLUMN + thread % 16u] = b;
        right_tile[thread / 16u * COLUMN + thread % 16u] = x;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }
    let chunk_head = group.y * params.heads + head;
    for (var i = 0u; i < 4u; i += 1u) {
        let n = first_row + thread / 16u * 4u + i;
        for (var j = 0u; j < 4u; j += 1u) {
            let p = first_column + thread % 16u * 4u + j;
            if n < params.state_dim && p < params.head_dim {
                added[(chunk_head * params.state_dim + n) * params.head_dim + p] = block[i][j];
            }
        }
    }
    if thread == 0u && first_row == 0u && first_column == 0u {
        chunk_decays[chunk_head] = exp(decay_until(CHUNK - 1u));
    }
}

//# when pass
// Each thread takes an element of the state through the chunks.
const THREADS: u32 = 256u;
const CHUNK: u32 = 64u;

/// What each chunk adds to S; afterwards S before each chunk, [chunks, heads, state_dim, head_dim].
@group(0) @binding(_) var<storage, read_write> states: array<f32>;
/// Decay over each chunk, [chunks, heads].
@group(0) @binding(_) var<storage, read> chunk_decays: array<f32>;
/// S, [heads, state_dim, head_dim].
@group(0) @binding(_) var<storage, read_write> state: array<Kept>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    step = runs[group.z];
    let size = params.state_dim * params.head_dim;
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
            value = chunk_decays[chunk * params.heads + head] * value + added;
        }
        state[place] = kept(value);
    }
}

//# when outputs
// One workgroup per 64 columns of a head and chunk.

/// C B^T, [chunks, groups, SIDE, SIDE].
@group(0) @binding(_) var<storage, read> scores: array<f32>;
/// S before each chunk, [chunks, heads, state_dim, head_dim].
@group(0) @binding(_) var<storage, read> states: array<f32>;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// [CHUNK]: decays from the chunk's start.
var<workgroup> starts: array<f32, CHUNK>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let across = (params.head_dim + SIDE - 1u) / SIDE;
    let head = group.x / across;
    let first_column = group.x % across * SIDE;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let own_group = head / (params.heads / params.groups);
    let c_at = params.heads * params.head_dim + (params.groups + own_group) * params.state_dim;
    prepare(head, first, count, thread);
    if thread < CHUNK {
        starts[thread] = exp(decay_until(thread));
    }
    workgroupBarrier();

    // diag(e^s) C S.
    var block = empty_block();
    let chunk_head = group.y * params.heads + head;
    for (var base = 0u; base < params.state_dim; base += DEPTH) {
        var c = vec4(0.0);
        let n = base + thread % DEPTH;
        if n < params.state_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                let place = thread / DEPTH * 4u + i;
                if place < count {
                    c[i] = starts[place] * convolved[(first + place) * params.channels + c_at + n];
                }
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = c;
        var s = vec4(0.0);
        let row = base + thread / 16u;
        if row < params.state_dim {
            let column = first_column + thread % 16u * 4u;
            let at = (chunk_head * params.state_dim + row) * params.head_dim + column;
            for (var i = 0u; i < 4u; i += 1u) {
                if column + i < params.head_dim {
                    s[i] = states[at + i];
                }
            }
        }
        right_tile[thread / 16u * COLUMN + thread % 16u] = s;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }

    // (C B^T * L) X.
    let scores_at = (group.y * params.groups + own_group) * SIDE * SIDE;
    for (var base = 0u; base < count; base += DEPTH) {
        var weights = vec4(0.0);
        let j = base + thread % DEPTH;
        for (var i = 0u; i < 4u; i += 1u) {
            let place = thread / DEPTH * 4u + i;
            if j <= place && place < count {
                weights[i] = scores[scores_at + place * SIDE + j] * exp(decay_between(j, place)) * step_sizes[j];
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = weights;
        var x = vec4(0.0);
        let place = base + thread / 16u;
        if place < count {
            x = load_x(first + place, head, first_column + thread % 16u * 4u);
        }
        right_tile[thread / 16u * COLUMN + thread % 16u] = x;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }

    let d = vectors[params.d + head];
    let column = first_column + thread % 16u * 4u;
    for (var i = 0u; i < 4u; i += 1u) {
        let place = thread / 16u * 4u + i;
        if place < count {
            let y = block[i] + d * load_x(first + place, head, column);
            let at = (step.start + first + place) * params.output_stride + head * params.head_dim + column;
            for (var j = 0u; j < 4u; j += 1u) {
                if column + j < params.head_dim {
                    output[at + j] = y[j];
                }
            }
        }
    }
}
