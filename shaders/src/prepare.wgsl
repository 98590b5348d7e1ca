// What stands before a projection, for the form for many tokens: a workgroup makes a token ready.
//# use prologue

const THREADS: u32 = 256u;

struct Params {
    /// Elements of a prepared token, `cols` and zeros behind.
    output_stride: u32,
    /// Whether rows are those that `wanted` names.
    chosen: u32,
    @align(16) prologue: Prologue,
}

@group(0) @binding(_) var<uniform> params: Params;
/// Tokens whose logits are wanted.
@group(0) @binding(_) var<storage, read> wanted: array<u32>;
/// [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(THREADS)
fn main(ids: Ids) {
    let thread = thread_of(ids);
    let p = params.prologue;
    let row = ids.group.x;
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
    for (var k = thread; k < params.output_stride; k += THREADS) {
        var value = 0.0;
        if k < p.cols {
            value = factor * weighted(p, gated(p, token, k), k);
        }
        output[row * params.output_stride + k] = value;
    }
}
