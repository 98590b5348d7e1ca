// `mamba_scan`: h[c,n] = exp(dt[c] A[c,n]) h[c,n] + dt[c] B[n] x[c], y[c] = (sum_n C[n] h[c,n] + d[c] x[c]) * silu(z[c]).
// A workgroup takes 32 channels of a head through all tokens of a run, 16 tokens at a time; four threads share the states of a
// channel, 16 of which are in registers. A token's own part of y, dt x (B . C), is kept separate from the carried
// state.
//# kernel MambaScan - states: any number of tokens
//# use math
//# use runs
//# use weights

const THREADS: u32 = 128u;
const CHANNELS: u32 = 32u;
/// Threads that share a channel.
const SHARES: u32 = 4u;
/// States per thread.
const HELD: u32 = 4u;
/// States per pass.
const PASS: u32 = 16u;
/// Tokens prepared together.
const SPAN: u32 = 16u;

struct Params {
    inner: u32,
    /// Channels of a head.
    width: u32,
    /// Columns from B and C of a head to those of the next.
    head_stride: u32,
    state_dim: u32,
    z_offset: u32,
    z_stride: u32,
    b_offset: u32,
    c_offset: u32,
    bc_stride: u32,
    /// Offset of a_log, [inner, state_dim], in `vectors`.
    a_log: u32,
    /// Offset of d, [inner], in `vectors`.
    d: u32,
    /// Offsets of the weights of the norms of B and C, [state_dim] each, in `vectors`.
    b_weight: u32,
    c_weight: u32,
    /// Whether B and C are normed.
    norm: u32,
    eps: f32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// x, [T, inner].
@group(0) @binding(_) var<storage, read> x: array<f32>;
/// z, [T, z_stride].
@group(0) @binding(_) var<storage, read> z: array<f32>;
/// dt before the softplus, [T, inner].
@group(0) @binding(_) var<storage, read> dt: array<f32>;
/// B and C, [T, bc_stride].
@group(0) @binding(_) var<storage, read> bc: array<f32>;
/// The op's small tensors, concatenated.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// h, [state_dim, inner].
@group(0) @binding(_) var<storage, read_write> state: array<Kept>;
/// y, [T, inner].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// The norm's factor for the state_dim elements of `bc` from `first` on.
fn factor(first: u32) -> f32 {
    if params.norm == 0u {
        return 1.0;
    }
    var squares = 0.0;
    for (var n = 0u; n < params.state_dim; n += 1u) {
        squares += bc[first + n] * bc[first + n];
    }
    return inverseSqrt(squares / f32(params.state_dim) + params.eps);
}

/// [SPAN]: the norms' factors for B and C.
var<workgroup> factors: array<vec2<f32>, SPAN>;
/// [SPAN, PASS]: B and C.
var<workgroup> b_and_c: array<vec2<f32>, 256>;
/// [SPAN, CHANNELS]: dt after the softplus, and x.
var<workgroup> inputs: array<vec2<f32>, 512>;
/// [SPAN, SHARES, CHANNELS]: each thread's part of y.
var<workgroup> parts: array<f32, 2048>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let run = runs[group.z];
    let own = run.slot * KEPT_UNIT;
    // x counts channels of a head, y heads.
    let first_channel = group.y * params.width + group.x * CHANNELS;
    let end = (group.y + 1u) * params.width;
    let head = group.y * params.head_stride;
    let channel = first_channel + thread % CHANNELS;
    let share = thread / CHANNELS;
    let used = channel < end;
    var h: array<f32, HELD>;
    var a: array<f32, HELD>;
    for (var first = 0u; first < params.state_dim; first += PASS) {
        let width = min(PASS, params.state_dim - first);
        for (var i = 0u; i < HELD; i += 1u) {
            let n = share * HELD + i;
            h[i] = 0.0;
            a[i] = 0.0;
            if n < width && used {
                h[i] = f32(state[own + (first + n) * params.inner + channel]);
                a[i] = -exp(vectors[params.a_log + channel * params.state_dim + first + n]);
            }
        }
        let last = first + PASS >= params.state_dim;
        for (var start = 0u; start < run.tokens; start += SPAN) {
            let count = min(SPAN, run.tokens - start);
            let token = run.start + start;
            if thread < count {
                let row = (token + thread) * params.bc_stride + head;
                factors[thread] = vec2(factor(row + params.b_offset), factor(row + params.c_offset));
            }
            for (var i = thread; i < count * PASS; i += THREADS) {
                var pair = vec2(0.0);
                if i % PASS < width {
                    let at = (token + i / PASS) * params.bc_stride + head + first + i % PASS;
                    pair = vec2(bc[at + params.b_offset], bc[at + params.c_offset]);
                    if params.b_weight != ABSENT {
                        let n = first + i % PASS;
                        pair *= vec2(vectors[params.b_weight + n], vectors[params.c_weight + n]);
                    }
                }
                b_and_c[i] = pair;
            }
            for (var i = thread; i < count * CHANNELS; i += THREADS) {
                var pair = vec2(0.0);
                if first_channel + i % CHANNELS < end {
                    let at = (token + i / CHANNELS) * params.inner + first_channel + i % CHANNELS;
                    pair = vec2(softplus(dt[at]), x[at]);
                }
                inputs[i] = pair;
            }
            workgroupBarrier();
            for (var t = 0u; t < count; t += 1u) {
                let pair = inputs[t * CHANNELS + thread % CHANNELS];
                let drive = pair.x * pair.y * factors[t].x;
                var carried = 0.0;
                var own = 0.0;
                for (var i = 0u; i < HELD; i += 1u) {
                    let bc = b_and_c[t * PASS + share * HELD + i];
                    let decayed = exp(pair.x * a[i]) * h[i];
                    carried += bc.y * decayed;
                    own += bc.y * bc.x;
                    h[i] = decayed + drive * bc.x;
                }
                parts[(t * SHARES + share) * CHANNELS + thread % CHANNELS] = factors[t].y * (carried + drive * own);
            }
            workgroupBarrier();
            for (var i = thread; i < count * CHANNELS; i += THREADS) {
                let t = i / CHANNELS;
                let column = first_channel + i % CHANNELS;
                if column < end {
                    let at = (token + t) * params.inner + column;
                    let part = t * SHARES * CHANNELS + i % CHANNELS;
                    var y = parts[part] + parts[part + CHANNELS] + parts[part + 2u * CHANNELS] + parts[part + 3u * CHANNELS];
                    if first > 0u {
                        y += output[at];
                    }
                    if last {
                        y += vectors[params.d + column] * inputs[i].y;
                        y *= silu(z[(token + t) * params.z_stride + params.z_offset + column]);
                    }
                    output[at] = y;
                }
            }
            // Wait until all threads have used this span before the next one is prepared.
            workgroupBarrier();
        }
        for (var i = 0u; i < HELD; i += 1u) {
            let n = share * HELD + i;
            if n < width && used {
                state[own + (first + n) * params.inner + channel] = kept(h[i]);
            }
        }
    }
}
