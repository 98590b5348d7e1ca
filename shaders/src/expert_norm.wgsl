// `expert_norm`: y_e = w_e * rms(n(x)) for each chosen expert e of a token. A workgroup takes a token.
//# kernel ExpertNorm - reduce: any number of tokens
//# use prologue

const THREADS: u32 = 256u;

struct Params {
    top_k: u32,
    routes_stride: u32,
    /// The experts' weights, [experts, cols], in `vectors`.
    weight: u32,
    eps: f32,
    @align(16) prologue: Prologue,
}

@group(0) @binding(_) var<uniform> params: Params;
/// What `moe_route` wrote, [T, routes_stride].
@group(0) @binding(_) var<storage, read> routes: array<f32>;
/// [T, top_k * cols].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let p = params.prologue;
    let token = step.start + group.x;
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
    var squares = 0.0;
    for (var k = thread; k < p.cols; k += THREADS) {
        let value = factor * weighted(p, gated(p, token, k), k);
        squares += value * value;
    }
    let sum = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x;
    factor *= inverseSqrt(sum / f32(p.cols) + params.eps);
    for (var place = 0u; place < params.top_k; place += 1u) {
        let expert = u32(routes[token * params.routes_stride + place]);
        let first = (token * params.top_k + place) * p.cols;
        for (var k = thread; k < p.cols; k += THREADS) {
            let value = factor * weighted(p, gated(p, token, k), k);
            output[first + k] = value * small(params.weight + expert * p.cols + k);
        }
    }
}
