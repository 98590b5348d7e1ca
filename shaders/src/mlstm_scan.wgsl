// `mlstm_scan`: the matrix-memory recurrence of mLSTM, the norm of its heads and its output gate. A workgroup takes a head of
// a run through all its tokens: the norm needs all of a head's values. A token's own share, (q . k) v, is kept apart from
// what the memory carries.
//# use math
//# use step
//# use reduce

const THREADS: u32 = 256u;
/// Most elements of a key, and of a value for each thread.
const MAX_KEY: u32 = 1024u;
const HELD: u32 = 8u;

struct Params {
    heads: u32,
    qk_head_dim: u32,
    v_head_dim: u32,
    input_stride: u32,
    output_stride: u32,
    /// [heads * v_head_dim] each, in `vectors`.
    norm_weight: u32,
    norm_bias: u32,
    /// 0 for none.
    gate_soft_cap: f32,
    eps: f32,
    norm_eps: f32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// q, k, v, output gate, input gate, forget gate, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// The op's small tensors, one behind the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// [heads, qk_head_dim * v_head_dim + qk_head_dim + 1]: C by rows of keys, n, m.
@group(0) @binding(_) var<storage, read_write> state: array<f32>;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// [qk_head_dim]: q / sqrt(qk_head_dim), and k.
var<workgroup> queries: array<f32, MAX_KEY>;
var<workgroup> keys: array<f32, MAX_KEY>;

@compute @workgroup_size(THREADS)
fn main(ids: Ids) {
    let thread = thread_of(ids);
    let head = ids.group.x;
    let key_dim = params.qk_head_dim;
    let value_dim = params.v_head_dim;
    let q_at = head * key_dim;
    let k_at = params.heads * key_dim + head * key_dim;
    let v_at = 2u * params.heads * key_dim + head * value_dim;
    let o_at = v_at + params.heads * value_dim;
    let i_at = params.heads * 2u * (key_dim + value_dim) + head;
    let f_at = i_at + params.heads;
    let memory = head * (key_dim * value_dim + key_dim + 1u);
    let sums = memory + key_dim * value_dim;
    let stabilizer = sums + key_dim;
    let query_scale = inverseSqrt(f32(key_dim));

    var m = state[stabilizer];
    var h: array<f32, HELD>;
    for (var t = 0u; t < step.tokens; t += 1u) {
        let row = (step.start + t) * params.input_stride;
        let i = soft_cap(input[row + i_at], params.gate_soft_cap);
        let f = log_sigmoid(soft_cap(input[row + f_at], params.gate_soft_cap));
        let next = max(f + m, i);
        let decay = exp(f + m - next);
        let admit = exp(i - next);
        m = next;

        // q . k and q . n of the memory before.
        var dots = vec4(0.0);
        for (var r = thread; r < key_dim; r += THREADS) {
            let q = input[row + q_at + r] * query_scale;
            let k = input[row + k_at + r];
            let n = state[sums + r];
            queries[r] = q;
            keys[r] = k;
            dots += vec4(q * k, q * n, 0.0, 0.0);
            state[sums + r] = decay * n + admit * k;
        }
        // Behind this, queries and keys are there for all.
        dots = sum_over(dots, ids, THREADS);
        let own = admit * dots.x;
        let scale = 1.0 / (max(abs(decay * dots.y + own), exp(-m)) + params.eps);

        var total = 0.0;
        for (var j = 0u; j < HELD; j += 1u) {
            let column = j * THREADS + thread;
            h[j] = 0.0;
            if column < value_dim {
                let v = input[row + v_at + column];
                var carried = 0.0;
                for (var r = 0u; r < key_dim; r += 1u) {
                    let at = memory + r * value_dim + column;
                    let c = state[at];
                    carried += queries[r] * c;
                    state[at] = decay * c + admit * keys[r] * v;
                }
                h[j] = (decay * carried + own * v) * scale;
                total += h[j];
            }
        }
        let mean = sum_over(vec4(total, 0.0, 0.0, 0.0), ids, THREADS).x / f32(value_dim);
        var squares = 0.0;
        for (var j = 0u; j < HELD; j += 1u) {
            if j * THREADS + thread < value_dim {
                squares += (h[j] - mean) * (h[j] - mean);
            }
        }
        let variance = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x / f32(value_dim);
        let factor = inverseSqrt(variance + params.norm_eps);
        for (var j = 0u; j < HELD; j += 1u) {
            let column = j * THREADS + thread;
            if column < value_dim {
                let at = head * value_dim + column;
                var y = (h[j] - mean) * factor * vectors[params.norm_weight + at];
                if params.norm_bias != ABSENT {
                    y += vectors[params.norm_bias + at];
                }
                output[(step.start + t) * params.output_stride + at] = sigmoid(input[row + o_at + column]) * y;
            }
        }
    }
    if thread == 0u {
        state[stabilizer] = m;
    }
}
