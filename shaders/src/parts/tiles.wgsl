// Products of rows of weights with many tokens, in tiles of `TOKENS` tokens and `ROWS` rows per workgroup. `prepare`
// has prepared the tokens. Tiles of `DEPTH` columns pass through workgroup memory with decoded weights; while a tile is
// multiplied, the next is loaded into registers.
//
// The op defines a workgroup's tile:
//
//   struct Tile                                    has `matrix`, `cols` (columns) and `tokens`, which is 0 where nothing is to be done
//   fn tile_of(group) -> Tile
//   fn weight_row(tile, place) -> u32              the row of weights in a place of the tile; any row after the last
//   fn input_row(tile, place) -> u32               where in `prepared` the token in a place of the tile begins, in fours of elements
//   fn finish_tile(tile, place, pair, products)    takes two neighbouring rows' products with the token in a place
//# use weights
//# use step

struct Tiles {
    /// Columns of the weights.
    cols: u32,
    /// Elements per row of `prepared`, a multiple of 64.
    stride: u32,
}

/// Weights that a thread loads at once.
const GRANULE: u32 = 16u;

//# when f32
alias Real = f32;

/// [T, stride / 4]: prepared tokens, zeros after the last column.
@group(0) @binding(_) var<storage, read> prepared: array<vec4<Real>>;

/// Factor for products with row `row` of `prepared`.
fn factor_of(row: u32) -> f32 {
    return 1.0;
}
//# when f16 cooperative
alias Real = f16;

/// [T, stride / 4]: prepared tokens, zeros after the last column, each divided by its factor.
@group(0) @binding(_) var<storage, read> prepared: array<vec4<Real>>;
/// [T]: powers of two.
@group(0) @binding(_) var<storage, read> factors: array<f32>;

/// Factor for products with row `row` of `prepared`.
fn factor_of(row: u32) -> f32 {
    return factors[row];
}
//# when f32 f16
//# use tiles_plain
//# when cooperative
//# use tiles_cooperative
//# end

/// What a thread loads for a tile: sixteen weights of a row, and `QUADS` vectors of a token. Loops over registers are
/// unrolled by hand: not every driver does it.
struct Incoming {
    weights: Raw,
    token: array<vec4<Real>, 4>,
}

/// Starts loading the tile of columns at `base`. `row` is the thread's row of weights, `input` the start of its token.
fn load(m: Matrix, row: u32, input: u32, cols: u32, base: u32, thread: u32) -> Incoming {
    var incoming: Incoming;
    let first = base + thread % GRANULES * GRANULE;
    if first < cols {
        incoming.weights = fetch(m, row, first / GRANULE);
    }
    let quad = input + base / 4u + thread % SHARE * QUADS;
    incoming.token[0] = prepared[quad];
    if QUADS > 1u {
        incoming.token[1] = prepared[quad + 1u];
    }
    if QUADS > 2u {
        incoming.token[2] = prepared[quad + 2u];
        incoming.token[3] = prepared[quad + 3u];
    }
    return incoming;
}

/// The sixteen weights of `incoming`; zeros after the last column.
fn weights_of(incoming: Incoming, cols: u32, base: u32, thread: u32) -> array<vec4<f32>, 4> {
    if base + thread % GRANULES * GRANULE < cols {
        return decode(incoming.weights);
    }
    return array<vec4<f32>, 4>();
}
