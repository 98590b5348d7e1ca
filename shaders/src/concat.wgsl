// `concat`: y = [x_1 | x_2 | ...]. A launch copies the columns of one x; each thread copies an element, y counts tokens.
//# kernel Concat -: columns of a buffer
//# use step

const THREADS: u32 = 64u;

struct Params {
    /// Columns of x.
    cols: u32,
    /// First column of x in its buffer.
    input_offset: u32,
    /// From one column of x to the next.
    input_step: u32,
    input_stride: u32,
    /// First column in y.
    output_offset: u32,
    output_stride: u32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// x, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = step.start + id.y;
    if id.x >= params.cols {
        return;
    }
    let source = token * params.input_stride + params.input_offset + id.x * params.input_step;
    output[token * params.output_stride + params.output_offset + id.x] = input[source];
}
