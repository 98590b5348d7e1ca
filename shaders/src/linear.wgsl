// `linear`: y = s (W f(x) + b), stored, stored after an activation, or added to y.
//# kernel LinearRows rows weights int8 reduce: few tokens
//# kernel LinearHeadRows head_rows weights int8 reduce: few tokens, after a layer norm of each head and a gate
//# kernel LinearTiles tiles weights tiled: many tokens
//# kernel LinearSmallTiles small_tiles weights tiled: up to 32 tokens

struct Params {
    /// First output whose row is in `weights`, and the number of rows.
    first_row: u32,
    rows: u32,
    output_stride: u32,
    /// Offset of the biases of these rows in `vectors`.
    bias: u32,
    /// Factors on them in `vectors`.
    factors: u32,
    /// What happens to the result: 0 it is stored, 1 it is added to the output, times `scale`, 2 it is stored after `activation`.
    mode: u32,
    activation: u32,
    scale: f32,
    @align(16) matrix: Matrix,
    //# when rows head_rows
    /// Threads that share rows; a power of two.
    @align(16) lanes: u32,
    @align(16) prologue: Prologue,
    //# when tiles small_tiles
    @align(16) tiles: Tiles,
    //# end
}

@group(0) @binding(_) var<uniform> params: Params;
/// y, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

fn finish(token: u32, row: u32, product: f32) {
    var value = product;
    if params.bias != ABSENT {
        value += small(params.bias + row);
    }
    if params.factors != ABSENT {
        value *= small(params.factors + row);
    }
    let at = token * params.output_stride + params.first_row + row;
    if params.mode == 1u {
        value = output[at] + params.scale * value;
    } else if params.mode == 2u {
        value = activation(params.activation, value);
    }
    output[at] = value;
}

//# when rows head_rows
//# use rows
/// Each `lanes` threads compute four rows; y counts tokens.
const THREADS: u32 = 256u;

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let token = step.start + group.y;
    let first = (group.x * (THREADS / params.lanes) + thread / params.lanes) * 4u;
    let rows = min(vec4(first) + vec4(0u, 1u, 2u, 3u), vec4(params.rows - 1u));
    let sum = multiply_rows(params.matrix, rows, params.prologue, token, params.lanes, ids);
    let lane = thread % params.lanes;
    if lane < 4u && first + lane < params.rows {
        finish(token, first + lane, sum[lane]);
    }
}

//# when tiles small_tiles
//# use tiles
//# use math
/// The op's small tensors, one after the other.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;

fn small(i: u32) -> f32 {
    return vectors[i];
}

struct Tile {
    matrix: Matrix,
    cols: u32,
    tokens: u32,
    /// Its first token and row.
    token: u32,
    row: u32,
}

fn tile_of(group: vec3<u32>) -> Tile {
    let token = group.y * TOKENS;
    return Tile(params.matrix, params.tiles.cols, min(TOKENS, step.tokens - token), token, group.x * ROWS);
}

fn weight_row(tile: Tile, place: u32) -> u32 {
    return min(tile.row + place, params.rows - 1u);
}

fn input_row(tile: Tile, place: u32) -> u32 {
    return (tile.token + place) * (params.tiles.stride / 4u);
}

fn finish_tile(tile: Tile, place: u32, pair: u32, products: vec2<f32>) {
    let token = tile.token + place;
    let values = factor_of(token) * products;
    let row = tile.row + 2u * pair;
    if row < params.rows {
        finish(step.start + token, row, values.x);
    }
    if row + 1u < params.rows {
        finish(step.start + token, row + 1u, values.y);
    }
}
