// Products of 64 rows of weights with 64 tokens: the form for many tokens. The tokens were made ready by `prepare`.
// Each of 256 threads owns four tokens by four rows of the result; tiles of 16 columns pass through workgroup memory.
//# use weights
//# use step

const THREADS: u32 = 256u;
const SIDE: u32 = 64u;
const DEPTH: u32 = 16u;
/// Fours of a column of a tile, and one more: neighbours in a column fall into different banks.
const COLUMN: u32 = 17u;

struct Tiles {
    /// Columns of the weights.
    cols: u32,
    /// Columns of a prepared token, a multiple of 4.
    stride: u32,
}

/// [T, stride / 4]: prepared tokens, zeros behind the last column.
@group(0) @binding(_) var<storage, read> prepared: array<vec4<f32>>;

/// [DEPTH, SIDE / 4]: tokens of the tile, by column.
var<workgroup> token_tile: array<vec4<f32>, 272>;
/// [DEPTH, SIDE / 4]: weights of the tile, by column.
var<workgroup> weight_tile: array<vec4<f32>, 272>;

/// Four tokens, each with four rows.
alias Block = array<vec4<f32>, 4>;

/// Loads one column tile; `row` is the weights' row that this thread brings, `ABSENT` for none.
fn load_tiles(t: Tiles, m: Matrix, first_token: u32, row: u32, base: u32, thread: u32) {
    let place = thread / 4u;
    let quad = base / 4u + thread % 4u;
    var x = vec4(0.0);
    var w = vec4(0.0);
    if quad * 4u < t.cols {
        if first_token + place < step.tokens {
            x = prepared[(first_token + place) * (t.stride / 4u) + quad];
        }
        if row != ABSENT {
            w = weights_quad(m, row, quad);
        }
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let column = (thread % 4u * 4u + i) * COLUMN + place / 4u;
        token_tile[column][place % 4u] = x[i];
        weight_tile[column][place % 4u] = w[i];
    }
}

/// Adds the tiles' product to `block`.
fn multiply_tiles(block: ptr<function, Block>, thread: u32) {
    for (var k = 0u; k < DEPTH; k += 1u) {
        let x = token_tile[k * COLUMN + thread / 16u];
        let w = weight_tile[k * COLUMN + thread % 16u];
        (*block)[0] += x.x * w;
        (*block)[1] += x.y * w;
        (*block)[2] += x.z * w;
        (*block)[3] += x.w * w;
    }
}

/// The product for the tile of tokens that begins at `first_token`; thread `i` brings the weights of `row` for place `i / 4`.
fn multiply(t: Tiles, m: Matrix, first_token: u32, row: u32, thread: u32) -> Block {
    var block: Block;
    for (var i = 0u; i < 4u; i += 1u) {
        block[i] = vec4(0.0);
    }
    for (var base = 0u; base < t.cols; base += DEPTH) {
        load_tiles(t, m, first_token, row, base, thread);
        workgroupBarrier();
        multiply_tiles(&block, thread);
        workgroupBarrier();
    }
    return block;
}
