// `mamba2_scan`: convolution and scan of Mamba-2. A workgroup takes 16 columns of a head's state through all tokens of a
// run; its 256 threads hold up to 16 elements each in registers, so that 256 states fit in a pass.
//
// Workgroups share the channels of B and C: each convolves them for itself, and one writes their last inputs to the
// other half of the convolution's state, which nobody reads in this step.
//# use math
//# use step

const THREADS: u32 = 256u;
/// Columns of the state, elements of a head, in a workgroup.
const COLUMNS: u32 = 16u;
/// Threads that share a column.
const SHARES: u32 = 16u;
/// States of a thread.
const HELD: u32 = 16u;
/// States of a pass.
const PASS: u32 = 256u;

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
    /// Convolution weights, [channels, kernel], in `vectors`.
    weight: u32,
    /// Convolution biases, [channels], in `vectors`.
    bias: u32,
    /// [heads] each, in `vectors`.
    a_log: u32,
    d: u32,
    dt_bias: u32,
    dt_low: f32,
    dt_high: f32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// z, x, B, C, dt, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// The op's small tensors, one behind the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// [2, kernel - 1, channels]: last inputs, oldest first; the half that `step.parity` names is read.
@group(0) @binding(_) var<storage, read_write> conv_state: array<f32>;
/// S, [heads, state_dim, head_dim].
@group(0) @binding(_) var<storage, read_write> state: array<f32>;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// x of this workgroup's columns, then B and C of the pass.
var<workgroup> convolved: array<f32, 528>;
/// [SHARES, COLUMNS]: C^T S of each share, and its part of B . C.
var<workgroup> shares: array<vec2<f32>, 256>;

/// Input `t` of the run in a channel; those before it are in the state.
fn past(t: i32, channel: u32) -> f32 {
    if t < 0 {
        let row = step.parity * (params.kernel - 1u) + u32(t + i32(params.kernel) - 1);
        return conv_state[row * params.channels + channel];
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
        sum += vectors[params.weight + channel * params.kernel + k] * past(i32(t + 1u + k) - i32(params.kernel), channel);
    }
    return silu(sum);
}

/// Writes a channel's last inputs where the next step reads them.
fn keep(channel: u32) {
    for (var k = 0u; k + 1u < params.kernel; k += 1u) {
        let row = (1u - step.parity) * (params.kernel - 1u) + k;
        conv_state[row * params.channels + channel] = past(i32(step.tokens + 1u + k) - i32(params.kernel), channel);
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group_id.x;
    let first_column = group_id.y * COLUMNS;
    let columns = min(COLUMNS, params.head_dim - first_column);
    let heads_per_group = params.heads / params.groups;
    let group = head / heads_per_group;
    let inner = params.heads * params.head_dim;
    let b_channel = inner + group * params.state_dim;
    let c_channel = b_channel + params.groups * params.state_dim;
    let x_channel = head * params.head_dim + first_column;
    let column = thread % COLUMNS;
    let share = thread / COLUMNS;
    let a = -exp(vectors[params.a_log + head]);
    let d = vectors[params.d + head];
    let state_at = head * params.state_dim * params.head_dim + first_column + column;

    var held: array<f32, HELD>;
    for (var first = 0u; first < params.state_dim; first += PASS) {
        let width = min(PASS, params.state_dim - first);
        for (var i = 0u; i < HELD; i += 1u) {
            let n = i * SHARES + share;
            held[i] = 0.0;
            if n < width && column < columns {
                held[i] = state[state_at + (first + n) * params.head_dim];
            }
        }
        for (var t = 0u; t < step.tokens; t += 1u) {
            let token = step.start + t;
            for (var i = thread; i < COLUMNS + 2u * width; i += THREADS) {
                var value = 0.0;
                if i >= COLUMNS + width {
                    value = convolve(t, c_channel + first + i - COLUMNS - width);
                } else if i >= COLUMNS {
                    value = convolve(t, b_channel + first + i - COLUMNS);
                } else if i < columns {
                    value = convolve(t, x_channel + i);
                }
                convolved[i] = value;
            }
            workgroupBarrier();
            let raw = input[token * params.input_stride + inner + params.channels + head];
            let dt = clamp(softplus(raw + vectors[params.dt_bias + head]), params.dt_low, params.dt_high);
            let decay = exp(dt * a);
            let x = convolved[column];
            var sums = vec2(0.0);
            for (var i = 0u; i < HELD; i += 1u) {
                let n = i * SHARES + share;
                if n < width {
                    let b = convolved[COLUMNS + n];
                    let c = convolved[COLUMNS + width + n];
                    sums += c * vec2(held[i], b);
                    held[i] = decay * held[i] + dt * b * x;
                }
            }
            shares[share * COLUMNS + column] = sums;
            workgroupBarrier();
            if thread < columns {
                sums = shares[thread];
                for (var i = 1u; i < SHARES; i += 1u) {
                    sums += shares[i * COLUMNS + thread];
                }
                let at = token * params.output_stride + head * params.head_dim + first_column + thread;
                var y = decay * sums.x + dt * sums.y * x;
                if first == 0u {
                    y += d * x;
                } else {
                    y += output[at];
                }
                output[at] = y;
            }
        }
        for (var i = 0u; i < HELD; i += 1u) {
            let n = i * SHARES + share;
            if n < width && column < columns {
                state[state_at + (first + n) * params.head_dim] = held[i];
            }
        }
        // The next pass fills `convolved` only when all have read it.
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
