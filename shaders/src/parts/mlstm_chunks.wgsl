// The mLSTM scan of many tokens, in chunks, as products of tiles.

//# when scores states pass outputs
/// Numbers per chunk of a head: its sum of log forget gates, l of its last token, then for each token F, l and the sum
/// of its row of W.
const NUMBERS: u32 = 194u;
const LOG_DECAYS: u32 = 2u;
const LARGEST: u32 = 66u;
const DIVISORS: u32 = 130u;

//# when scores states
//# use products
//# use decays

/// [CHUNK]: input gates.
var<workgroup> input_gates: array<f32, CHUNK>;

/// Computes a chunk's input gates and the sums of its log forget gates.
fn prepare(head: u32, first: u32, count: u32, thread: u32) {
    var gate = vec2(0.0);
    if thread < count {
        gate = gates(first + thread, head);
    }
    if thread < CHUNK {
        input_gates[thread] = gate.x;
    }
    sum_decays(gate.y, thread);
}

/// Four elements of token `t` of the run, from `column` on, out of the `width` elements at `first`.
fn load_quad(t: u32, column: u32, first: u32, width: u32) -> vec4<f32> {
    var value = vec4(0.0);
    let at = row_of(t) + column + first;
    for (var i = 0u; i < 4u; i += 1u) {
        if first + i < width {
            value[i] = input[at + i];
        }
    }
    return value;
}

//# when scores
// One workgroup per head of a chunk.

/// W, [chunks, heads, SIDE, SIDE].
@group(0) @binding(_) var<storage, read_write> scores: array<f32>;
/// [chunks, heads, NUMBERS].
@group(0) @binding(_) var<storage, read_write> numbers: array<f32>;

/// [CHUNK]: l.
var<workgroup> largest: array<f32, CHUNK>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.heads + head;
    let numbers_at = chunk_head * NUMBERS;
    let key_dim = params.qk_head_dim;
    prepare(head, first, count, thread);
    if thread < count {
        var most = input_gates[thread];
        for (var j = 0u; j < thread; j += 1u) {
            most = max(most, decay_between(j, thread) + input_gates[j]);
        }
        largest[thread] = most;
        numbers[numbers_at + LARGEST + thread] = most;
        numbers[numbers_at + LOG_DECAYS + thread] = decay_until(thread);
        if thread + 1u == count {
            numbers[numbers_at] = decay_until(thread);
            numbers[numbers_at + 1u] = most;
        }
    }

    var block = empty_block();
    for (var base = 0u; base < key_dim; base += DEPTH) {
        let r = base + thread % DEPTH;
        var q = vec4(0.0);
        var k = vec4(0.0);
        if r < key_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                let place = thread / DEPTH * 4u + i;
                if place < count {
                    let row = row_of(first + place);
                    q[i] = input[row + head * key_dim + r];
                    k[i] = input[row + key_column(head) + r];
                }
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = q;
        right_tile[thread % DEPTH * COLUMN + thread / DEPTH] = k;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }
    var sums = vec4(0.0);
    let scale = inverseSqrt(f32(key_dim));
    for (var i = 0u; i < 4u; i += 1u) {
        let place = thread / 16u * 4u + i;
        for (var c = 0u; c < 4u; c += 1u) {
            let j = thread % 16u * 4u + c;
            var weight = 0.0;
            if j <= place && place < count {
                weight = exp(decay_between(j, place) + input_gates[j] - largest[place]) * scale * block[i][c];
            }
            scores[(chunk_head * SIDE + place) * SIDE + j] = weight;
            sums[i] += weight;
        }
    }
    right_tile[thread % 16u * COLUMN + thread / 16u] = sums;
    workgroupBarrier();
    if thread < 16u {
        for (var j = 1u; j < 16u; j += 1u) {
            right_tile[thread] += right_tile[j * COLUMN + thread];
        }
        for (var i = 0u; i < 4u; i += 1u) {
            numbers[numbers_at + DIVISORS + thread * 4u + i] = right_tile[thread][i];
        }
    }
}

//# when states
// One workgroup per 64 rows by 64 columns of a head's memory and chunk.

/// [chunks, heads, NUMBERS].
@group(0) @binding(_) var<storage, read> numbers: array<f32>;
/// What each chunk adds to the state, [chunks, heads, qk_head_dim * v_head_dim + qk_head_dim + 1].
@group(0) @binding(_) var<storage, read_write> added: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let across = (params.v_head_dim + SIDE - 1u) / SIDE;
    let down = (params.qk_head_dim + SIDE - 1u) / SIDE;
    let head = group.x / (across * down);
    let first_row = group.x / across % down * SIDE;
    let first_column = group.x % across * SIDE;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.heads + head;
    let most = numbers[chunk_head * NUMBERS + 1u];
    prepare(head, first, count, thread);
    var block = empty_block();
    // Each of the first 16 threads adds up four rows of n.
    var sum = vec4(0.0);
    for (var base = 0u; base < count; base += DEPTH) {
        let place = base + thread / 16u;
        let quad = thread % 16u * 4u;
        var k = vec4(0.0);
        var v = vec4(0.0);
        if place < count {
            let factor = exp(decay_after(place) + input_gates[place] - most);
            k = factor * load_quad(first + place, key_column(head), first_row + quad, params.qk_head_dim);
            v = load_quad(first + place, value_column(head), first_column + quad, params.v_head_dim);
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
    let at = chunk_head * head_state();
    for (var i = 0u; i < 4u; i += 1u) {
        let r = first_row + thread / 16u * 4u + i;
        for (var j = 0u; j < 4u; j += 1u) {
            let column = first_column + thread % 16u * 4u + j;
            if r < params.qk_head_dim && column < params.v_head_dim {
                added[at + r * params.v_head_dim + column] = block[i][j];
            }
        }
    }
    if thread < 16u && first_column == 0u {
        for (var i = 0u; i < 4u; i += 1u) {
            let r = first_row + thread * 4u + i;
            if r < params.qk_head_dim {
                added[at + params.qk_head_dim * params.v_head_dim + r] = sum[i];
            }
        }
    }
}

//# when pass
// Each thread takes an element of the state through the chunks.
const THREADS: u32 = 256u;
const CHUNK: u32 = 64u;

/// [chunks, heads, NUMBERS].
@group(0) @binding(_) var<storage, read> numbers: array<f32>;
/// What each chunk adds to the state; afterwards the state before each chunk, [chunks, heads, qk_head_dim * v_head_dim
/// + qk_head_dim + 1].
@group(0) @binding(_) var<storage, read_write> states: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    step = runs[group.z];
    let size = head_state();
    let memory = params.qk_head_dim * params.v_head_dim;
    let element = group.x * THREADS + thread;
    let head = group.y;
    if element < size {
        let chunks = (step.tokens + CHUNK - 1u) / CHUNK;
        let stabilizer = element + 1u == size;
        let sums = sums_at(head, step.parity);
        var read_at = memory_at(head) + element;
        var write_at = read_at;
        if element >= memory {
            read_at = sums + element - memory;
            write_at = sums_at(head, 1u - step.parity) + element - memory;
        }
        var m = f32(state[sums + params.qk_head_dim]);
        var value = f32(state[read_at]);
        for (var chunk = 0u; chunk < chunks; chunk += 1u) {
            let chunk_head = chunk * params.heads + head;
            let at = chunk_head * size + element;
            let total = numbers[chunk_head * NUMBERS];
            let largest = numbers[chunk_head * NUMBERS + 1u];
            let next = max(total + m, largest);
            if stabilizer {
                states[at] = m;
            } else {
                let added = states[at];
                states[at] = value;
                value = exp(total + m - next) * value + exp(largest - next) * added;
            }
            m = next;
        }
        state[write_at] = kept(select(value, m, stabilizer));
    }
}

//# when outputs
// One workgroup per 64 columns of a head and chunk.
//# use products
const CHUNK: u32 = 64u;

/// W, [chunks, heads, SIDE, SIDE].
@group(0) @binding(_) var<storage, read> scores: array<f32>;
/// [chunks, heads, NUMBERS].
@group(0) @binding(_) var<storage, read> numbers: array<f32>;
/// The state before each chunk, [chunks, heads, qk_head_dim * v_head_dim + qk_head_dim + 1].
@group(0) @binding(_) var<storage, read> states: array<f32>;
/// H, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// [CHUNK]: factors on the carried memory and on the chunk's own tokens; afterwards divisors.
var<workgroup> carries: array<f32, CHUNK>;
var<workgroup> owns: array<f32, CHUNK>;
var<workgroup> divisors: array<f32, CHUNK>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let across = (params.v_head_dim + SIDE - 1u) / SIDE;
    let head = group.x / across;
    let first_column = group.x % across * SIDE;
    let first = group.y * CHUNK;
    let count = min(CHUNK, step.tokens - first);
    let chunk_head = group.y * params.heads + head;
    let numbers_at = chunk_head * NUMBERS;
    let key_dim = params.qk_head_dim;
    let value_dim = params.v_head_dim;
    let memory = chunk_head * head_state();
    let sums = memory + key_dim * value_dim;
    let m = states[sums + key_dim];
    if thread < CHUNK {
        var carry = 0.0;
        var own = 0.0;
        var floor = 1.0;
        if thread < count {
            let decay = numbers[numbers_at + LOG_DECAYS + thread];
            let largest = numbers[numbers_at + LARGEST + thread];
            let stabilizer = max(decay + m, largest);
            carry = exp(decay + m - stabilizer) * inverseSqrt(f32(key_dim));
            own = exp(largest - stabilizer);
            floor = exp(-stabilizer);
        }
        carries[thread] = carry;
        owns[thread] = own;
        divisors[thread] = floor;
    }
    workgroupBarrier();

    var block = empty_block();
    // Each of the first 16 threads adds up Q n of four tokens.
    var carried = vec4(0.0);
    for (var base = 0u; base < key_dim; base += DEPTH) {
        var q = vec4(0.0);
        let r = base + thread % DEPTH;
        if r < key_dim {
            for (var i = 0u; i < 4u; i += 1u) {
                let place = thread / DEPTH * 4u + i;
                if place < count {
                    q[i] = carries[place] * input[row_of(first + place) + head * key_dim + r];
                }
            }
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = q;
        var c = vec4(0.0);
        let row = base + thread / 16u;
        if row < key_dim {
            let column = first_column + thread % 16u * 4u;
            for (var i = 0u; i < 4u; i += 1u) {
                if column + i < value_dim {
                    c[i] = states[memory + row * value_dim + column + i];
                }
            }
        }
        right_tile[thread / 16u * COLUMN + thread % 16u] = c;
        workgroupBarrier();
        add_product(&block, thread);
        if thread < 16u {
            for (var k = 0u; k < min(DEPTH, key_dim - base); k += 1u) {
                carried += states[sums + base + k] * left_tile[k * COLUMN + thread];
            }
        }
        workgroupBarrier();
    }
    for (var base = 0u; base < count; base += DEPTH) {
        var weights = vec4(0.0);
        let j = base + thread % DEPTH;
        for (var i = 0u; i < 4u; i += 1u) {
            let place = thread / DEPTH * 4u + i;
            weights[i] = owns[place] * scores[(chunk_head * SIDE + place) * SIDE + j];
        }
        left_tile[thread % DEPTH * COLUMN + thread / DEPTH] = weights;
        var v = vec4(0.0);
        let place = base + thread / 16u;
        if place < count {
            let column = first_column + thread % 16u * 4u;
            let at = row_of(first + place) + value_column(head) + column;
            for (var i = 0u; i < 4u; i += 1u) {
                if column + i < value_dim {
                    v[i] = input[at + i];
                }
            }
        }
        right_tile[thread / 16u * COLUMN + thread % 16u] = v;
        workgroupBarrier();
        add_product(&block, thread);
        workgroupBarrier();
    }
    if thread < 16u {
        for (var i = 0u; i < 4u; i += 1u) {
            let place = thread * 4u + i;
            let sum = carried[i] + owns[place] * numbers[numbers_at + DIVISORS + place];
            divisors[place] = max(abs(sum), divisors[place]) + params.eps;
        }
    }
    workgroupBarrier();
    for (var i = 0u; i < 4u; i += 1u) {
        let place = thread / 16u * 4u + i;
        if place < count {
            let column = first_column + thread % 16u * 4u;
            let h = block[i] / divisors[place];
            let at = (step.start + first + place) * params.output_stride + head * value_dim + column;
            for (var j = 0u; j < 4u; j += 1u) {
                if column + j < value_dim {
                    output[at + j] = h[j];
                }
            }
        }
    }
}
