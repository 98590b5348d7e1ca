// `conv1d`: y_t[c] = silu(b[c] + sum_k w[c,k] x_{t-K+1+k}[c]). A thread takes a channel of a run through all its tokens.
//# use math
//# use step

const THREADS: u32 = 64u;

struct Params {
    channels: u32,
    kernel: u32,
    /// First column of the input.
    input_offset: u32,
    input_stride: u32,
    output_stride: u32,
    /// w, [channels, kernel], in `vectors`.
    weight: u32,
    /// b, [channels], in `vectors`.
    bias: u32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// The op's small tensors, one behind the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// [kernel - 1, channels]: the inputs before the run, oldest first.
@group(0) @binding(_) var<storage, read_write> state: array<f32>;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// Input `t` of the run; those before it are in the state.
fn past(t: i32, channel: u32) -> f32 {
    if t < 0 {
        return state[u32(t + i32(params.kernel) - 1) * params.channels + channel];
    }
    return input[(step.start + u32(t)) * params.input_stride + params.input_offset + channel];
}

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let channel = id.x;
    if channel >= params.channels {
        return;
    }
    let kernel = i32(params.kernel);
    for (var t = 0; t < i32(step.tokens); t += 1) {
        var sum = 0.0;
        if params.bias != ABSENT {
            sum = vectors[params.bias + channel];
        }
        for (var k = 0; k < kernel; k += 1) {
            sum += vectors[params.weight + channel * params.kernel + u32(k)] * past(t + 1 + k - kernel, channel);
        }
        output[(step.start + u32(t)) * params.output_stride + channel] = silu(sum);
    }
    // Oldest first: what a place gets was never overwritten before.
    for (var k = 0; k < kernel - 1; k += 1) {
        state[u32(k) * params.channels + channel] = past(i32(step.tokens) - kernel + 1 + k, channel);
    }
}
