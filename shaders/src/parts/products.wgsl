// Products of tiles in workgroup memory: 64 rows by 64 columns, 16 terms at a time, by 256 threads with four rows by
// four columns each. A kernel fills `left_tile` and `right_tile` with whole vectors: a thread loads four neighbours of
// a side.

const SIDE: u32 = 64u;
const DEPTH: u32 = 16u;
/// Vectors of a term's row in a tile, plus one, so that neighbours in a column are in different banks.
const COLUMN: u32 = 17u;

/// [DEPTH, SIDE / 4]: rows, by term.
var<workgroup> left_tile: array<vec4<f32>, 272>;
/// [DEPTH, SIDE / 4]: columns, by term.
var<workgroup> right_tile: array<vec4<f32>, 272>;

/// Rows `thread / 16 * 4 ..`, each with columns `thread % 16 * 4 ..`.
alias Block = array<vec4<f32>, 4>;

fn empty_block() -> Block {
    return Block(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
}

/// Adds the tiles' product to `block`.
fn add_product(block: ptr<function, Block>, thread: u32) {
    for (var k = 0u; k < DEPTH; k += 1u) {
        let left = left_tile[k * COLUMN + thread / 16u];
        let right = right_tile[k * COLUMN + thread % 16u];
        (*block)[0] += left.x * right;
        (*block)[1] += left.y * right;
        (*block)[2] += left.z * right;
        (*block)[3] += left.w * right;
    }
}
