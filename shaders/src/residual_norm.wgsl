// `residual_norm`: x = scale * norm(x), or x += scale * norm(branch). A workgroup takes a token.
//# kernel ResidualNormStream stream reduce: norms the residual stream in place
//# kernel ResidualNormBranch branch reduce: adds a normed branch to the residual stream
//# use step
//# use reduce

const THREADS: u32 = 256u;

struct Params {
    /// Elements of a token.
    width: u32,
    /// The norm's weight, [width], in `vectors`.
    weight: u32,
    /// The norm's bias, [width], in `vectors`.
    bias: u32,
    eps: f32,
    scale: f32,
    /// Whether the mean is subtracted first.
    centred: u32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// The op's small tensors, one after the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// x, [T, width].
@group(0) @binding(_) var<storage, read_write> stream: array<f32>;
//# when branch
/// [T, width].
@group(0) @binding(_) var<storage, read> branch: array<f32>;
//# end

/// An element of what is normed.
fn source(at: u32) -> f32 {
    //# when stream
    return stream[at];
    //# when branch
    return branch[at];
    //# end
}

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let first = (step.start + group.x) * params.width;
    var mean = 0.0;
    if params.centred != 0u {
        var total = 0.0;
        for (var k = thread; k < params.width; k += THREADS) {
            total += source(first + k);
        }
        mean = sum_over(vec4(total, 0.0, 0.0, 0.0), ids, THREADS).x / f32(params.width);
    }
    var squares = 0.0;
    for (var k = thread; k < params.width; k += THREADS) {
        let value = source(first + k) - mean;
        squares += value * value;
    }
    let sum = sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x;
    let factor = inverseSqrt(sum / f32(params.width) + params.eps);
    for (var k = thread; k < params.width; k += THREADS) {
        var value = factor * (source(first + k) - mean) * vectors[params.weight + k];
        if params.bias != ABSENT {
            value += vectors[params.bias + k];
        }
        //# when stream
        stream[first + k] = params.scale * value;
        //# when branch
        stream[first + k] += params.scale * value;
        //# end
    }
}
