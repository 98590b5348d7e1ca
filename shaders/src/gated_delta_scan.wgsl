// `gated_delta_scan`: the gated delta rule, with a decay for each head or for each channel of its keys.
//
// Few tokens step through the recurrence, all in one dispatch. Many go in chunks of 64 (Yang et al., 2024, section 3.3): with s_i the
// sum of log decays up to token i of a chunk, a number or a vector over channels, and S the state before the chunk,
//
//     L[i,j] = -beta_i k_i . (e^(s_i - s_j) k_j)   for j < i, else 0
//     P[i,j] = q_i . (e^(s_i - s_j) k_j)           for j <= i, else 0
//     W = (I - L)^-1 diag(beta) (e^s K),   V' = (I - L)^-1 diag(beta) V,   U = V' - W S
//     Y = (e^s Q) S + P U,   S = diag(e^(s_last)) S + (e^(s_last - s) K)^T U
//
// All exponents are at most 0. Only U and S must be found chunk by chunk. Dispatches: `prepare`, the decayed queries and keys;
// `scores`, P and L; `solve`, W and V'; `pass`, U and the state before each chunk; `outputs`, Y.
//# kernel DeltaStep step states reduce: few tokens
//# kernel DeltaPrepare prepare: many tokens: decayed queries and keys, for a decay of each head
//# kernel DeltaPrepareChannels prepare_channels: the same for a decay of each channel
//# kernel DeltaScores scores: many tokens: the products of a chunk's tokens, for a decay of each head
//# kernel DeltaScoresChannels scores_channels: the same for a decay of each channel
//# kernel DeltaSolve solve: many tokens: each chunk's triangular system
//# kernel DeltaPass pass states: many tokens: updates, and the state before each chunk
//# kernel DeltaOutputs outputs: many tokens: the outputs
//# use math
//# when step pass
//# use runs
//# unless step pass
//# use step
//# end

struct Params {
    key_heads: u32,
    value_heads: u32,
    key_dim: u32,
    value_dim: u32,
    qkv_stride: u32,
    /// First column of the decays before their softplus, and elements from one token to the next.
    decay_offset: u32,
    decay_stride: u32,
    /// The same of betas before their sigmoid.
    beta_offset: u32,
    beta_stride: u32,
    output_stride: u32,
    /// Decays of a head: 1 or `key_dim`.
    decays: u32,
    /// [value_heads], in `vectors`.
    a_log: u32,
    /// [value_heads * decays], in `vectors`.
    dt_bias: u32,
    beta_scale: f32,
    /// Added to squared lengths of queries and keys.
    norm_eps: f32,
}

@group(0) @binding(_) var<uniform> params: Params;

//# when step prepare prepare_channels scores scores_channels solve
/// q, k, v, [T, qkv_stride].
@group(0) @binding(_) var<storage, read> qkv: array<f32>;

/// First column of the queries of a value head; its keys are `key_heads * key_dim` behind.
fn query_column(head: u32) -> u32 {
    return head / (params.value_heads / params.key_heads) * params.key_dim;
}

fn value_column(head: u32) -> u32 {
    return 2u * params.key_heads * params.key_dim + head * params.value_dim;
}

/// Where q, k, v of token `t` of the run begin.
fn row_of(t: u32) -> u32 {
    return (step.start + t) * params.qkv_stride;
}

//# when step prepare prepare_channels scores
/// [T, decay_stride].
@group(0) @binding(_) var<storage, read> decays: array<f32>;
/// The op's small tensors, one after the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;

/// The log decay `i` of a head at token `t` of the run.
fn log_decay(t: u32, head: u32, i: u32) -> f32 {
    let at = head * params.decays + i;
    let raw = decays[(step.start + t) * params.decay_stride + params.decay_offset + at];
    return -exp(vectors[params.a_log + head]) * softplus(raw + vectors[params.dt_bias + at]);
}

//# when step scores scores_channels solve
/// [T, beta_stride].
@group(0) @binding(_) var<storage, read> betas: array<f32>;

fn beta_of(t: u32, head: u32) -> f32 {
    let raw = betas[(step.start + t) * params.beta_stride + params.beta_offset + head];
    return params.beta_scale * sigmoid(raw);
}

//# when step pass
//# use weights
/// S, [value_heads, key_dim, value_dim].
@group(0) @binding(_) var<storage, read_write> state: array<Kept>;

//# when step
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

//# use reduce
// A workgroup takes 16 columns of a head's state through the run's tokens; its 256 threads hold up to 16 elements each, so
// that there is room for 256 channels of keys.
const THREADS: u32 = 256u;
/// Most tokens of a run.
const MOST: u32 = 4u;
/// Columns of the state in a workgroup.
const COLUMNS: u32 = 16u;
/// Threads that share a column.
const SHARES: u32 = 16u;
/// Rows of a thread.
const HELD: u32 = 16u;

/// [THREADS]: queries and keys by channel, a component for each token.
var<workgroup> queries: array<vec4<f32>, THREADS>;
var<workgroup> keys: array<vec4<f32>, THREADS>;
/// [THREADS]: e^g of a channel at one token.
var<workgroup> factors: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
//# use main
    step = runs[group.z];
    let count = runs[group.z].tokens;
    let thread = thread_of(ids);
    let head = group.x;
    let column = group.y * COLUMNS + thread % COLUMNS;
    let share = thread / COLUMNS;
    let key_dim = params.key_dim;
    let value_dim = params.value_dim;
    let used = column < value_dim;
    let first = step.slot * KEPT_UNIT + head * key_dim * value_dim + column;

    // What takes longest comes first.
    var held: array<f32, HELD>;
    for (var i = 0u; i < HELD; i += 1u) {
        let r = i * SHARES + share;
        held[i] = 0.0;
        if r < key_dim && used {
            held[i] = f32(state[first + r * value_dim]);
        }
    }
    // A thread makes a channel ready. Everything has a component for each token.
    var q = vec4(0.0);
    var k = vec4(0.0);
    var factor = vec4(0.0);
    if thread < key_dim {
        for (var t = 0u; t < count; t += 1u) {
            let at = row_of(t) + query_column(head) + thread;
            q[t] = qkv[at];
            k[t] = qkv[at + params.key_heads * key_dim];
            factor[t] = exp(log_decay(t, head, min(thread, params.decays - 1u)));
        }
    }
    q *= inverseSqrt(sum_over(q * q, ids, THREADS) + params.norm_eps) * inverseSqrt(f32(key_dim));
    k *= inverseSqrt(sum_over(k * k, ids, THREADS) + params.norm_eps);
    let own = sum_over(q * k, ids, THREADS);
    queries[thread] = q;
    keys[thread] = k;
    for (var t = 0u; t < count; t += 1u) {
        // All have read those of the token before.
        factors[thread] = factor[t];
        workgroupBarrier();
        // S^T k and S^T q of the decayed state.
        var sums = vec4(0.0);
        for (var i = 0u; i < HELD; i += 1u) {
            let r = i * SHARES + share;
            held[i] *= factors[r];
            sums.x += keys[r][t] * held[i];
            sums.y += queries[r][t] * held[i];
        }
        sums = sum_strided(sums, ids, COLUMNS);
        var v = 0.0;
        if used {
            v = qkv[row_of(t) + value_column(head) + column];
        }
        let update = beta_of(t, head) * (v - sums.x);
        for (var i = 0u; i < HELD; i += 1u) {
            held[i] += keys[i * SHARES + share][t] * update;
        }
        if share == 0u && used {
            output[(step.start + t) * params.output_stride + head * value_dim + column] = sums.y + own[t] * update;
        }
    }
    for (var i = 0u; i < HELD; i += 1u) {
        let r = i * SHARES + share;
        if r < key_dim && used {
            state[first + r * value_dim] = kept(held[i]);
        }
    }
}

//# when prepare prepare_channels scores scores_channels solve pass outputs
//# use delta_chunks
