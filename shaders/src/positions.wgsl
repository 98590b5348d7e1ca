// `positions`: x += P[t] for a token at position t. Each thread adds four elements; y counts tokens.
//# kernel PositionsLearned learned weights: rows of a table, of one run
//# kernel PositionsSinusoidal sinusoidal: sines and cosines, of any runs
//# when learned
//# use weights
//# end
//# use step

const THREADS: u32 = 64u;

struct Params {
    /// Elements of a token.
    width: u32,
    //# when learned
    /// First position whose row is in `weights`, and the number of rows.
    first_row: u32,
    rows: u32,
    @align(16) matrix: Matrix,
    //# end
}

@group(0) @binding(_) var<uniform> params: Params;
//# when sinusoidal
/// [T, width / 2]: cosine and sine of each pair of columns.
@group(0) @binding(_) var<storage, read> turns: array<vec2<f32>>;
//# end
/// x, [T, width].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = step.start + id.y;
    let first = id.x * 4u;
    if first >= params.width {
        return;
    }
    //# when learned
    let row = step.position + id.y - params.first_row;
    if row >= params.rows {
        return;
    }
    let values = weights_quad(params.matrix, row, id.x);
    //# when sinusoidal
    let half = params.width / 2u;
    let columns = min(vec4(first) + vec4(0u, 1u, 2u, 3u), vec4(params.width - 1u));
    var values: vec4<f32>;
    for (var i = 0u; i < 4u; i += 1u) {
        let turn = turns[token * half + columns[i] % half];
        values[i] = select(turn.x, turn.y, columns[i] < half);
    }
    //# end
    for (var i = 0u; i < 4u && first + i < params.width; i += 1u) {
        output[token * params.width + first + i] += values[i];
    }
}
