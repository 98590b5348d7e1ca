// `mlstm_scan`: the matrix-memory recurrence of mLSTM, the norm of its heads and its output gate. A token's own part,
// (q . k) v, is kept separate from what the memory carries.
//
// Few tokens step through the recurrence; many go in chunks of 64 as matrix products. With F_i the sum of log forget gates
// up to token i of a chunk, l_i the largest of F_i - F_j + i_j for j <= i, m the stabilizer before the chunk and
// m_i = max(F_i + m, l_i) that of the recurrence,
//
//     W[i,j] = e^(F_i - F_j + i_j - l_i) q_i . k_j   for j <= i, else 0
//     H = diag(e^(l - m)) W V + diag(e^(F + m - m_i)) Q C,   its divisors likewise from W 1 and Q n
//     C = e^(F_last + m - m_last) C + e^(l_last - m_last) (diag(e^(F_last - F + i - l_last)) K)^T V,   n likewise
//
// All exponents are at most 0. W and what a chunk adds to C depend only on its own tokens. Dispatches: `scores`, W;
// `states`, what each chunk adds; `pass`, the memory before each chunk; `outputs`, H; `finish`, norm and gate. For few
// tokens the following projection computes norm and gate if it can, so that a step is one dispatch.
//# kernel MLstmStep step states reduce: few tokens, up to the norm
//# kernel MLstmScores scores: many tokens: the weights of the tokens of a chunk for each other
//# kernel MLstmStates states: many tokens: what each chunk adds to the state
//# kernel MLstmPass pass states: many tokens: the state before each chunk
//# kernel MLstmOutputs outputs: many tokens: the outputs before their norm
//# kernel MLstmFinish finish reduce: norm and gate
//# use math
//# when step pass
//# use runs
//# unless step pass
//# use step
//# end

struct Params {
    heads: u32,
    qk_head_dim: u32,
    v_head_dim: u32,
    input_stride: u32,
    output_stride: u32,
    /// Offsets in `vectors`, [heads * v_head_dim] each; `ABSENT` for none.
    norm_weight: u32,
    norm_bias: u32,
    /// 0 for none.
    gate_soft_cap: f32,
    eps: f32,
    norm_eps: f32,
    /// Whether the norm subtracts the mean.
    centred: u32,
    /// Whether the past counts e^f, not sigmoid(f).
    exponential_forget: u32,
    /// First column of the second gate in `stream`; `ABSENT` for none.
    stream_gate: u32,
    stream_stride: u32,
}

@group(0) @binding(_) var<uniform> params: Params;

//# when step scores states outputs finish
/// q, k, v, output gate, input gate, forget gate, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;

/// First column of a head's keys; its queries start at head * qk_head_dim.
fn key_column(head: u32) -> u32 {
    return (params.heads + head) * params.qk_head_dim;
}

fn value_column(head: u32) -> u32 {
    return 2u * params.heads * params.qk_head_dim + head * params.v_head_dim;
}

fn gate_column(head: u32) -> u32 {
    return value_column(params.heads + head);
}

/// Index of the first element of input token `t` of the run.
fn row_of(t: u32) -> u32 {
    return (step.start + t) * params.input_stride;
}

/// Input gate and log of the forget gate of token `t` of the run.
fn gates(t: u32, head: u32) -> vec2<f32> {
    let at = row_of(t) + value_column(2u * params.heads) + head;
    let i = soft_cap(input[at], params.gate_soft_cap);
    let f = soft_cap(input[at + params.heads], params.gate_soft_cap);
    if params.exponential_forget != 0u {
        return vec2(i, f);
    }
    return vec2(i, log_sigmoid(f));
}

//# when step pass
//# use weights
/// [heads, qk_head_dim * v_head_dim + qk_head_dim + 1]: C by rows of keys, n, m; then [heads, qk_head_dim + 1]: n and m
/// again.
@group(0) @binding(_) var<storage, read_write> state: array<Kept>;

/// Index of C of a head.
fn memory_at(head: u32) -> u32 {
    return step.slot * KEPT_UNIT + head * head_state();
}

/// Index of n and m of a head in one of the two copies. They are double-buffered: all workgroups of a head read the
/// copy `step.parity` of the last step, and new values go to the other.
fn sums_at(head: u32, side: u32) -> u32 {
    let memory = params.qk_head_dim * params.v_head_dim;
    let again = memory_at(params.heads) + head * (params.qk_head_dim + 1u);
    return select(again, memory_at(head) + memory, side == 0u);
}

//# when step scores states pass outputs
/// Number of elements of a head's state.
fn head_state() -> u32 {
    return params.qk_head_dim * (params.v_head_dim + 1u) + 1u;
}

//# when finish
/// The op's small tensors, concatenated.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// The second gate, [T, stream_stride]; the input again if there is none.
@group(0) @binding(_) var<storage, read> stream: array<f32>;
//# when step finish
/// y, [T, output_stride]; after `step` it is h, before norm and gate.
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

//# when step
//# use reduce
// A workgroup takes 16 columns of a head's memory through the run's tokens; each of its 256 threads holds up to 16
// elements, so a pass covers 256 rows.
const THREADS: u32 = 256u;
/// Maximum number of tokens in a run.
const MOST: u32 = 4u;
/// Columns of the memory per workgroup.
const COLUMNS: u32 = 16u;
/// Threads that share a column.
const SHARES: u32 = 16u;
/// Rows per thread.
const HELD: u32 = 16u;
/// Rows per pass.
const PASS: u32 = 256u;

/// [PASS]: q / sqrt(qk_head_dim) and k, with a component per token.
var<workgroup> queries: array<vec4<f32>, PASS>;
var<workgroup> keys: array<vec4<f32>, PASS>;

@compute @workgroup_size(THREADS)
//# use main
    step = runs[group.z];
    let count = runs[group.z].tokens;
    let thread = thread_of(ids);
    let head = group.x;
    let column = group.y * COLUMNS + thread % COLUMNS;
    let share = thread / COLUMNS;
    let key_dim = params.qk_head_dim;
    let value_dim = params.v_head_dim;
    let used = column < value_dim;
    let memory = memory_at(head);
    let sums = sums_at(head, step.parity);
    let new_sums = sums_at(head, 1u - step.parity);
    let query_scale = inverseSqrt(f32(key_dim));

    var m = f32(state[sums + key_dim]);
    // From here on vectors have a component per token.
    var decays = vec4(1.0);
    var admits = vec4(0.0);
    var stabilizers = vec4(0.0);
    var v = vec4(0.0);
    for (var t = 0u; t < count; t += 1u) {
        let gate = gates(t, head);
        let next = max(gate.y + m, gate.x);
        decays[t] = exp(gate.y + m - next);
        admits[t] = exp(gate.x - next);
        stabilizers[t] = next;
        m = next;
        if used {
            v[t] = input[row_of(t) + value_column(head) + column];
        }
    }

    var carried = vec4(0.0);
    // q . k, and q . n of the carried memory.
    var own = vec4(0.0);
    var before = vec4(0.0);
    for (var first = 0u; first < key_dim; first += PASS) {
        var held: array<f32, HELD>;
        for (var i = 0u; i < HELD; i += 1u) {
            let r = first + i * SHARES + share;
            held[i] = 0.0;
            if r < key_dim && used {
                held[i] = f32(state[memory + r * value_dim + column]);
            }
        }
        let r = first + thread;
        var q = vec4(0.0);
        var k = vec4(0.0);
        if r < key_dim {
            var n = f32(state[sums + r]);
            for (var t = 0u; t < count; t += 1u) {
                let row = row_of(t);
                q[t] = query_scale * input[row + head * key_dim + r];
                k[t] = input[row + key_column(head) + r];
                before[t] += q[t] * n;
                n = decays[t] * n + admits[t] * k[t];
            }
            own += q * k;
            if group.y == 0u {
                state[new_sums + r] = kept(n);
            }
        }
        queries[thread] = q;
        keys[thread] = k;
        workgroupBarrier();
        for (var i = 0u; i < HELD; i += 1u) {
            let place = i * SHARES + share;
            if first + place < key_dim && used {
                let q = queries[place];
                let added = admits * keys[place] * v;
                if count == 1u {
                    carried.x += q.x * held[i];
                    held[i] = decays.x * held[i] + added.x;
                } else {
                    for (var t = 0u; t < count; t += 1u) {
                        carried[t] += q[t] * held[i];
                        held[i] = decays[t] * held[i] + added[t];
                    }
                }
                state[memory + (first + place) * value_dim + column] = kept(held[i]);
            }
        }
        // Wait until all have read queries and keys before the next pass overwrites them.
        workgroupBarrier();
    }
    carried = sum_strided(carried, ids, COLUMNS);
    own = admits * sum_over(own, ids, THREADS);
    before = decays * sum_over(before, ids, THREADS);
    if share == 0u && used {
        let h = (decays * carried + own * v) / (max(abs(before + own), exp(-stabilizers)) + params.eps);
        for (var t = 0u; t < count; t += 1u) {
            output[(step.start + t) * params.output_stride + head * value_dim + column] = h[t];
        }
    }
    if thread == 0u && group.y == 0u {
        state[new_sums + key_dim] = kept(m);
    }
}

//# when scores states pass outputs
//# use mlstm_chunks

//# when finish
// A workgroup takes a head of a token.
//# use reduce
const THREADS: u32 = 256u;
/// Elements of a value per thread.
const VALUES: u32 = 8u;

/// Writes element `column` of a head's y at token `t` of the run, from the normed value.
fn finish(t: u32, head: u32, column: u32, normed: f32) {
    let at = head * params.v_head_dim + column;
    var y = normed;
    if params.norm_weight != ABSENT {
        y *= vectors[params.norm_weight + at];
    }
    if params.norm_bias != ABSENT {
        y += vectors[params.norm_bias + at];
    }
    var gate = sigmoid(input[row_of(t) + gate_column(head) + column]);
    if params.stream_gate != ABSENT {
        gate *= silu(stream[(step.start + t) * params.stream_stride + params.stream_gate + at]);
    }
    output[(step.start + t) * params.output_stride + at] = gate * y;
}

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let head = group.x;
    let t = group.y;
    let width = params.v_head_dim;
    let first = (step.start + t) * params.output_stride + head * width;
    var h: array<f32, VALUES>;
    var total = 0.0;
    for (var j = 0u; j < VALUES; j += 1u) {
        let column = j * THREADS + thread;
        h[j] = 0.0;
        if column < width {
            h[j] = output[first + column];
            total += h[j];
        }
    }
    var mean = sum_over(vec4(total, 0.0, 0.0, 0.0), ids, THREADS).x / f32(width);
    if params.centred == 0u {
        mean = 0.0;
    }
    var squares = 0.0;
    for (var j = 0u; j < VALUES; j += 1u) {
        if j * THREADS + thread < width {
            squares += (h[j] - mean) * (h[j] - mean);
        }
    }
    let variance = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x / f32(width);
    var factor = inverseSqrt(variance + params.norm_eps);
    if params.norm_weight == ABSENT {
        factor = 1.0;
    }
    for (var j = 0u; j < VALUES; j += 1u) {
        let column = j * THREADS + thread;
        if column < width {
            finish(t, head, column, (h[j] - mean) * factor);
        }
    }
}
