// `mamba_scan`: h[c,n] = exp(dt[c] A[c,n]) h[c,n] + dt[c] B[n] x[c], y[c] = (sum_n C[n] h[c,n] + d[c] x[c]) * silu(z[c]).
// A thread takes a channel of a run through all its tokens, 16 states at a time in registers. A token's own share
// of y, dt x (B . C), is kept apart from what the state carries.
//# use math
//# use step

const THREADS: u32 = 64u;
const HELD: u32 = 16u;

struct Params {
    inner: u32,
    state_dim: u32,
    z_offset: u32,
    z_stride: u32,
    b_offset: u32,
    c_offset: u32,
    bc_stride: u32,
    /// a_log, [inner, state_dim], in `vectors`.
    a_log: u32,
    /// d, [inner], in `vectors`.
    d: u32,
    /// Whether B and C are normed.
    norm: u32,
    eps: f32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// x, [T, inner].
@group(0) @binding(_) var<storage, read> x: array<f32>;
/// z, [T, z_stride].
@group(0) @binding(_) var<storage, read> z: array<f32>;
/// dt before its softplus, [T, inner].
@group(0) @binding(_) var<storage, read> dt: array<f32>;
/// B and C, [T, bc_stride].
@group(0) @binding(_) var<storage, read> bc: array<f32>;
/// The op's small tensors, one behind the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// h, [state_dim, inner].
@group(0) @binding(_) var<storage, read_write> state: array<f32>;
/// y, [T, inner].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// The norm's factor on the state_dim elements of `bc` from `first` on.
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

/// [THREADS]: the norms' factors on B and C of the tokens at hand.
var<workgroup> factors: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let channel = group.x * THREADS + thread;
    let used = channel < params.inner;
    var h: array<f32, HELD>;
    var a: array<f32, HELD>;
    for (var first = 0u; first < params.state_dim; first += HELD) {
        let held = select(0u, min(HELD, params.state_dim - first), used);
        for (var n = 0u; n < HELD; n += 1u) {
            h[n] = 0.0;
            a[n] = 0.0;
            if n < held {
                h[n] = state[(first + n) * params.inner + channel];
                a[n] = -exp(vectors[params.a_log + channel * params.state_dim + first + n]);
            }
        }
        let last = first + HELD >= params.state_dim;
        for (var t = 0u; t < step.tokens; t += 1u) {
            let token = step.start + t;
            // Each thread finds the factors of one of the next tokens.
            if t % THREADS == 0u {
                workgroupBarrier();
                if t + thread < step.tokens {
                    let row = (token + thread) * params.bc_stride;
                    factors[thread] = vec2(factor(row + params.b_offset), factor(row + params.c_offset));
                }
                workgroupBarrier();
            }
            if used {
                let found = factors[t % THREADS];
                let b_at = token * params.bc_stride + params.b_offset + first;
                let c_at = token * params.bc_stride + params.c_offset + first;
                let at = token * params.inner + channel;
                let input = x[at];
                let width = softplus(dt[at]);
                let drive = width * input * found.x;
                var carried = 0.0;
                var own = 0.0;
                for (var n = 0u; n < HELD; n += 1u) {
                    if n < held {
                        let b = bc[b_at + n];
                        let c = bc[c_at + n];
                        let decayed = exp(width * a[n]) * h[n];
                        carried += c * decayed;
                        own += c * b;
                        h[n] = decayed + drive * b;
                    }
                }
                var y = found.y * (carried + drive * own);
                if first > 0u {
                    y += output[at];
                }
                if last {
                    y += vectors[params.d + channel] * input;
                    y *= silu(z[token * params.z_stride + params.z_offset + channel]);
                }
                output[at] = y;
            }
        }
        for (var n = 0u; n < HELD; n += 1u) {
            if n < held {
                state[(first + n) * params.inner + channel] = h[n];
            }
        }
    }
}
