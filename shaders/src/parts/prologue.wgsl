// The operation before a projection: a norm, a gate, both or neither, on the elements of one token.
//
// A norm's factor is common to all elements of a token, so a projection may multiply the elements without it
// (`PROLOGUE_NORM`, `PROLOGUE_GATED_NORM`) while the squares are summed, and apply it at the end. Otherwise (several
// groups, a bias) `find_scales` passes over the token first.
//# use math
//# use step
//# use reduce

struct Prologue {
    kind: u32,
    /// Elements of a token that are used.
    cols: u32,
    /// First column of the input.
    input_offset: u32,
    /// Elements between two tokens.
    input_stride: u32,
    gate_offset: u32,
    gate_stride: u32,
    /// Offset of the norm's weight, [cols], in `vectors`.
    weight: u32,
    /// Offset of the norm's bias, [cols], in `vectors`.
    bias: u32,
    /// Number of equal parts that are normed separately.
    groups: u32,
    eps: f32,
}

const PROLOGUE_NONE: u32 = 0u;
/// An RMS norm, its factor applied at the end.
const PROLOGUE_NORM: u32 = 1u;
/// x * silu(gate).
const PROLOGUE_GATE: u32 = 2u;
/// An RMS norm of x * silu(gate) over all columns, its factor applied at the end.
const PROLOGUE_GATED_NORM: u32 = 3u;
/// An RMS norm with its factors computed first.
const PROLOGUE_SCALED_NORM: u32 = 4u;
/// An RMS norm of x * silu(gate) in groups, with its factors computed first.
const PROLOGUE_SCALED_GATED_NORM: u32 = 5u;
/// An RMS norm in groups, with factors found first, times silu(gate).
const PROLOGUE_NORM_SILU: u32 = 6u;
/// An RMS norm in groups, with factors found first, times sigmoid(gate).
const PROLOGUE_NORM_SIGMOID: u32 = 7u;

/// x * sigmoid(gate).
const PROLOGUE_SIGMOID: u32 = 8u;
/// x * sigmoid(gate), a gate for each of `groups` equal parts.
const PROLOGUE_PART_SIGMOID: u32 = 9u;

/// A layer norm over all columns, with its mean and factor found first.
const PROLOGUE_LAYER_NORM: u32 = 10u;

/// Most groups of a norm.
//# when head_rows
const MAX_GROUPS: u32 = 256u;
//# unless head_rows
const MAX_GROUPS: u32 = 512u;
//# end

//# when f32 f16
/// [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// [T, gate_stride]; the input again if there is no gate.
@group(0) @binding(_) var<storage, read> gate: array<f32>;
/// The op's small tensors, concatenated.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;

fn input_at(i: u32) -> f32 {
    return input[i];
}

fn gate_at(i: u32) -> f32 {
    return gate[i];
}

/// An element of the small tensors.
fn small(i: u32) -> f32 {
    return vectors[i];
}
//# when int8
/// [T, input_stride / 4]: strides and offsets are multiples of four here.
@group(0) @binding(_) var<storage, read> input: array<vec4<f32>>;
/// [T, gate_stride / 4]; the input again if there is no gate.
@group(0) @binding(_) var<storage, read> gate: array<vec4<f32>>;
/// The op's small tensors, concatenated, each aligned to four elements.
@group(0) @binding(_) var<storage, read> vectors: array<vec4<f32>>;

fn input_at(i: u32) -> f32 {
    return input[i / 4u][i % 4u];
}

fn gate_at(i: u32) -> f32 {
    return gate[i / 4u][i % 4u];
}

/// An element of the small tensors.
fn small(i: u32) -> f32 {
    return vectors[i / 4u][i % 4u];
}
//# end

/// [groups].
var<workgroup> scales: array<f32, MAX_GROUPS>;

//# when head_rows
// Here the operation is fixed: a layer norm of each group, then a product with sigmoid(gate).

/// [groups].
var<workgroup> means: array<f32, MAX_GROUPS>;

/// Whether the norm subtracts the mean of each group.
fn is_centred(p: Prologue) -> bool {
    return true;
}

/// Whether elements are multiplied with their gate before the norm's weight.
fn is_gated(p: Prologue) -> bool {
    return false;
}

/// Whether that is before the norm's squares are summed, too.
fn is_normed_gated(p: Prologue) -> bool {
    return false;
}

/// Whether `find_scales` must run before `weighted`.
fn needs_scales(p: Prologue) -> bool {
    return true;
}

/// Whether the result must be multiplied by `norm_factor`.
fn has_late_factor(p: Prologue) -> bool {
    return false;
}
//# unless head_rows
/// Of a layer norm's only group.
var<workgroup> means: array<f32, 1>;

/// Whether the norm subtracts the mean of each group.
fn is_centred(p: Prologue) -> bool {
    return p.kind == PROLOGUE_LAYER_NORM;
}

/// Whether elements are multiplied by a function of their gate before the norm's weight.
fn is_gated(p: Prologue) -> bool {
    return p.kind != PROLOGUE_NONE && p.kind != PROLOGUE_NORM && p.kind != PROLOGUE_SCALED_NORM
        && p.kind != PROLOGUE_LAYER_NORM;
}

/// Whether that happens before the norm's squares are summed, too.
fn is_normed_gated(p: Prologue) -> bool {
    return is_gated(p) && p.kind != PROLOGUE_NORM_SILU && p.kind != PROLOGUE_NORM_SIGMOID;
}

/// Whether `find_scales` must run before `weighted`.
fn needs_scales(p: Prologue) -> bool {
    return p.kind == PROLOGUE_SCALED_NORM || p.kind == PROLOGUE_SCALED_GATED_NORM
        || p.kind == PROLOGUE_NORM_SILU || p.kind == PROLOGUE_NORM_SIGMOID || p.kind == PROLOGUE_LAYER_NORM;
}

/// Whether the result must be multiplied by `norm_factor`.
fn has_late_factor(p: Prologue) -> bool {
    return p.kind == PROLOGUE_NORM || p.kind == PROLOGUE_GATED_NORM;
}
//# end

/// What element `k` of `token` is multiplied by: a function of its gate.
fn gate_factor(p: Prologue, token: u32, k: u32) -> f32 {
    let at = token * p.gate_stride + p.gate_offset;
    if p.kind == PROLOGUE_PART_SIGMOID {
        return sigmoid(gate_at(at + k / (p.cols / p.groups)));
    }
    let gate = gate_at(at + k);
    if p.kind == PROLOGUE_SIGMOID || p.kind == PROLOGUE_NORM_SIGMOID {
        return sigmoid(gate);
    }
    return silu(gate);
}

/// The factors of four gates, one for each element.
fn four_factors(p: Prologue, gates: vec4<f32>) -> vec4<f32> {
    let is_sigmoid = p.kind == PROLOGUE_SIGMOID || p.kind == PROLOGUE_NORM_SIGMOID;
    return four_sigmoid(gates) * select(gates, vec4(1.0), is_sigmoid);
}

/// The factors of four elements whose gates need not be neighbours.
fn four_gate_factors(p: Prologue, token: u32, k: vec4<u32>) -> vec4<f32> {
    return vec4(gate_factor(p, token, k.x), gate_factor(p, token, k.y), gate_factor(p, token, k.z), gate_factor(p, token, k.w));
}

/// Element `k` of `token` times its gate's factor, before the norm's factor and weight.
fn gated(p: Prologue, token: u32, k: u32) -> f32 {
    var value = input_at(token * p.input_stride + p.input_offset + k);
    if is_gated(p) {
        value *= gate_factor(p, token, k);
    }
    return value;
}

/// Element `k` of `token`, as the norm sums its square.
fn normed(p: Prologue, token: u32, k: u32) -> f32 {
    var value = input_at(token * p.input_stride + p.input_offset + k);
    if is_normed_gated(p) {
        value *= gate_factor(p, token, k);
    }
    return value;
}

/// Applies the norm's weight, bias and factors to `value`, which is element `k` after the gate.
fn weighted(p: Prologue, value: f32, k: u32) -> f32 {
    var result = value;
    if needs_scales(p) {
        let group = k / (p.cols / p.groups);
        if is_centred(p) {
            result -= means[group];
        }
        result *= scales[group];
    }
    if p.weight != ABSENT {
        result *= small(p.weight + k);
    }
    if p.bias != ABSENT {
        result += small(p.bias + k);
    }
    return result;
}

fn norm_factor(p: Prologue, sum_of_squares: f32, width: u32) -> f32 {
    return inverseSqrt(sum_of_squares / f32(width) + p.eps);
}

/// Elements `i`, `i + span`, `i + 2 span` and `i + 3 span` of a group from `start` on, as the norm sums
/// their squares; beyond the end the last element is used. There are no branches, so that all loads overlap.
fn spread(p: Prologue, token: u32, start: u32, i: u32, span: u32, width: u32) -> vec4<f32> {
    let at = vec4(i) + span * vec4(0u, 1u, 2u, 3u);
    let k = start + min(at, vec4(width - 1u));
    return vec4(normed(p, token, k.x), normed(p, token, k.y), normed(p, token, k.z), normed(p, token, k.w));
}

/// The mean of all elements of `token`.
fn mean_of(p: Prologue, token: u32, ids: Ids) -> f32 {
    var total = 0.0;
    for (var k = thread_of(ids); k < p.cols; k += THREADS) {
        total += gated(p, token, k);
    }
    return sum_over(vec4(total, 0.0, 0.0, 0.0), ids, THREADS).x / f32(p.cols);
}

/// Computes `scales`, and `means` where they are subtracted, for `token`: a span of threads takes a group, so that all threads are busy even with few groups.
fn find_scales(p: Prologue, token: u32, ids: Ids) {
    let width = p.cols / p.groups;
    var span = THREADS;
    while span > 32u && span * p.groups > THREADS {
        span /= 2u;
    }
    let lane = thread_of(ids) % span;
    for (var first = 0u; first < p.groups; first += THREADS / span) {
        let group = first + thread_of(ids) / span;
        // If no group is left, use the last one.
        let start = min(group, p.groups - 1u) * width;
        // Differences from an origin near the mean are summed, so that nothing cancels.
        var origin = 0.0;
        //# when head_rows
        // Mean and squares in one pass: the origin is the first element. Since that is one of n elements, its squared
        // distance from the mean is at most n times the variance, which bounds the cancellation.
        origin = gated(p, token, start);
        //# unless head_rows
        if is_centred(p) {
            origin = mean_of(p, token, ids);
        }
        //# end
        var total = 0.0;
        var squares = 0.0;
        for (var i = lane; i < width; i += 4u * span) {
            let inside = vec4(i) + span * vec4(0u, 1u, 2u, 3u) < vec4(width);
            let value = select(vec4(0.0), spread(p, token, start, i, span, width) - origin, inside);
            total += dot(value, vec4(1.0));
            squares += dot(value, value);
        }
        let sums = sum_over(vec4(squares, total, 0.0, 0.0), ids, span);
        var sum = sums.x;
        if is_centred(p) {
            let mean = sums.y / f32(width);
            sum = max(sum - sums.y * mean, 0.0);
            if group < p.groups && lane == 0u {
                means[group] = origin + mean;
            }
        }
        if group < p.groups && lane == 0u {
            scales[group] = norm_factor(p, sum, width);
        }
    }
    workgroupBarrier();
}
