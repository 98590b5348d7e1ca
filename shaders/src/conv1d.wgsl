// `conv1d`: y_t[c] = C_t[c] act(b[c] + sum_k w[c,k] u_{t-K+1+k}[c]), u_t[c] = B_t[c] x_t[c]. Each thread computes a channel of a token.
//# kernel Conv1d - states: any number of tokens
//# use math
//# use runs
//# use weights

const THREADS: u32 = 64u;

struct Params {
    channels: u32,
    kernel: u32,
    /// First column of the input.
    input_offset: u32,
    input_stride: u32,
    /// First column of B; `ABSENT` where there is none.
    input_gate_offset: u32,
    input_gate_stride: u32,
    /// First column of C; `ABSENT` where there is none.
    output_gate_offset: u32,
    output_gate_stride: u32,
    /// Whether act is SiLU; else it is the identity.
    silu: u32,
    output_stride: u32,
    /// Offset of w, [channels, kernel], in `vectors`.
    weight: u32,
    /// Offset of b, [channels], in `vectors`.
    bias: u32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// x, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// B, [T, input_gate_stride]; the input again where there is none.
@group(0) @binding(_) var<storage, read> input_gate: array<f32>;
/// C, [T, output_gate_stride]; the input again where there is none.
@group(0) @binding(_) var<storage, read> output_gate: array<f32>;
/// The op's small tensors, concatenated.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// [2, kernel - 1, channels]: u before the run, oldest first; `step.parity` selects the half to read.
@group(0) @binding(_) var<storage, read_write> state: array<Kept>;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// u of token `t` of the run; u of tokens before the run is in the state.
fn past(t: i32, channel: u32) -> f32 {
    if t < 0 {
        let row = step.parity * (params.kernel - 1u) + u32(t + i32(params.kernel) - 1);
        return f32(state[step.conv_slot * KEPT_UNIT + row * params.channels + channel]);
    }
    let row = step.start + u32(t);
    var value = input[row * params.input_stride + params.input_offset + channel];
    if params.input_gate_offset != ABSENT {
        value *= input_gate[row * params.input_gate_stride + params.input_gate_offset + channel];
    }
    return value;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    step = runs[id.z];
    let channel = id.x;
    let t = id.y;
    // Other runs of the dispatch may be longer.
    if channel >= params.channels || t >= step.tokens {
        return;
    }
    var sum = 0.0;
    if params.bias != ABSENT {
        sum = vectors[params.bias + channel];
    }
    for (var k = 0u; k < params.kernel; k += 1u) {
        let tap = vectors[params.weight + channel * params.kernel + k];
        sum += tap * past(i32(t + 1u + k) - i32(params.kernel), channel);
    }
    if params.silu != 0u {
        sum = silu(sum);
    }
    let row = step.start + t;
    if params.output_gate_offset != ABSENT {
        sum *= output_gate[row * params.output_gate_stride + params.output_gate_offset + channel];
    }
    output[row * params.output_stride + channel] = sum;
    // Double-buffered: other workgroups still read the state, so the last u go to its other half.
    if t + 1u == step.tokens {
        for (var k = 0u; k + 1u < params.kernel; k += 1u) {
            let place = (1u - step.parity) * (params.kernel - 1u) + k;
            let at = step.conv_slot * KEPT_UNIT + place * params.channels + channel;
            state[at] = kept(past(i32(step.tokens + 1u + k) - i32(params.kernel), channel));
        }
    }
}
