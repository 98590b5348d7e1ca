// `head_linear`: for each head, y = W x, or y = W^T x, beside elements that are carried along. A workgroup takes some outputs of a
// head for up to eight tokens, so that each weight is decoded once for all of them.
//# kernel HeadLinearRows rows weights: outputs are rows of the matrices
//# kernel HeadLinearColumns columns weights: outputs are columns of the matrices
//# use step

struct Params {
    /// The head whose matrix is the first in `weights`.
    first_head: u32,
    /// Workgroups that share a head.
    blocks: u32,
    /// Elements of a head that are multiplied, that result, and that are carried along.
    inputs: u32,
    outputs: u32,
    carried: u32,
    input_offset: u32,
    input_stride: u32,
    output_stride: u32,
    @align(16) matrix: Matrix,
}

@group(0) @binding(_) var<uniform> params: Params;
/// [T, input_stride]: [x | carried] of each head.
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// [T, output_stride]: [y | carried] of each head.
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

//# use weights

const THREADS: u32 = 256u;
/// Tokens of a workgroup.
const TOKENS: u32 = 8u;
/// Elements of a token that are multiplied at once.
const PIECE: u32 = 256u;

/// [PIECE, TOKENS]: tokens 0 to 3 and 4 to 7 of each element.
var<workgroup> piece: array<array<vec4<f32>, 2>, 256>;

/// Where a workgroup works.
struct Place {
    /// Index of the head's matrix in `weights`, and its first output there.
    head: u32,
    first: u32,
    /// The first token, and how many there are.
    token: u32,
    tokens: u32,
    /// Offsets of the head within a row of the input and of the output.
    input: u32,
    output: u32,
}

fn place_of(group: vec3<u32>, outputs: u32) -> Place {
    let head = group.x / params.blocks;
    let whole = params.first_head + head;
    let token = group.y * TOKENS;
    return Place(
        head,
        group.x % params.blocks * outputs,
        step.start + token,
        min(TOKENS, step.tokens - token),
        params.input_offset + whole * (params.inputs + params.carried),
        whole * (params.outputs + params.carried),
    );
}

/// Loads elements `base ..` of the tokens; zeros after the last of either.
fn load_piece(place: Place, base: u32, thread: u32) {
    // Wait until all threads have read the previous piece.
    workgroupBarrier();
    let i = base + thread;
    for (var half = 0u; half < 2u; half += 1u) {
        var x = vec4(0.0);
        for (var c = 0u; c < 4u; c += 1u) {
            let t = half * 4u + c;
            if i < params.inputs && t < place.tokens {
                x[c] = input[(place.token + t) * params.input_stride + place.input + i];
            }
        }
        piece[thread][half] = x;
    }
    workgroupBarrier();
}

/// Copies what is carried along.
fn carry(place: Place, thread: u32) {
    if place.first > 0u {
        return;
    }
    for (var i = thread; i < place.tokens * params.carried; i += THREADS) {
        let token = place.token + i / params.carried;
        let c = i % params.carried;
        output[token * params.output_stride + place.output + params.outputs + c] =
            input[token * params.input_stride + place.input + params.inputs + c];
    }
}

//# when rows
/// Outputs of a workgroup, and threads that share one.
const OUTPUTS: u32 = 16u;
const LANES: u32 = THREADS / OUTPUTS;

/// Sums of the threads, tokens 0 to 3 and 4 to 7.
var<workgroup> sums: array<array<vec4<f32>, 2>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let place = place_of(group, OUTPUTS);
    let output_row = place.first + thread / LANES;
    let row = place.head * params.outputs + min(output_row, params.outputs - 1u);
    let lane = thread % LANES;
    var low = vec4(0.0);
    var high = vec4(0.0);
    for (var base = 0u; base < params.inputs; base += PIECE) {
        load_piece(place, base, thread);
        let quads = (min(PIECE, params.inputs - base) + 3u) / 4u;
        for (var quad = lane; quad < quads; quad += LANES) {
            let w = weights_quad(params.matrix, row, base / 4u + quad);
            for (var c = 0u; c < 4u; c += 1u) {
                low += w[c] * piece[quad * 4u + c][0];
                high += w[c] * piece[quad * 4u + c][1];
            }
        }
    }
    sums[thread][0] = low;
    sums[thread][1] = high;
    workgroupBarrier();
    if lane < place.tokens && output_row < params.outputs {
        var sum = 0.0;
        for (var i = 0u; i < LANES; i += 1u) {
            sum += sums[thread - lane + i][lane / 4u][lane % 4u];
        }
        output[(place.token + lane) * params.output_stride + place.output + output_row] = sum;
    }
    carry(place, thread);
}

//# when columns
/// Outputs of a workgroup, and threads that share four of them.
const OUTPUTS: u32 = 256u;
const LANES: u32 = 4u * THREADS / OUTPUTS;

/// Sums of the threads for each token.
var<workgroup> sums: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let place = place_of(group, OUTPUTS);
    // Neighbouring threads read neighbouring columns.
    let own = thread % (THREADS / LANES);
    let lane = thread / (THREADS / LANES);
    let column = place.first + 4u * own;
    let quad = min(column, params.outputs - 1u) / 4u;
    let first_row = place.head * params.inputs;
    var sum: array<vec4<f32>, TOKENS>;
    for (var t = 0u; t < TOKENS; t += 1u) {
        sum[t] = vec4(0.0);
    }
    for (var base = 0u; base < params.inputs; base += PIECE) {
        load_piece(place, base, thread);
        let end = min(PIECE, params.inputs - base);
        for (var i = lane; i < end; i += LANES) {
            let w = weights_quad(params.matrix, first_row + base + i, quad);
            let low = piece[i][0];
            let high = piece[i][1];
            for (var c = 0u; c < 4u; c += 1u) {
                sum[c] += low[c] * w;
                sum[c + 4u] += high[c] * w;
            }
        }
    }
    for (var t = 0u; t < place.tokens; t += 1u) {
        sums[thread] = sum[t];
        workgroupBarrier();
        if lane == 0u {
            var all = sums[thread];
            for (var i = 1u; i < LANES; i += 1u) {
                all += sums[thread + i * (THREADS / LANES)];
            }
            let at = (place.token + t) * params.output_stride + place.output;
            for (var c = 0u; c < 4u; c += 1u) {
                if column + c < params.outputs {
                    output[at + column + c] = all[c];
                }
            }
        }
        workgroupBarrier();
    }
    carry(place, thread);
}
