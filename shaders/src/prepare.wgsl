// What stands before a projection, for the form for many tokens: a workgroup makes a token ready.
//
// In f16, a token is divided by a power of two that is near its largest element: nothing can overflow, and products are multiplied with it
// in f32.
//# kernel Prepare - f16 reduce: makes many tokens ready for a projection
//# use prologue

const THREADS: u32 = 256u;

struct Params {
    /// Elements of a prepared token.
    output_stride: u32,
    /// Whether rows are those that `wanted` names.
    chosen: u32,
    /// The input is `parts` parts of `part` elements, and what remains; each is put at a multiple of `part_stride`, with zeros behind.
    parts: u32,
    part: u32,
    part_stride: u32,
    @align(16) prologue: Prologue,
}

@group(0) @binding(_) var<uniform> params: Params;
/// Tokens whose logits are wanted.
@group(0) @binding(_) var<storage, read> wanted: array<u32>;
//# when f32
/// [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;
//# when f16
/// [T, output_stride / 2]: pairs of f16.
@group(0) @binding(_) var<storage, read_write> output: array<u32>;
/// [T].
@group(0) @binding(_) var<storage, read_write> factors: array<f32>;
//# end

/// Where element `k` of a prepared token comes from; `ABSENT` for a zero.
fn source(k: u32) -> u32 {
    let part = min(k / params.part_stride, params.parts);
    let within = k - part * params.part_stride;
    let i = part * params.part + within;
    return select(ABSENT, i, i < params.prologue.cols && (part == params.parts || within < params.part));
}

fn prepared(p: Prologue, token: u32, k: u32, factor: f32) -> f32 {
    let i = source(k);
    if i == ABSENT {
        return 0.0;
    }
    return factor * weighted(p, gated(p, token, i), i);
}

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let p = params.prologue;
    let row = group.x;
    var token = step.start + row;
    if params.chosen != 0u {
        token = wanted[token];
    }
    if needs_scales(p) {
        find_scales(p, token, ids);
    }
    var factor = 1.0;
    if has_late_factor(p) {
        var squares = 0.0;
        for (var k = thread; k < p.cols; k += THREADS) {
            let value = gated(p, token, k);
            squares += value * value;
        }
        factor = norm_factor(p, sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x, p.cols);
    }
//# when f32
    for (var k = thread; k < params.output_stride; k += THREADS) {
        output[row * params.output_stride + k] = prepared(p, token, k, factor);
    }
//# when f16
    var largest = 0.0;
    for (var k = thread; k < p.cols; k += THREADS) {
        largest = max(largest, abs(weighted(p, gated(p, token, k), k)));
    }
    largest = max_over(factor * largest, ids, THREADS);
    // Its exponent; a token of zeros or worse is left as it is.
    let exponent = clamp(bitcast<u32>(largest) >> 23u, 1u, 253u);
    factor *= bitcast<f32>((254u - exponent) << 23u);
    for (var k = thread * 2u; k < params.output_stride; k += 2u * THREADS) {
        let pair = vec2(prepared(p, token, k, factor), prepared(p, token, k + 1u, factor));
        output[(row * params.output_stride + k) / 2u] = pack2x16float(pair);
    }
    if thread == 0u {
        factors[row] = bitcast<f32>(exponent << 23u);
    }
//# end
}
