// `moe_down`: x += scale * (sum over chosen experts of weight_e * D_e h_e + weight_shared * D h_shared), or x = it.
//
// In `weights`, the rows of all D_e follow one another; then, if it is stored in the same format, the shared expert's
// D.
//# kernel MoeDownRows rows weights int8 reduce: few tokens
//# kernel MoeDownTiles tiles weights tiled: many tokens: each expert's contribution
//# kernel MoeDownSmallTiles small_tiles weights tiled: up to 32 tokens: each expert's contribution
//# kernel MoeDownSum sum: many tokens: the sum of the contributions
//# when rows
//# use rows

/// Each `lanes` threads compute four rows of x; y counts tokens.
const THREADS: u32 = 256u;

//# when tiles small_tiles
//# use grouped
//# when sum
//# use step
/// x counts elements of x, y tokens.
const THREADS: u32 = 256u;

//# end
struct Params {
    /// Rows of D.
    rows: u32,
    top_k: u32,
    //# when rows tiles small_tiles
    /// First expert whose rows are in `weights`, and the number of experts.
    first_expert: u32,
    experts: u32,
    /// Columns of D; 0 if this dispatch doesn't compute it.
    shared_inner: u32,
    //# when rows
    /// Columns of D_e.
    inner: u32,
    /// Experts of a token in this dispatch: `top_k`, or 0 if it computes only the shared expert.
    places: u32,
    input_stride: u32,
    /// Threads that share rows; a power of two.
    lanes: u32,
    //# when tiles small_tiles
    /// Total number of experts.
    all_experts: u32,
    /// Index of the first item in `lists`.
    items: u32,
    /// Elements of `prepared` between two places of a token.
    part_stride: u32,
    //# when sum
    /// Whether there is a shared expert.
    shared_expert: u32,
    //# when rows sum
    /// Whether `routes` has the shared expert's weight after the others.
    shared_gated: u32,
    /// Whether the result replaces x.
    store: u32,
    routes_stride: u32,
    output_stride: u32,
    scale: f32,
    //# when rows tiles small_tiles
    @align(16) matrix: Matrix,
    @align(16) shared_matrix: Matrix,
    //# when tiles small_tiles
    @align(16) tiles: Tiles,
    //# end
}

@group(0) @binding(_) var<uniform> params: Params;

//# when rows sum
/// What `moe_route` wrote, [T, routes_stride].
@group(0) @binding(_) var<storage, read> routes: array<f32>;

/// The weight of a token's shared expert.
fn shared_weight(token: u32) -> f32 {
    if params.shared_gated == 0u {
        return 1.0;
    }
    return routes[token * params.routes_stride + 2u * params.top_k];
}

//# when rows
/// x, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

//# use shares

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let lane = thread % params.lanes;
    let token = step.start + group.y;
    let first = (group.x * (THREADS / params.lanes) + thread / params.lanes) * 4u;
    let rows = min(vec4(first) + vec4(0u, 1u, 2u, 3u), vec4(params.rows - 1u));
    var sum = shares(rows, token, ids);
    sum = sum_over(sum, ids, params.lanes);
    if lane < 4u && first + lane < params.rows {
        let at = token * params.output_stride + first + lane;
        output[at] = params.scale * sum[lane] + select(output[at], 0.0, params.store != 0u);
    }
}

//# when tiles small_tiles
/// [T, top_k + 1, rows]: each expert's contribution, not yet weighted.
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

fn tile_of(group: vec3<u32>) -> Tile {
    if group.y >= lists[0] {
        return nothing();
    }
    let at = 4u + 4u * group.y;
    let row = group.x * ROWS;
    let item = params.items + lists[at + 1u];
    let count = lists[at + 2u];
    if lists[at] == params.all_experts {
        let tokens = select(0u, count, params.shared_inner > 0u);
        return Tile(params.shared_matrix, params.shared_inner, tokens, item, row, params.rows, 0u, 0u);
    }
    let expert = lists[at] - params.first_expert;
    let tokens = select(0u, count, expert < params.experts);
    return Tile(params.matrix, params.tiles.cols, tokens, item, row, params.rows, expert * params.rows, 0u);
}

fn weight_row(tile: Tile, place: u32) -> u32 {
    return tile.first + min(tile.row + place, tile.rows - 1u);
}

fn input_row(tile: Tile, place: u32) -> u32 {
    let item = item_of(tile, place);
    return (item.x * params.tiles.stride + item.y * params.part_stride) / 4u;
}

fn finish_tile(tile: Tile, place: u32, pair: u32, products: vec2<f32>) {
    let item = item_of(tile, place);
    let values = factor_of(item.x) * products;
    let row = tile.row + 2u * pair;
    let at = (item.x * (params.top_k + 1u) + item.y) * params.rows + row;
    if row < params.rows {
        output[at] = values.x;
    }
    if row + 1u < params.rows {
        output[at + 1u] = values.y;
    }
}
//# when sum
/// [T, top_k + 1, rows].
@group(0) @binding(_) var<storage, read> shares: array<f32>;
/// x, [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = group.x * THREADS + thread;
    let token = step.start + group.y;
    if row >= params.rows {
        return;
    }
    let first = group.y * (params.top_k + 1u) * params.rows + row;
    var sum = 0.0;
    for (var place = 0u; place < params.top_k; place += 1u) {
        let weight = routes[token * params.routes_stride + params.top_k + place];
        sum += weight * shares[first + place * params.rows];
    }
    if params.shared_expert != 0u {
        sum += shared_weight(token) * shares[first + params.top_k * params.rows];
    }
    let at = token * params.output_stride + row;
    output[at] = params.scale * sum + select(output[at], 0.0, params.store != 0u);
}
