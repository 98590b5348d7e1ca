// `embed`: x = scale * E[token]. Each thread computes four elements; y counts tokens.
//# kernel Embed - weights: any number of tokens
//# use weights
//# use step

const THREADS: u32 = 64u;

struct Params {
    /// Elements of a row.
    cols: u32,
    /// First token whose row is in `weights`, and the number of rows.
    first_row: u32,
    rows: u32,
    output_stride: u32,
    scale: f32,
    @align(16) matrix: Matrix,
}

@group(0) @binding(_) var<uniform> params: Params;
/// [T].
@group(0) @binding(_) var<storage, read> tokens: array<u32>;
/// [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = step.start + id.y;
    let row = tokens[token] - params.first_row;
    if id.x * 4u >= params.cols || row >= params.rows {
        return;
    }
    let values = params.scale * weights_quad(params.matrix, row, id.x);
    for (var i = 0u; i < 4u; i += 1u) {
        let k = id.x * 4u + i;
        if k < params.cols {
            output[token * params.output_stride + k] = values[i];
        }
    }
}
