// Prepares the input of a projection, in the form for many tokens: one workgroup per token.
//
// In f16, a token is divided by a power of two near its largest element, so nothing can overflow; products are
// multiplied by it in f32.
//# kernel Prepare - f16 reduce: prepares many tokens for a projection
//# use prologue

const THREADS: u32 = 256u;

struct Params {
    /// Elements of a prepared token.
    output_stride: u32,
    /// Whether `wanted` selects the rows.
    chosen: u32,
    /// The input is `parts` parts of `part` elements, and a remainder; each goes to a multiple of `part_stride`, padded
    /// with zeros.
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

/// Index of the source of element `k` of a prepared token; `ABSENT` for a zero.
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
    return factor * weighted(p, token, gated(p, token, i), i);
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
        largest = max(largest, abs(weighted(p, token, gated(p, token, k), k)));
    }
    largest = max_over(factor * largest, ids, THREADS);
    // Its exponent. A token of zeros or non-finite values is not scaled.
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
