// `mamba2_scan`: convolution and scan of Mamba-2. Few tokens step through the recurrence in one dispatch. Many tokens
// go in chunks of 64 as matrix products (Dao and Gu, 2024, section 6). With s_i the sum of log decays up to token i of
// a chunk,
//
//     Y = (C B^T * L) X + diag(e^s) C S,   L[i,j] = e^(s_i - s_j) dt_j  for j <= i, else 0
//     S = e^(s_last) S + (diag(e^(s_last - s) dt) B)^T X
//
// Dispatches: `convolve`; `scores`, C B^T; `states`, what each chunk adds to S; `pass`, S before each chunk; `outputs`.
//# kernel Mamba2Step step states reduce: few tokens
//# kernel Mamba2StepAny step_any states reduce: few tokens, for heads whose width is not a multiple of 4
//# kernel Mamba2Convolve convolve states: many tokens: the convolution
//# kernel Mamba2Scores scores: many tokens: C B^T of each chunk
//# kernel Mamba2States states: many tokens: what each chunk adds to the state
//# kernel Mamba2Pass pass states: many tokens: the state before each chunk
//# kernel Mamba2Outputs outputs: many tokens: the outputs
//# use math
//# when step step_any convolve pass
//# use runs
//# unless step step_any convolve pass
//# use step
//# end

struct Params {
    heads: u32,
    head_dim: u32,
    groups: u32,
    state_dim: u32,
    /// Channels of the convolution: x, B, C.
    channels: u32,
    kernel: u32,
    input_stride: u32,
    output_stride: u32,
    /// Offset of the convolution's weights, [kernel, channels], in `vectors`.
    weight: u32,
    /// Offset of the convolution's biases, [channels], in `vectors`.
    bias: u32,
    /// Offsets in `vectors`, [heads] each.
    a_log: u32,
    d: u32,
    dt_bias: u32,
    dt_low: f32,
    dt_high: f32,
}

@group(0) @binding(_) var<uniform> params: Params;

//# when step step_any convolve states outputs
/// z, x, B, C, dt, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// The op's small tensors, concatenated.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;

/// The step size of a head at token `t` of the run.
fn step_size(t: u32, head: u32) -> f32 {
    let inner = params.heads * params.head_dim;
    let raw = input[(step.start + t) * params.input_stride + inner + params.channels + head];
    return clamp(softplus(raw + vectors[params.dt_bias + head]), params.dt_low, params.dt_high);
}

//# when step step_any convolve pass
//# use weights

//# when step step_any convolve
/// [2, kernel - 1, channels]: last inputs, oldest first; `step.parity` selects the half to read.
@group(0) @binding(_) var<storage, read_write> conv_state: array<Kept>;

/// Input `t` of the run in a channel; inputs before the run are in the state.
fn past(t: i32, channel: u32) -> f32 {
    if t < 0 {
        let row = step.parity * (params.kernel - 1u) + u32(t + i32(params.kernel) - 1);
        return f32(conv_state[step.conv_slot * KEPT_UNIT + row * params.channels + channel]);
    }
    let inner = params.heads * params.head_dim;
    return input[(step.start + u32(t)) * params.input_stride + inner + channel];
}

fn convolve(t: u32, channel: u32) -> f32 {
    var sum = 0.0;
    if params.bias != ABSENT {
        sum = vectors[params.bias + channel];
    }
    for (var k = 0u; k < params.kernel; k += 1u) {
        sum += vectors[params.weight + k * params.channels + channel] * past(i32(t + 1u + k) - i32(params.kernel), channel);
    }
    return silu(sum);
}

/// Writes a channel's last inputs to the other half of the state, which is not read in this step.
fn keep(channel: u32) {
    for (var k = 0u; k + 1u < params.kernel; k += 1u) {
        let row = (1u - step.parity) * (params.kernel - 1u) + k;
        let at = step.conv_slot * KEPT_UNIT + row * params.channels + channel;
        conv_state[at] = kept(past(i32(step.tokens + 1u + k) - i32(params.kernel), channel));
    }
}

//# when step
/// S, [heads, state_dim, head_dim / 4].
@group(0) @binding(_) var<storage, read_write> state: array<Kept4>;

/// Four columns of row `row`, counted over all heads.
fn load_state(row: u32, column: u32) -> vec4<f32> {
    return vec4<f32>(state[step.slot * KEPT4_UNIT + (row * params.head_dim + column) / 4u]);
}

fn store_state(row: u32, column: u32, value: vec4<f32>) {
    state[step.slot * KEPT4_UNIT + (row * params.head_dim + column) / 4u] = kept4(value);
}

//# when step_any
/// S, [heads, state_dim, head_dim].
@group(0) @binding(_) var<storage, read_write> state: array<Kept>;

/// Four columns of row `row`, counted over all heads.
fn load_state(row: u32, column: u32) -> vec4<f32> {
    var value = vec4(0.0);
    for (var i = 0u; i < min(4u, params.head_dim - column); i += 1u) {
        value[i] = f32(state[step.slot * KEPT_UNIT + row * params.head_dim + column + i]);
    }
    return value;
}

fn store_state(row: u32, column: u32, value: vec4<f32>) {
    for (var i = 0u; i < min(4u, params.head_dim - column); i += 1u) {
        state[step.slot * KEPT_UNIT + row * params.head_dim + column + i] = kept(value[i]);
    }
}

//# when step step_any
// A workgroup takes 16 columns of a head's state through the run's tokens; each of its 256 threads holds four columns
// of up to four rows, so a pass covers 256 rows. Workgroups share the channels of B and C: each convolves them itself.
//# use reduce

/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

const THREADS: u32 = 256u;
/// Maximum number of tokens in a run.
const MOST: u32 = 4u;
/// Columns of the state (elements of a head) per workgroup.
const COLUMNS: u32 = 16u;
const QUADS: u32 = 4u;
/// Threads that share a column.
const SHARES: u32 = 64u;
/// Rows per thread.
const HELD: u32 = 4u;
/// Rows per pass.
const PASS: u32 = 256u;
/// x of this workgroup's columns, and B and C of the pass.
const ROW: u32 = 528u;

/// [MOST, ROW].
var<workgroup> convolved: array<f32, 2112>;

@compute @workgroup_size(THREADS)
//# use main
    step = runs[group.z];
    let count = runs[group.z].tokens;
    let thread = thread_of(ids);
    let head = group.x;
    let first_column = group.y * COLUMNS;
    let columns = min(COLUMNS, params.head_dim - first_column);
    let heads_per_group = params.heads / params.groups;
    let own_group = head / heads_per_group;
    let inner = params.heads * params.head_dim;
    let b_channel = inner + own_group * params.state_dim;
    let c_channel = b_channel + params.groups * params.state_dim;
    let x_channel = head * params.head_dim + first_column;
    let column = thread % QUADS * 4u;
    let share = thread / QUADS;
    let used = column < columns;
    let first_row = head * params.state_dim;

    for (var first = 0u; first < params.state_dim; first += PASS) {
        let width = min(PASS, params.state_dim - first);
        // Start the slowest loads first.
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
                convolved[t * ROW + COLUMNS + PASS + n] = convolve(t, c_channel + first + n);
            } else if place >= COLUMNS {
                convolved[t * ROW + place] = convolve(t, b_channel + first + place - COLUMNS);
            } else if place < columns {
                convolved[t * ROW + place] = convolve(t, x_channel + place);
            } else {
                convolved[t * ROW + place] = 0.0;
            }
        }
        let a = -exp(vectors[params.a_log + head]);
        workgroupBarrier();
        for (var t = 0u; t < count; t += 1u) {
            let dt = step_size(t, head);
            let decay = exp(dt * a);
            let at = t * ROW + column;
            let x = vec4(convolved[at], convolved[at + 1u], convolved[at + 2u], convolved[at + 3u]);
            var sum = vec4(0.0);
            for (var i = 0u; i < HELD; i += 1u) {
                let n = i * SHARES + share;
                if n < width && used {
                    let b = convolved[t * ROW + COLUMNS + n];
                    let c = convolved[t * ROW + COLUMNS + PASS + n];
                    held[i] = decay * held[i] + (dt * b) * x;
                    sum += c * held[i];
                    if t + 1u == count {
                        store_state(first_row + first + n, first_column + column, held[i]);
                    }
                }
            }
            sum = sum_strided(sum, ids, QUADS);
            if share == 0u && used {
                let d = vectors[params.d + head];
                for (var i = 0u; i < min(4u, columns - column); i += 1u) {
                    let place = (step.start + t) * params.output_stride + x_channel + column + i;
                    if first == 0u {
                        output[place] = sum[i] + d * x[i];
                    } else {
                        output[place] += sum[i];
                    }
                }
            }
        }
        // Wait until all have read `convolved` before the next pass overwrites it.
        workgroupBarrier();
    }

    if thread < columns {
        keep(x_channel + thread);
    }
    if head % heads_per_group == 0u && first_column == 0u {
        for (var n = thread; n < params.state_dim; n += THREADS) {
            keep(b_channel + n);
            keep(c_channel + n);
        }
    }
}

//# when convolve
/// x, B, C, [T, channels], for the run's tokens.
@group(0) @binding(_) var<storage, read_write> convolved: array<f32>;

// Each thread computes a channel of a token.
const THREADS: u32 = 256u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    step = runs[group.z];
    let channel = group.x * THREADS + thread;
    let t = group.y;
    if channel < params.channels {
        convolved[t * params.channels + channel] = convolve(t, channel);
        if t + 1u == step.tokens {
            keep(channel);
        }
    }
}

//# when scores states pass outputs
//# use mamba2_chunks
