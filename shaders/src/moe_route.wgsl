// `moe_route`: the experts of each token and their weights, from the scores softmax(R n(x)) or sigmoid(R n(x)), and the weight of the
// shared expert, sigmoid(G n(x)). A workgroup takes a token.
//
// In `weights`, the row of G, if there is one, comes after those of R.
//# kernel MoeRoute - weights reduce: any number of tokens
//# use rows

const THREADS: u32 = 256u;
/// Threads that share rows.
const LANES: u32 = 32u;
const MAX_EXPERTS: u32 = 512u;
const MAX_ROWS: u32 = 513u;
const MAX_EXPERT_GROUPS: u32 = 64u;
/// Experts whose place a thread finds: `MAX_EXPERTS / (THREADS / 4)`.
const MAX_TURNS: u32 = 8u;
/// Rank of an expert that can't be chosen.
const EXCLUDED: f32 = -3e38;

struct Params {
    experts: u32,
    /// Experts, and 1 if the shared expert has a gate: rows of `weights`.
    rows: u32,
    top_k: u32,
    /// Whether scores are sigmoids, or else a softmax.
    sigmoid: u32,
    /// Whether the weights are made to sum to 1.
    renormalize: u32,
    /// Added to their sum before that.
    epsilon: f32,
    /// Factor on the weights.
    scale: f32,
    output_stride: u32,
    /// Biases of the rows, and factors on them, in `vectors`.
    bias: u32,
    factors: u32,
    /// What is added to the scores for the choice, in `vectors`.
    selection_bias: u32,
    /// Groups of experts, of which `used_groups` are used; 0 for none.
    groups: u32,
    used_groups: u32,
    /// Whether a group is ranked by its two largest scores, or else by the largest.
    rank_by_two: u32,
    @align(16) matrix: Matrix,
    @align(16) prologue: Prologue,
}

@group(0) @binding(_) var<uniform> params: Params;
/// Numbers of the experts, best first, then their weights, then the shared expert's, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// [rows]: logits, which become scores.
var<workgroup> logits: array<f32, MAX_ROWS>;
/// [experts]: what experts are ranked by.
var<workgroup> ranks: array<f32, MAX_EXPERTS>;
/// [groups]: what groups are ranked by.
var<workgroup> group_ranks: array<f32, MAX_EXPERT_GROUPS>;

/// The products of eight rows with the prepared `token`. One workgroup reads all rows, so many loads must be in flight.
fn multiply_eight(first: u32, token: u32, ids: Ids) -> array<vec4<f32>, 2> {
    let p = params.prologue;
    let m = params.matrix;
    let thread = thread_of(ids);
    let last = vec4(params.rows - 1u);
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
    for (var base = 0u; base < params.rows; base += THREADS / LANES * 8u) {
        let first = base + thread / LANES * 8u;
        let sums = multiply_eight(first, token, ids);
        if lane < 8u && first + lane < params.rows {
            var logit = sums[lane / 4u][lane % 4u];
            if params.bias != ABSENT {
                logit += small(params.bias + first + lane);
            }
            if params.factors != ABSENT {
                logit *= small(params.factors + first + lane);
            }
            logits[first + lane] = logit;
        }
    }
    workgroupBarrier();

    // Where nothing is added to them, logits rank as scores do, and are never equal by rounding.
    let by_score = params.selection_bias != ABSENT || params.groups > 0u;
    if by_score {
        find_scores(ids);
    }
    for (var i = thread; i < params.experts; i += THREADS) {
        var rank = logits[i];
        if params.selection_bias != ABSENT {
            rank += small(params.selection_bias + i);
        }
        ranks[i] = rank;
    }
    workgroupBarrier();
    if params.groups > 0u {
        leave_best_groups(thread);
    }
    if !by_score {
        find_scores(ids);
    }

    // An expert's place is the number of those before it; of equals the lower number comes first. Four threads count together.
    var places: array<u32, MAX_TURNS>;
    var sum = 0.0;
    for (var turn = 0u; turn * (THREADS / 4u) < params.experts; turn += 1u) {
        let i = turn * (THREADS / 4u) + thread / 4u;
        let own = ranks[min(i, params.experts - 1u)];
        var count = 0;
        for (var j = thread % 4u; j < params.experts; j += 4u) {
            let other = ranks[j];
            count += i32(other > own || (other == own && j < i));
        }
        let place = u32(sum_of_four(count, ids));
        let is_chosen = thread % 4u == 0u && i < params.experts && place < params.top_k;
        places[turn] = select(params.top_k, place, is_chosen);
        sum += select(0.0, logits[min(i, params.experts - 1u)], is_chosen);
    }
    sum = sum_over(vec4(sum, 0.0, 0.0, 0.0), ids, THREADS).x;
    let factor = params.scale * select(1.0, 1.0 / (sum + params.epsilon), params.renormalize != 0u);
    let at = token * params.output_stride;
    for (var turn = 0u; turn * (THREADS / 4u) < params.experts; turn += 1u) {
        let place = places[turn];
        if place < params.top_k {
            let i = turn * (THREADS / 4u) + thread / 4u;
            output[at + place] = f32(i);
            output[at + params.top_k + place] = logits[i] * factor;
        }
    }
    if params.rows > params.experts && thread == 0u {
        output[at + 2u * params.top_k] = sigmoid(logits[params.experts]);
    }
}

/// Makes the experts' `logits` scores; all threads take part.
fn find_scores(ids: Ids) {
    let thread = thread_of(ids);
    if params.sigmoid != 0u {
        for (var i = thread; i < params.experts; i += THREADS) {
            logits[i] = sigmoid(logits[i]);
        }
        workgroupBarrier();
        return;
    }
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
    for (var i = thread; i < params.experts; i += THREADS) {
        logits[i] = exp(logits[i] - largest) / total;
    }
    workgroupBarrier();
}

/// Excludes the experts of all groups but the best from the choice; all threads take part.
fn leave_best_groups(thread: u32) {
    let size = params.experts / params.groups;
    for (var group = thread; group < params.groups; group += THREADS) {
        var first = EXCLUDED;
        var second = EXCLUDED;
        for (var i = 0u; i < size; i += 1u) {
            let rank = ranks[group * size + i];
            second = max(second, min(rank, first));
            first = max(first, rank);
        }
        group_ranks[group] = first + select(0.0, second, params.rank_by_two != 0u && size > 1u);
    }
    workgroupBarrier();
    for (var group = thread; group < params.groups; group += THREADS) {
        let own = group_ranks[group];
        var before = 0u;
        for (var j = 0u; j < params.groups; j += 1u) {
            let other = group_ranks[j];
            before += u32(other > own || (other == own && j < group));
        }
        if before >= params.used_groups {
            for (var i = 0u; i < size; i += 1u) {
                ranks[group * size + i] = EXCLUDED;
            }
        }
    }
    workgroupBarrier();
}
