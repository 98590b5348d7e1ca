// `moe_route`: the experts of each token and their weights: the top_k largest of softmax(R n(x)). A workgroup takes a token.
//# use rows

const THREADS: u32 = 256u;
/// Threads that share rows.
const LANES: u32 = 32u;
const MAX_EXPERTS: u32 = 512u;

struct Params {
    experts: u32,
    top_k: u32,
    /// Whether the weights are made to sum to 1.
    renormalize: u32,
    output_stride: u32,
    /// Biases of the router in `vectors`.
    bias: u32,
    @align(16) matrix: Matrix,
    @align(16) prologue: Prologue,
}

@group(0) @binding(_) var<uniform> params: Params;
/// Numbers of the experts by falling weight, then their weights, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// [experts].
var<workgroup> logits: array<f32, MAX_EXPERTS>;
/// [top_k]: the chosen experts' weights.
var<workgroup> chosen: array<f32, MAX_EXPERTS>;

@compute @workgroup_size(THREADS)
fn main(ids: Ids) {
    let thread = thread_of(ids);
    let token = step.start + ids.group.x;
    let lane = thread % LANES;
    for (var base = 0u; base < params.experts; base += THREADS / LANES * 4u) {
        let first = base + thread / LANES * 4u;
        let rows = min(vec4(first) + vec4(0u, 1u, 2u, 3u), vec4(params.experts - 1u));
        let sum = multiply_rows(params.matrix, rows, params.prologue, token, LANES, ids);
        if lane < 4u && first + lane < params.experts {
            var logit = sum[lane];
            if params.bias != ABSENT {
                logit += vectors[params.bias + first + lane];
            }
            logits[first + lane] = logit;
        }
    }
    for (var i = thread; i < params.top_k; i += THREADS) {
        chosen[i] = 0.0;
    }
    workgroupBarrier();

    var largest = logits[0];
    for (var i = thread; i < params.experts; i += THREADS) {
        largest = max(largest, logits[i]);
    }
    largest = max_over(largest, ids, THREADS);
    var total = 0.0;
    for (var i = thread; i < params.experts; i += THREADS) {
        total += exp(logits[i] - largest);
    }
    total = sum_over(vec4(total, 0.0, 0.0, 0.0), ids, THREADS).x;

    // An expert's place is the number of those before it; of equals the lower number comes first.
    let at = token * params.output_stride;
    for (var i = thread; i < params.experts; i += THREADS) {
        let own = logits[i];
        var place = 0u;
        for (var j = 0u; j < params.experts; j += 1u) {
            let other = logits[j];
            place += u32(other > own || (other == own && j < i));
        }
        if place < params.top_k {
            chosen[place] = exp(own - largest) / total;
            output[at + place] = f32(i);
        }
    }
    workgroupBarrier();
    var sum = 1.0;
    if params.renormalize != 0u {
        sum = 0.0;
        for (var i = 0u; i < params.top_k; i += 1u) {
            sum += chosen[i];
        }
    }
    for (var i = thread; i < params.top_k; i += THREADS) {
        output[at + params.top_k + i] = chosen[i] / sum;
    }
}
