// `moe_route`: the experts of each token and their weights: the top_k largest of softmax(R n(x)). One workgroup per
// token.
//# kernel MoeRoute - weights reduce: any number of tokens
//# use rows

const THREADS: u32 = 256u;
/// Threads that share rows.
const LANES: u32 = 32u;
const MAX_EXPERTS: u32 = 512u;

struct Params {
    experts: u32,
    top_k: u32,
    /// Whether the weights are scaled to sum to 1.
    renormalize: u32,
    output_stride: u32,
    /// Offset of the router's biases in `vectors`.
    bias: u32,
    @align(16) matrix: Matrix,
    @align(16) prologue: Prologue,
}

@group(0) @binding(_) var<uniform> params: Params;
/// Indices of the experts by decreasing weight, then their weights, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// [experts].
var<workgroup> logits: array<f32, MAX_EXPERTS>;
/// [top_k]: the chosen experts' weights.
var<workgroup> chosen: array<f32, MAX_EXPERTS>;

/// The products of eight rows with the prepared `token`. One workgroup reads all rows, so many loads must be in flight.
fn multiply_eight(first: u32, token: u32, ids: Ids) -> array<vec4<f32>, 2> {
    let p = params.prologue;
    let m = params.matrix;
    let thread = thread_of(ids);
    let last = vec4(params.experts - 1u);
    let low = min(vec4(first) + vec4(0u, 1u, 2u, 3u), last);
    let high = min(vec4(first) + vec4(4u, 5u, 6u, 7u), last);
    if needs_scales(p) {
        find_scales(p, token, ids);
    }
    var sums: array<vec4<f32>, 2>;
    sums[0] = vec4(0.0);
    sums[1] = vec4(0.0);
    var squares = 0.0;
    for (var base = 0u; base < p.cols; base += PIECE) {
        squares += fill_piece(p, token, base, ids);
        let start = base / UNIT;
        let units = (min(p.cols - base, PIECE) + UNIT - 1u) / UNIT;
        for (var unit = thread % LANES; unit < units; unit += LANES) {
            let x = unit_of_piece(unit);
            let at = start + unit;
            sums[0] += vec4(dot_unit(m, low.x, at, x), dot_unit(m, low.y, at, x), dot_unit(m, low.z, at, x), dot_unit(m, low.w, at, x));
            sums[1] += vec4(dot_unit(m, high.x, at, x), dot_unit(m, high.y, at, x), dot_unit(m, high.z, at, x), dot_unit(m, high.w, at, x));
        }
    }
    sums[0] = sum_over(sums[0], ids, LANES);
    sums[1] = sum_over(sums[1], ids, LANES);
    if has_late_factor(p) {
        let all = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x;
        let factor = norm_factor(p, all, p.cols);
        sums[0] *= factor;
        sums[1] *= factor;
    }
    return sums;
}

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let token = step.start + group.x;
    let lane = thread % LANES;
    for (var base = 0u; base < params.experts; base += THREADS / LANES * 8u) {
        let first = base + thread / LANES * 8u;
        let sums = multiply_eight(first, token, ids);
        if lane < 8u && first + lane < params.experts {
            var logit = sums[lane / 4u][lane % 4u];
            if params.bias != ABSENT {
                logit += small(params.bias + first + lane);
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

    // An expert's rank is the number of experts before it; on a tie the lower index comes first. Four threads count
    // together.
    let at = token * params.output_stride;
    for (var base = 0u; base < params.experts; base += THREADS / 4u) {
        let i = base + thread / 4u;
        let own = logits[min(i, params.experts - 1u)];
        var count = 0;
        for (var j = thread % 4u; j < params.experts; j += 4u) {
            let other = logits[j];
            count += i32(other > own || (other == own && j < i));
        }
        let place = u32(sum_of_four(count, ids));
        if thread % 4u == 0u && i < params.experts && place < params.top_k {
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
