// Tiles whose tokens belong to one expert, in the order of `moe_group`.
//# use tiles

/// Output of `moe_group`.
@group(0) @binding(_) var<storage, read> lists: array<u32>;

struct Tile {
    matrix: Matrix,
    cols: u32,
    tokens: u32,
    /// Index of the first of its items in `lists`.
    item: u32,
    /// First output of the tile, and number of outputs of its expert.
    row: u32,
    rows: u32,
    /// First rows of the expert in `matrix`.
    first: u32,
    second: u32,
}

/// An item: a token and the place of its expert.
fn item_of(tile: Tile, place: u32) -> vec2<u32> {
    let item = lists[tile.item + place];
    let places = params.top_k + 1u;
    return vec2(item / places, item % places);
}

/// No tile.
fn nothing() -> Tile {
    return Tile();
}
