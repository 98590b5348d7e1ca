// `moe_up`: h_e = act(G_e n(x)) * (U_e n(x)), or h_e = act(U_e n(x)), for each chosen expert of a token, and for the shared expert;
// or of inputs x_e that each place has by itself.
//
// In `weights`, the rows of all gates G_e come one after the other, then those of all U_e; then, where the shared expert
// is stored alike, its G and U. Without gates there are no rows of G.
//# kernel MoeUpRows rows weights int8 reduce: few tokens
//# kernel MoeUpTiles tiles weights tiled: many tokens
//# kernel MoeUpSmallTiles small_tiles weights tiled: up to 32 tokens
//# when rows
//# use rows

/// Each `lanes` threads have two rows of G and the same of U, or four rows of U; y counts the experts of all tokens.
const THREADS: u32 = 256u;

//# when tiles small_tiles
//# use grouped
//# use math
//# end
struct Params {
    /// First expert whose rows are in `weights`, and the number of experts.
    first_expert: u32,
    experts: u32,
    /// Rows of an expert's U.
    inner: u32,
    /// Rows of the shared expert's U; 0 where this dispatch doesn't compute it.
    shared_inner: u32,
    top_k: u32,
    output_stride: u32,
    activation: u32,
    /// Whether there are gates.
    gated: u32,
    //# when rows
    /// Experts of a token in this dispatch: `top_k`, or 0 if it computes only the shared expert.
    places: u32,
    routes_stride: u32,
    /// Threads that share rows; a power of two.
    lanes: u32,
    /// Elements of the input between two places; 0 if they have the same.
    part: u32,
    @align(16) matrix: Matrix,
    @align(16) shared_matrix: Matrix,
    @align(16) prologue: Prologue,
    //# when tiles small_tiles
    /// Total number of experts.
    all_experts: u32,
    /// Index of the first item in `lists`.
    items: u32,
    /// Elements of `prepared` between two places of a token; 0 if they have the same.
    part_stride: u32,
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
    let gated = params.gated != 0u;
    // Outputs of `lanes` threads.
    let share = select(4u, 2u, gated);
    let first = (group.x * (THREADS / params.lanes) + thread / params.lanes) * share;

    var matrix = params.shared_matrix;
    var inner = params.shared_inner;
    var gate_row = 0u;
    var up_row = select(0u, inner, gated);
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
        up_row = (expert + select(0u, params.experts, gated)) * inner;
        column = place * inner;
    }
    // There are as many workgroups for each expert as for the one with the most rows.
    if group.x * (THREADS / params.lanes) * share >= inner {
        return;
    }
    let within = min(vec4(first) + vec4(0u, 1u, 2u, 3u), vec4(inner - 1u));
    let rows = select(within + up_row, vec4(within.xy + gate_row, within.xy + up_row), gated);
    var p = params.prologue;
    p.input_offset += place * params.part;
    let sum = multiply_rows(matrix, rows, p, token, params.lanes, ids);
    if lane < share && first + lane < inner {
        let value = activation(params.activation, sum[lane]) * select(1.0, sum[(lane + 2u) % 4u], gated);
        output[token * params.output_stride + column + first + lane] = value;
    }
}

//# when tiles small_tiles
fn tile_of(group: vec3<u32>) -> Tile {
    if group.y >= lists[0] {
        return nothing();
    }
    let at = 4u + 4u * group.y;
    let gated = params.gated != 0u;
    let row = group.x * select(ROWS, ROWS / 2u, gated);
    let item = params.items + lists[at + 1u];
    let count = lists[at + 2u];
    if lists[at] == params.all_experts {
        let tokens = select(0u, count, row < params.shared_inner);
        return Tile(params.shared_matrix, params.tiles.cols, tokens, item, row, params.shared_inner, 0u, select(0u, params.shared_inner, gated));
    }
    let expert = lists[at] - params.first_expert;
    let tokens = select(0u, count, row < params.inner && expert < params.experts);
    let second = (expert + select(0u, params.experts, gated)) * params.inner;
    return Tile(params.matrix, params.tiles.cols, tokens, item, row, params.inner, expert * params.inner, second);
}

/// Rows of the tile are a row of G, the same of U, the next of G, ...; or rows of U.
fn weight_row(tile: Tile, place: u32) -> u32 {
    if params.gated == 0u {
        return min(tile.row + place, tile.rows - 1u) + tile.second;
    }
    return min(tile.row + place / 2u, tile.rows - 1u) + select(tile.first, tile.second, place % 2u == 1u);
}

fn input_row(tile: Tile, place: u32) -> u32 {
    let item = item_of(tile, place);
    return (item.x * params.tiles.stride + item.y * params.part_stride) / 4u;
}

fn finish_tile(tile: Tile, place: u32, pair: u32, products: vec2<f32>) {
    let item = item_of(tile, place);
    let values = factor_of(item.x) * products;
    let start = (step.start + item.x) * params.output_stride + item.y * params.inner;
    if params.gated == 0u {
        let row = tile.row + 2u * pair;
        if row < tile.rows {
            output[start + row] = activation(params.activation, values.x);
        }
        if row + 1u < tile.rows {
            output[start + row + 1u] = activation(params.activation, values.y);
        }
        return;
    }
    let row = tile.row + pair;
    if row < tile.rows {
        output[start + row] = activation(params.activation, values.x) * values.y;
    }
}
