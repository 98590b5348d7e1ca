// What stands before a projection: a norm, a gate, both or nothing, on the elements of one token.
//
// A norm's factor is common to all elements of a token, so a projection may be computed of the elements without it
// (`PROLOGUE_NORM`, `PROLOGUE_GATED_NORM`) while the squares are summed, and be multiplied by it at the end. Where that is
// not so (several groups, a bias), `find_scales` passes over the token first.
//# use math
//# use step
//# use reduce

struct Prologue {
    kind: u32,
    /// Elements of a token that take part.
    cols: u32,
    /// First column of the input.
    input_offset: u32,
    /// Elements from one token to the next.
    input_stride: u32,
    gate_offset: u32,
    gate_stride: u32,
    /// The norm's weight, [cols], in `vectors`.
    weight: u32,
    /// The norm's bias, [cols], in `vectors`.
    bias: u32,
    /// Equal parts that are normed by themselves.
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
/// An RMS norm with factors found first.
const PROLOGUE_SCALED_NORM: u32 = 4u;
/// An RMS norm of x * silu(gate) in groups, with factors found first.
const PROLOGUE_SCALED_GATED_NORM: u32 = 5u;

/// A layer norm in groups, with means and factors found first, times sigmoid(gate).
const PROLOGUE_LAYER_NORM_GATE: u32 = 6u;

/// Means take the upper half of `scales`.
const MAX_GROUPS: u32 = 512u;

//# when f32 f16
/// [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// [T, gate_stride]; the input again where there is no gate.
@group(0) @binding(_) var<storage, read> gate: array<f32>;
/// The op's small tensors, one behind the other.
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
/// [T, gate_stride / 4]; the input again where there is no gate.
@group(0) @binding(_) var<storage, read> gate: array<vec4<f32>>;
/// The op's small tensors, one behind the other, each from a multiple of four on.
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

/// Element `k` of `token` behind the gate and before the norm.
fn gated(p: Prologue, token: u32, k: u32) -> f32 {
    var value = input_at(token * p.input_stride + p.input_offset + k);
    if p.kind == PROLOGUE_GATE || p.kind == PROLOGUE_GATED_NORM || p.kind == PROLOGUE_SCALED_GATED_NORM {
        value *= silu(gate_at(token * p.gate_stride + p.gate_offset + k));
    }
    return value;
}

/// `value`, which is element `k` of `token` behind the gate before the norm, with the norm's weight, bias and found factors, and behind the
/// gate after it.
fn weighted(p: Prologue, token: u32, value: f32, k: u32) -> f32 {
    var result = value;
    if p.kind >= PROLOGUE_SCALED_NORM {
        let group = k / (p.cols / p.groups);
        if p.kind == PROLOGUE_LAYER_NORM_GATE {
            result -= scales[MAX_GROUPS / 2u + group];
        }
        result *= scales[group];
    }
    if p.weight != ABSENT {
        result *= small(p.weight + k);
    }
    if p.bias != ABSENT {
        result += small(p.bias + k);
    }
    if p.kind == PROLOGUE_LAYER_NORM_GATE {
        result *= sigmoid(gate_at(token * p.gate_stride + p.gate_offset + k));
    }
    return result;
}

/// Whether `find_scales` must run before `weighted`.
fn needs_scales(p: Prologue) -> bool {
    return p.kind >= PROLOGUE_SCALED_NORM;
}

/// Whether the result must be multiplied by `norm_factor`.
fn has_late_factor(p: Prologue) -> bool {
    return p.kind == PROLOGUE_NORM || p.kind == PROLOGUE_GATED_NORM;
}

fn norm_factor(p: Prologue, sum_of_squares: f32, width: u32) -> f32 {
    return inverseSqrt(sum_of_squares / f32(width) + p.eps);
}

/// Fills `scales` for `token`; a span of 32 threads takes a group.
fn find_scales(p: Prologue, token: u32, ids: Ids) {
    let thread = thread_of(ids);
    let width = p.cols / p.groups;
    for (var first = 0u; first < p.groups; first += THREADS / 32u) {
        let group = first + thread / 32u;
        var mean = 0.0;
        if p.kind == PROLOGUE_LAYER_NORM_GATE {
            var total = 0.0;
            if group < p.groups {
                for (var i = thread % 32u; i < width; i += 32u) {
                    total += gated(p, token, group * width + i);
                }
            }
            mean = sum_over(vec4(total, 0.0, 0.0, 0.0), ids, 32u).x / f32(width);
            if group < p.groups && thread % 32u == 0u {
                scales[MAX_GROUPS / 2u + group] = mean;
            }
        }
        var squares = 0.0;
        if group < p.groups {
            for (var i = thread % 32u; i < width; i += 32u) {
                let value = gated(p, token, group * width + i) - mean;
                squares += value * value;
            }
        }
        let sum = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, 32u).x;
        if group < p.groups && thread % 32u == 0u {
            scales[group] = norm_factor(p, sum, width);
        }
    }
    workgroupBarrier();
}
