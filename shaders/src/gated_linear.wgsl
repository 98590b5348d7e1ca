// `gated_linear`: h = act(s_g (G n(x) + b_g) + d_g) * (s_u (U n(x) + b_u) + d_u). In `weights`, the rows of G stand before those of U.
//# kernel GatedLinearRows rows weights int8 reduce: few tokens
//# kernel GatedLinearTiles tiles weights tiled: many tokens
//# kernel GatedLinearSmallTiles small_tiles weights tiled: up to 32 tokens

struct Params {
    /// First output whose rows are in `weights`, and the number of rows of G and of U each.
    first_row: u32,
    rows: u32,
    output_stride: u32,
    /// Elements between two tokens of d; 0 if it is 0 everywhere.
    added_stride: u32,
    /// Outputs per token: d_u is that far after d_g.
    inner: u32,
    /// Offset of the biases of these rows in `vectors`.
    gate_bias: u32,
    up_bias: u32,
    activation: u32,
    /// Factors on both projections.
    gate_scale: f32,
    up_scale: f32,
    @align(16) matrix: Matrix,
    //# when rows
    /// Threads that share rows; a power of two.
    @align(16) lanes: u32,
    @align(16) prologue: Prologue,
    //# when tiles small_tiles
    @align(16) tiles: Tiles,
    //# end
}

@group(0) @binding(_) var<uniform> params: Params;
/// h, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;
/// d_g and d_u side by side, [T, added_stride]; the input again if there is nothing to add.
@group(0) @binding(_) var<storage, read> added: array<f32>;

fn finish(token: u32, row: u32, gate_product: f32, up_product: f32) {
    var g = gate_product;
    var u = up_product;
    if params.gate_bias != ABSENT {
        g += small(params.gate_bias + row);
    }
    if params.up_bias != ABSENT {
        u += small(params.up_bias + row);
    }
    g *= params.gate_scale;
    u *= params.up_scale;
    let column = params.first_row + row;
    if params.added_stride != 0u {
        g += added[token * params.added_stride + column];
        u += added[token * params.added_stride + params.inner + column];
    }
    output[token * params.output_stride + column] = activation(params.activation, g) * u;
}

//# when rows
//# use rows
/// Each `lanes` threads compute two rows of G and the same rows of U; y counts tokens.
const THREADS: u32 = 256u;

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let token = step.start + group.y;
    let first = (group.x * (THREADS / params.lanes) + thread / params.lanes) * 2u;
    let gates = min(vec2(first, first + 1u), vec2(params.rows - 1u));
    let rows = vec4(gates, gates + params.rows);
    let sum = multiply_rows(params.matrix, rows, params.prologue, token, params.lanes, ids);
    let lane = thread % params.lanes;
    if lane < 2u && first + lane < params.rows {
        finish(token, first + lane, sum[lane], sum[lane + 2u]);
    }
}

//# when tiles small_tiles
//# use tiles
//# use math
/// The op's small tensors, concatenated.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;

fn small(i: u32) -> f32 {
    return vectors[i];
}

struct Tile {
    matrix: Matrix,
    cols: u32,
    tokens: u32,
    /// Its first token and output.
    token: u32,
    row: u32,
}

fn tile_of(group: vec3<u32>) -> Tile {
    let token = group.y * TOKENS;
    return Tile(params.matrix, params.tiles.cols, min(TOKENS, step.tokens - token), token, group.x * (ROWS / 2u));
}

/// Rows of the tile alternate: a row of G, the same row of U, the next row of G, ...
fn weight_row(tile: Tile, place: u32) -> u32 {
    return min(tile.row + place / 2u, params.rows - 1u) + place % 2u * params.rows;
}

fn input_row(tile: Tile, place: u32) -> u32 {
    return (tile.token + place) * (params.tiles.stride / 4u);
}

fn finish_tile(tile: Tile, place: u32, pair: u32, products: vec2<f32>) {
    let token = tile.token + place;
    let values = factor_of(token) * products;
    if tile.row + pair < params.rows {
        finish(step.start + token, tile.row + pair, values.x, values.y);
    }
}
