// Tiles in ordinary arithmetic. In f16, products are summed in f16 over a tile's columns and in f32 beyond.

const THREADS: u32 = 128u;
//# when tiles
/// A thread has four rows by eight tokens.
const ROWS: u32 = 64u;
const TOKENS: u32 = 64u;
const DEPTH: u32 = 32u;
/// Vectors of four that a thread loads of a token, and threads that load a token.
const QUADS: u32 = 4u;
const SHARE: u32 = 2u;
//# when small_tiles
/// A thread has four rows by four tokens, for a quarter of the columns.
const ROWS: u32 = 32u;
const TOKENS: u32 = 16u;
const DEPTH: u32 = 64u;
/// Vectors of four that a thread loads of a token, and threads that load a token.
const QUADS: u32 = 2u;
const SHARE: u32 = 8u;
//# end
/// Threads that load a row of weights.
const GRANULES: u32 = DEPTH / GRANULE;
const ROW_QUADS: u32 = ROWS / 4u;
const TOKEN_QUADS: u32 = TOKENS / 4u;

/// [DEPTH, TOKENS / 4]: tokens of the tile, by column.
var<workgroup> token_tile: array<vec4<Real>, DEPTH * TOKEN_QUADS>;
/// [DEPTH, ROWS / 4]: weights of the tile, by column.
var<workgroup> weight_tile: array<vec4<Real>, DEPTH * ROW_QUADS>;

/// Sums over a tile's columns: four rows for each token.
//# when tiles
alias Sums = array<vec4<Real>, 8>;
//# when small_tiles
alias Sums = array<vec4<Real>, 4>;
//# end
/// Sums over all columns, in f32.
//# when f32
alias Block = Sums;
//# when f16
//# use sums_f16
//# end

/// Stores four columns of a row of weights in the tile.
fn put_weights(column: u32, row: u32, values: vec4<Real>) {
    let at = column * ROW_QUADS + row / 4u;
    weight_tile[at][row % 4u] = values.x;
    weight_tile[at + ROW_QUADS][row % 4u] = values.y;
    weight_tile[at + 2u * ROW_QUADS][row % 4u] = values.z;
    weight_tile[at + 3u * ROW_QUADS][row % 4u] = values.w;
}

/// Stores four columns of a token in the tile.
fn put_token(column: u32, token: u32, values: vec4<Real>) {
    let at = column * TOKEN_QUADS + token / 4u;
    token_tile[at][token % 4u] = values.x;
    token_tile[at + TOKEN_QUADS][token % 4u] = values.y;
    token_tile[at + 2u * TOKEN_QUADS][token % 4u] = values.z;
    token_tile[at + 3u * TOKEN_QUADS][token % 4u] = values.w;
}

/// Stores what a thread has loaded into the tiles.
fn place_tiles(incoming: Incoming, cols: u32, base: u32, thread: u32) {
    let row = thread / GRANULES;
    let column = thread % GRANULES * GRANULE;
    let values = weights_of(incoming, cols, base, thread);
    put_weights(column, row, vec4<Real>(values[0]));
    put_weights(column + 4u, row, vec4<Real>(values[1]));
    put_weights(column + 8u, row, vec4<Real>(values[2]));
    put_weights(column + 12u, row, vec4<Real>(values[3]));
    let token = thread / SHARE;
    let own = thread % SHARE * QUADS * 4u;
    put_token(own, token, incoming.token[0]);
    put_token(own + 4u, token, incoming.token[1]);
    if QUADS > 2u {
        put_token(own + 8u, token, incoming.token[2]);
        put_token(own + 12u, token, incoming.token[3]);
    }
}

//# when tiles
fn multiply_column(sums: ptr<function, Sums>, k: u32, thread: u32) {
    let w = weight_tile[k * ROW_QUADS + thread % ROW_QUADS];
    let x = token_tile[k * TOKEN_QUADS + thread / ROW_QUADS * 2u];
    let y = token_tile[k * TOKEN_QUADS + thread / ROW_QUADS * 2u + 1u];
    (*sums)[0] += x.x * w;
    (*sums)[1] += x.y * w;
    (*sums)[2] += x.z * w;
    (*sums)[3] += x.w * w;
    (*sums)[4] += y.x * w;
    (*sums)[5] += y.y * w;
    (*sums)[6] += y.z * w;
    (*sums)[7] += y.w * w;
}
//# when small_tiles
fn multiply_column(sums: ptr<function, Sums>, k: u32, thread: u32) {
    let w = weight_tile[k * ROW_QUADS + thread % ROW_QUADS];
    let x = token_tile[k * TOKEN_QUADS + thread / ROW_QUADS % TOKEN_QUADS];
    (*sums)[0] += x.x * w;
    (*sums)[1] += x.y * w;
    (*sums)[2] += x.z * w;
    (*sums)[3] += x.w * w;
}
//# end

/// Adds the products of this thread's columns of the tiles to `sums`.
fn multiply_tiles(sums: ptr<function, Sums>, thread: u32) {
    //# when tiles
    let first = 0u;
    let columns = DEPTH;
    //# when small_tiles
    let columns = 16u;
    let first = thread / 32u * columns;
    //# end
    for (var k = first; k < first + columns; k += 4u) {
        multiply_column(sums, k, thread);
        multiply_column(sums, k + 1u, thread);
        multiply_column(sums, k + 2u, thread);
        multiply_column(sums, k + 3u, thread);
    }
}

//# when tiles
/// Finishes a thread's eight tokens.
fn finish_block(tile: Tile, block: ptr<function, Block>, thread: u32) {
    let token = thread / ROW_QUADS * 8u;
    finish_place(tile, token, (*block)[0], thread);
    finish_place(tile, token + 1u, (*block)[1], thread);
    finish_place(tile, token + 2u, (*block)[2], thread);
    finish_place(tile, token + 3u, (*block)[3], thread);
    finish_place(tile, token + 4u, (*block)[4], thread);
    finish_place(tile, token + 5u, (*block)[5], thread);
    finish_place(tile, token + 6u, (*block)[6], thread);
    finish_place(tile, token + 7u, (*block)[7], thread);
}
//# when small_tiles
/// [TOKENS, ROWS / 4]: the results of a quarter of the columns.
var<workgroup> shares: array<vec4<f32>, TOKENS * ROW_QUADS>;

/// Adds up the quarters of the columns, one after another, and finishes one token's four rows.
fn finish_block(tile: Tile, block: ptr<function, Block>, thread: u32) {
    let first = thread / ROW_QUADS % TOKEN_QUADS * 4u * ROW_QUADS + thread % ROW_QUADS;
    var sum = vec4(0.0);
    for (var quarter = 0u; quarter < 4u; quarter += 1u) {
        if thread / 32u == quarter {
            shares[first] = (*block)[0];
            shares[first + ROW_QUADS] = (*block)[1];
            shares[first + 2u * ROW_QUADS] = (*block)[2];
            shares[first + 3u * ROW_QUADS] = (*block)[3];
        }
        workgroupBarrier();
        sum += shares[thread];
        workgroupBarrier();
    }
    finish_place(tile, thread / ROW_QUADS, sum, thread);
}
//# when f32
/// Adds the tiles' product to `block`.
fn add_product(block: ptr<function, Block>, thread: u32) {
    multiply_tiles(block, thread);
}
//# when f16
/// Adds the tiles' product to `block`.
fn add_product(block: ptr<function, Block>, thread: u32) {
    var sums: Sums;
    multiply_tiles(&sums, thread);
    add_sums(block, &sums);
}
//# end

fn finish_place(tile: Tile, place: u32, products: vec4<f32>, thread: u32) {
    if place < tile.tokens {
        let pair = thread % ROW_QUADS * 2u;
        finish_tile(tile, place, pair, products.xy);
        finish_tile(tile, place, pair + 1u, products.zw);
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = tile_of(group);
    if tile.tokens == 0u {
        return;
    }
    let row = weight_row(tile, thread / GRANULES);
    // Places after the last token hold that token; their results are dropped.
    let input = input_row(tile, min(thread / SHARE, tile.tokens - 1u));
    var block: Block;
    var incoming = load(tile.matrix, row, input, tile.cols, 0u, thread);
    for (var base = 0u; base < tile.cols; base += DEPTH) {
        place_tiles(incoming, tile.cols, base, thread);
        workgroupBarrier();
        if base + DEPTH < tile.cols {
            incoming = load(tile.matrix, row, input, tile.cols, base + DEPTH, thread);
        }
        add_product(&block, thread);
        workgroupBarrier();
    }
    finish_block(tile, &block, thread);
}

