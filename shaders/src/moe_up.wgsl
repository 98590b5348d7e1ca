// `moe_up`: h_e = act(G_e n(x)) * (U_e n(x)) for each chosen expert of a token, and for the shared expert.
//
// In `weights`, the rows of all gates G_e follow one another, then those of all U_e; then, if the shared expert is
// stored in the same format, its G and U.
//# kernel MoeUpRows rows weights int8 reduce: few tokens
//# kernel MoeUpTiles tiles weights tiled: many tokens
//# kernel MoeUpSmallTiles small_tiles weights tiled: up to 32 tokens
//# when rows
//# use rows

/// Each `lanes` threads compute two rows of G and the same rows of U; y counts the experts of all tokens.
const THREADS: u32 = 256u;

//# when tiles small_tiles
//# use grouped
//# use math
//# end
struct Params {
    /// First expert whose rows are in `weights`, and the number of experts.
    first_expert: u32,
    experts: u32,
    /// Rows of an expert's G.
    inner: u32,
    /// Rows of the shared expert's G; 0 if this dispatch doesn't compute it.
    shared_inner: u32,
    top_k: u32,
    output_stride: u32,
    activation: u32,
    //# when rows
    /// Experts of a token in this dispatch: `top_k`, or 0 if it computes only the shared expert.
    places: u32,
    routes_stride: u32,
    /// Threads that share rows; a power of two.
    lanes: u32,
    @align(16) matrix: Matrix,
    @align(16) shared_matrix: Matrix,
    @align(16) prologue: Prologue,
    //# when tiles small_tiles
    /// Total number of experts.
    all_experts: u32,
    /// Index of the first item in `lists`.
    items: u32,
    @align(16) matrix: Matrix,
    @align(16) shared_matrix: Matrix,
    @align(16) tiles: Tiles,
    //# end
}

@group(0) @binding(_) var<uniform> params: Params;
/// [T, output_stride]: `inner` elements for each place, then those of the shared expert.
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

//# when rows
/// Output of `moe_route`, [T, routes_stride].
@group(0) @binding(_) var<storage, read> routes: array<f32>;

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let lane = thread % params.lanes;
    let places = params.places + u32(params.shared_inner > 0u);
    let token = step.start + group.y / places;
    let place = group.y % places;
    let first = (group.x * (THREADS / params.lanes) + thread / params.lanes) * 2u;

    var matrix = params.shared_matrix;
    var inner = params.shared_inner;
    var gate_row = 0u;
    var up_row = inner;
    var column = params.top_k * params.inner;
    if place < params.places {
        let expert = u32(routes[token * params.routes_stride + place]) - params.first_expert;
        // Its rows are in another piece of the weights.
        if expert >= params.experts {
            return;
        }
        matrix = params.matrix;
        inner = params.inner;
        gate_row = expert * inner;
        up_row = (params.experts + expert) * inner;
        column = place * inner;
    }
    // Every expert gets as many workgroups as the one with the most rows.
    if group.x * (THREADS / params.lanes) * 2u >= inner {
        return;
    }
    let within = min(vec2(first, first + 1u), vec2(inner - 1u));
    let rows = vec4(within + gate_row, within + up_row);
    let sum = multiply_rows(matrix, rows, params.prologue, token, params.lanes, ids);
    if lane < 2u && first + lane < inner {
        let value = activation(params.activation, sum[lane]) * sum[lane + 2u];
        output[token * params.output_stride + column + first + lane] = value;
    }
}

//# when tiles small_tiles
fn tile_of(group: vec3<u32>) -> Tile {
    if group.y >= lists[0] {
        return nothing();
    }
    let at = 4u + 4u * group.y;
    let row = group.x * (ROWS / 2u);
    let item = params.items + lists[at + 1u];
    let count = lists[at + 2u];
    if lists[at] == params.all_experts {
        let tokens = select(0u, count, row < params.shared_inner);
        return Tile(params.shared_matrix, params.tiles.cols, tokens, item, row, params.shared_inner, 0u, params.shared_inner);
    }
    let expert = lists[at] - params.first_expert;
    let tokens = select(0u, count, row < params.inner && expert < params.experts);
    let second = (params.experts + expert) * params.inner;
    return Tile(params.matrix, params.tiles.cols, tokens, item, row, params.inner, expert * params.inner, second);
}

/// Rows of the tile alternate: a row of G, the same row of U, the next row of G, ...
fn weight_row(tile: Tile, place: u32) -> u32 {
    return min(tile.row + place / 2u, tile.rows - 1u) + select(tile.first, tile.second, place % 2u == 1u);
}

fn input_row(tile: Tile, place: u32) -> u32 {
    return item_of(tile, place).x * (params.tiles.stride / 4u);
}

fn finish_tile(tile: Tile, place: u32, pair: u32, products: vec2<f32>) {
    let item = item_of(tile, place);
    let values = factor_of(item.x) * products;
    let row = tile.row + pair;
    if row < tile.rows {
        let at = (step.start + item.x) * params.output_stride + item.y * params.inner + row;
        output[at] = activation(params.activation, values.x) * values.y;
    }
}
