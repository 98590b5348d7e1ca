// `slstm_scan`: for each channel, with [i | f | z | o] the token's input plus R h of the last token and m' = max(lf + m, i) (i at first),
// c' = e^(lf+m-m') c + e^(i-m') tanh(z), n' = e^(lf+m-m') n + e^(i-m'), s = c' / n'; with sigmoid gates c' = sigmoid(f) c + sigmoid(i)
// tanh(z), s = c'. Then h = sigmoid(o) * rms_norm(s), the norm over a head.
//
// A workgroup takes a head through all tokens of a run, one after the other: a token's gates need all of the last token's h. A thread has up
// to 8 channels with their cells in registers. In narrow heads several threads share a channel: each takes some of its products with h, and
// keeps its part of the matrices in registers where that is no more than 16 columns.
//# kernel SLstmScan - reduce: any number of tokens
//# use math
//# use runs
//# use reduce

const THREADS: u32 = 256u;
/// Most channels of a thread.
const MOST: u32 = 8u;
/// Most columns of the matrices that a thread keeps.
const HELD: u32 = 16u;

struct Params {
    heads: u32,
    head_dim: u32,
    /// Threads from one that shares a channel to the next: a power of two.
    span: u32,
    input_stride: u32,
    output_stride: u32,
    /// Whether h is mixed into the gates.
    mixes: u32,
    /// Whether input and forget gates are sigmoids.
    sigmoid_gates: u32,
    /// Whether the past counts e^f beside an exponential input gate, not sigmoid(f).
    exponential_forget: u32,
    /// Offset of the norm's weight, [heads * head_dim], in `vectors`.
    weight: u32,
    eps: f32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// i, f, z, o, each by head, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// [heads, head_dim, head_dim]: for each element of h and each channel its factors in i, f, z and o.
@group(0) @binding(_) var<storage, read> recurrent: array<vec4<f32>>;
/// The op's small tensors, concatenated.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// [heads, 4 * head_dim]: c, n, m, h.
@group(0) @binding(_) var<storage, read_write> state: array<f32>;
/// h, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// The head's h after the last token; zeros after its end.
var<workgroup> before: array<f32, 2048>;

/// A channel's cell.
struct Cell {
    c: f32,
    n: f32,
    m: f32,
}

/// The cell after a token with these gates.
fn next_cell(cell: Cell, gates: vec4<f32>) -> Cell {
    let z = stable_tanh(gates.z);
    if params.sigmoid_gates != 0u {
        return Cell(sigmoid(gates.y) * cell.c + sigmoid(gates.x) * z, 1.0, 0.0);
    }
    var decay = gates.y;
    if params.exponential_forget == 0u {
        decay = log_sigmoid(gates.y);
    }
    // No token came before if the sum of weights is 0.
    if cell.n == 0.0 {
        return Cell(z, 1.0, gates.x);
    }
    let m = max(decay + cell.m, gates.x);
    let keep = exp(decay + cell.m - m);
    let take = exp(gates.x - m);
    return Cell(keep * cell.c + take * z, keep * cell.n + take, m);
}

@compute @workgroup_size(THREADS)
//# use main
    step = runs[group.z];
    let count = runs[group.z].tokens;
    let thread = thread_of(ids);
    let head = group.x;
    let dim = params.head_dim;
    let lane = thread % params.span;
    let share = thread / params.span;
    let shares = THREADS / params.span;
    // The elements of h that this thread multiplies.
    let terms = (dim + shares - 1u) / shares;
    let first = share * terms;
    let end = min(first + terms, dim);
    let matrices = head * dim * dim;
    let mixes = params.mixes != 0u;
    let keeps = terms <= HELD;
    let own = step.slot * 4u + head * 4u * dim;

    var cells: array<Cell, MOST>;
    for (var j = 0u; j < MOST; j += 1u) {
        let e = lane + j * THREADS;
        if e < dim {
            cells[j] = Cell(state[own + e], state[own + dim + e], state[own + 2u * dim + e]);
            if share == 0u {
                before[e] = state[own + 3u * dim + e];
            }
        }
    }
    var held: array<vec4<f32>, HELD>;
    for (var i = 0u; i < HELD; i += 1u) {
        held[i] = vec4(0.0);
        if mixes && keeps && lane < dim && first + i < end {
            held[i] = recurrent[matrices + (first + i) * dim + lane];
        }
    }
    workgroupBarrier();

    for (var t = 0u; t < count; t += 1u) {
        let row = (step.start + t) * params.input_stride + head * dim;
        var outputs: array<f32, MOST>;
        var gates: array<f32, MOST>;
        var squares = 0.0;
        for (var j = 0u; j < MOST && j * THREADS < dim; j += 1u) {
            let e = lane + j * THREADS;
            var sum = vec4(0.0);
            if mixes {
                if keeps {
                    for (var i = 0u; i < HELD; i += 1u) {
                        sum += before[first + i] * held[i];
                    }
                } else if e < dim {
                    for (var k = first; k < end; k += 1u) {
                        sum += before[k] * recurrent[matrices + k * dim + e];
                    }
                }
                if shares > 1u {
                    sum = sum_strided(sum, ids, params.span);
                }
            }
            if e < dim {
                let gate = params.heads * dim;
                let at = row + e;
                sum += vec4(input[at], input[at + gate], input[at + 2u * gate], input[at + 3u * gate]);
                cells[j] = next_cell(cells[j], sum);
                outputs[j] = cells[j].c / cells[j].n;
                gates[j] = sum.w;
                if share == 0u {
                    squares += outputs[j] * outputs[j];
                }
            }
        }
        let total = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x;
        // A sum within one subgroup has no barrier: all must have read `before`.
        workgroupBarrier();
        let factor = inverseSqrt(total / f32(dim) + params.eps);
        for (var j = 0u; j < MOST && j * THREADS < dim; j += 1u) {
            let e = lane + j * THREADS;
            if e < dim && share == 0u {
                let h = sigmoid(gates[j]) * (outputs[j] * factor * vectors[params.weight + head * dim + e]);
                before[e] = h;
                output[(step.start + t) * params.output_stride + head * dim + e] = h;
            }
        }
        workgroupBarrier();
    }

    for (var j = 0u; j < MOST; j += 1u) {
        let e = lane + j * THREADS;
        if e < dim && share == 0u {
            state[own + e] = cells[j].c;
            if params.sigmoid_gates == 0u {
                state[own + dim + e] = cells[j].n;
                state[own + 2u * dim + e] = cells[j].m;
            }
            state[own + 3u * dim + e] = before[e];
        }
    }
}
