// Tiles of cooperative matrices of 16 by 16: f16 times f16, accumulated in f32. Subgroups have 32 threads.
//
// Both tiles are stored row by row with their columns side by side, as loaded; a gap after each row puts rows into
// different memory banks and aligns them to 16 bytes, as loads of cooperative matrices require. A is the tokens' tile,
// B the weights' tile (by columns: a row of weights is a column of B), and C has a row per token.

const THREADS: u32 = 256u;
const SUBGROUPS: u32 = 8u;
const ROWS: u32 = 128u;
const DEPTH: u32 = 32u;
//# when tiles
/// A subgroup has 32 rows by 64 tokens.
const TOKENS: u32 = 128u;
/// Vectors of four that a thread loads of a token, and threads that load a token.
const QUADS: u32 = 4u;
const SHARE: u32 = 2u;
//# when small_tiles
/// A subgroup has 16 rows by all 32 tokens.
const TOKENS: u32 = 32u;
/// Vectors of four that a thread loads of a token, and threads that load a token.
const QUADS: u32 = 1u;
const SHARE: u32 = 8u;
//# end
/// Threads that load a row of weights.
const GRANULES: u32 = DEPTH / GRANULE;
/// Vectors between two rows of a tile.
const STRIDE: u32 = 10u;

alias Tokens16 = coop_mat16x16<f16, A>;
alias Weights16 = coop_mat16x16<f16, B>;
alias Sums16 = coop_mat16x16<f32, C>;

/// [TOKENS, STRIDE].
var<workgroup> token_tile: array<vec4<f16>, TOKENS * STRIDE>;
/// [ROWS, STRIDE].
var<workgroup> weight_tile: array<vec4<f16>, ROWS * STRIDE>;
/// [SUBGROUPS, 16 tokens, 16 rows]: results on their way to the threads.
var<workgroup> results: array<vec4<f32>, SUBGROUPS * 64u>;
var<workgroup> tokens_of_tile: u32;

/// Stores what a thread has loaded into the tiles.
fn place_tiles(incoming: Incoming, cols: u32, base: u32, thread: u32) {
    let values = weights_of(incoming, cols, base, thread);
    let at = thread / GRANULES * STRIDE + thread % GRANULES * 4u;
    weight_tile[at] = vec4<f16>(values[0]);
    weight_tile[at + 1u] = vec4<f16>(values[1]);
    weight_tile[at + 2u] = vec4<f16>(values[2]);
    weight_tile[at + 3u] = vec4<f16>(values[3]);
    let token = thread / SHARE * STRIDE + thread % SHARE * QUADS;
    token_tile[token] = incoming.token[0];
    if QUADS > 1u {
        token_tile[token + 1u] = incoming.token[1];
        token_tile[token + 2u] = incoming.token[2];
        token_tile[token + 3u] = incoming.token[3];
    }
}

/// Finishes 16 tokens by 16 rows, from `token` and `row` of the tile on, that the subgroup has stored in `results`.
fn finish_results(tile: Tile, token: u32, row: u32, subgroup: u32, lane: u32) {
    workgroupBarrier();
    // Neighbouring threads write neighbouring elements.
    for (var i = lane; i < 128u; i += 32u) {
        let place = token + i / 8u;
        if place < tile.tokens {
            let products = results[subgroup * 64u + i / 2u];
            finish_tile(tile, place, row / 2u + i % 8u, select(products.xy, products.zw, i % 2u == 1u));
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = tile_of(group);
    // It must be evident that all threads agree where cooperative matrices are used.
    if thread == 0u {
        tokens_of_tile = tile.tokens;
    }
    workgroupBarrier();
    if tokens_of_tile == 0u {
        return;
    }
    let row = weight_row(tile, thread / GRANULES);
    // Places after the last token hold that token; their results are dropped.
    let input = input_row(tile, min(thread / SHARE, tile.tokens - 1u));
    results[thread] = vec4(0.0);
    results[thread + THREADS] = vec4(0.0);
    workgroupBarrier();
    let zero = coopLoadT<Sums16>(&results[subgroup * 64u], 4u);
    workgroupBarrier();
//# when tiles
    let own_row = subgroup % 4u * 32u;
    let own_token = subgroup / 4u * 64u;
    var c00 = zero;
    var c01 = zero;
    var c10 = zero;
    var c11 = zero;
    var c20 = zero;
    var c21 = zero;
    var c30 = zero;
    var c31 = zero;
//# when small_tiles
    let own_row = subgroup * 16u;
    var c0 = zero;
    var c1 = zero;
//# end
    var incoming = load(tile.matrix, row, input, tile.cols, 0u, thread);
    for (var base = 0u; base < tile.cols; base += DEPTH) {
        place_tiles(incoming, tile.cols, base, thread);
        workgroupBarrier();
        if base + DEPTH < tile.cols {
            incoming = load(tile.matrix, row, input, tile.cols, base + DEPTH, thread);
        }
        for (var k = 0u; k < DEPTH / 4u; k += 4u) {
//# when tiles
            let b0 = coopLoad<Weights16>(&weight_tile[own_row * STRIDE + k], STRIDE);
            let b1 = coopLoad<Weights16>(&weight_tile[(own_row + 16u) * STRIDE + k], STRIDE);
            let a0 = coopLoadT<Tokens16>(&token_tile[own_token * STRIDE + k], STRIDE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            let a1 = coopLoadT<Tokens16>(&token_tile[(own_token + 16u) * STRIDE + k], STRIDE);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
            let a2 = coopLoadT<Tokens16>(&token_tile[(own_token + 32u) * STRIDE + k], STRIDE);
            c20 = coopMultiplyAdd(a2, b0, c20);
            c21 = coopMultiplyAdd(a2, b1, c21);
            let a3 = coopLoadT<Tokens16>(&token_tile[(own_token + 48u) * STRIDE + k], STRIDE);
            c30 = coopMultiplyAdd(a3, b0, c30);
            c31 = coopMultiplyAdd(a3, b1, c31);
//# when small_tiles
            let b = coopLoad<Weights16>(&weight_tile[own_row * STRIDE + k], STRIDE);
            let a0 = coopLoadT<Tokens16>(&token_tile[k], STRIDE);
            c0 = coopMultiplyAdd(a0, b, c0);
            let a1 = coopLoadT<Tokens16>(&token_tile[16u * STRIDE + k], STRIDE);
            c1 = coopMultiplyAdd(a1, b, c1);
//# end
        }
        workgroupBarrier();
    }
//# when tiles
    coopStoreT(c00, &results[subgroup * 64u], 4u);
    finish_results(tile, own_token, own_row, subgroup, lane);
    coopStoreT(c01, &results[subgroup * 64u], 4u);
    finish_results(tile, own_token, own_row + 16u, subgroup, lane);
    coopStoreT(c10, &results[subgroup * 64u], 4u);
    finish_results(tile, own_token + 16u, own_row, subgroup, lane);
    coopStoreT(c11, &results[subgroup * 64u], 4u);
    finish_results(tile, own_token + 16u, own_row + 16u, subgroup, lane);
    coopStoreT(c20, &results[subgroup * 64u], 4u);
    finish_results(tile, own_token + 32u, own_row, subgroup, lane);
    coopStoreT(c21, &results[subgroup * 64u], 4u);
    finish_results(tile, own_token + 32u, own_row + 16u, subgroup, lane);
    coopStoreT(c30, &results[subgroup * 64u], 4u);
    finish_results(tile, own_token + 48u, own_row, subgroup, lane);
    coopStoreT(c31, &results[subgroup * 64u], 4u);
    finish_results(tile, own_token + 48u, own_row + 16u, subgroup, lane);
//# when small_tiles
    coopStoreT(c0, &results[subgroup * 64u], 4u);
    finish_results(tile, 0u, own_row, subgroup, lane);
    coopStoreT(c1, &results[subgroup * 64u], 4u);
    finish_results(tile, 16u, own_row, subgroup, lane);
//# end
}
