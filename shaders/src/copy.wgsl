// Memory bandwidth: copies one buffer to another. Not an op; `bench` measures with it.
//# kernel Copy -: copies memory, to measure its bandwidth
//# use step

const THREADS: u32 = 256u;
/// Elements that each thread copies.
const EACH: u32 = 16u;

struct Params {
    /// Elements of four words.
    elements: u32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// [elements]
@group(0) @binding(_) var<storage, read> input: array<vec4<u32>>;
/// [elements]
@group(0) @binding(_) var<storage, read_write> output: array<vec4<u32>>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // Neighbouring threads copy neighbouring elements.
    let first = (step.start + group.x) * THREADS * EACH + thread;
    for (var i = 0u; i < EACH; i++) {
        let place = first + i * THREADS;
        if place < params.elements {
            output[place] = input[place];
        }
    }
}
