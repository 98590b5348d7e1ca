// Prepares the experts' products of many tokens: sorts the places of all tokens by expert, and cuts each expert's list
// into tiles. A single workgroup.
//# kernel MoeGroup -: groups tokens by expert before the products of many tokens
//# use step

const THREADS: u32 = 256u;
const MAX_EXPERTS: u32 = 512u;

struct Params {
    experts: u32,
    top_k: u32,
    routes_stride: u32,
    /// Maximum number of tokens in a tile.
    side: u32,
    /// Whether every token also goes to a shared expert, which is numbered after the others.
    shared_expert: u32,
    /// Index of the first sorted place in `lists`.
    items: u32,
}

@group(0) @binding(_) var<uniform> params: Params;
/// Output of `moe_route`, [T, routes_stride].
@group(0) @binding(_) var<storage, read> routes: array<f32>;
/// The number of tiles; from element 4 on, for each tile, its expert, first item, number of items, and an unused
/// element; from `items` on the items: token * (top_k + 1) + place.
@group(0) @binding(_) var<storage, read_write> lists: array<u32>;

/// [experts]: number of tokens.
var<workgroup> counts: array<atomic<u32>, MAX_EXPERTS>;
/// [experts]: index of the next item.
var<workgroup> places: array<atomic<u32>, MAX_EXPERTS>;

/// The expert of a place, counted over all tokens; none after the last.
fn expert_of(i: u32, all: u32) -> u32 {
    let place = min(i, all - 1u);
    let token = step.start + place / params.top_k;
    let expert = u32(routes[token * params.routes_stride + place % params.top_k]);
    return select(ABSENT, min(expert, params.experts - 1u), i < all);
}

/// The experts of four places, loaded together.
fn experts_of(i: u32, all: u32) -> vec4<u32> {
    return vec4(
        expert_of(i, all),
        expert_of(i + THREADS, all),
        expert_of(i + 2u * THREADS, all),
        expert_of(i + 3u * THREADS, all),
    );
}

fn count(expert: u32) {
    if expert != ABSENT {
        atomicAdd(&counts[expert], 1u);
    }
}

/// Adds a place to its expert's list.
fn put(expert: u32, i: u32) {
    if expert != ABSENT {
        let item = atomicAdd(&places[expert], 1u);
        lists[params.items + item] = i / params.top_k * (params.top_k + 1u) + i % params.top_k;
    }
}

/// Writes the tiles of an expert whose list starts at `first`.
fn write_tiles(tile: u32, expert: u32, first: u32, tokens: u32) {
    var at = 4u + 4u * tile;
    for (var done = 0u; done < tokens; done += params.side) {
        lists[at] = expert;
        lists[at + 1u] = first + done;
        lists[at + 2u] = min(tokens - done, params.side);
        at += 4u;
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    let all = step.tokens * params.top_k;
    for (var expert = thread; expert < params.experts; expert += THREADS) {
        atomicStore(&counts[expert], 0u);
    }
    workgroupBarrier();
    for (var i = thread; i < all; i += 4u * THREADS) {
        let experts = experts_of(i, all);
        count(experts.x);
        count(experts.y);
        count(experts.z);
        count(experts.w);
    }
    workgroupBarrier();
    // One more than there are experts: its tiles start where the others end.
    for (var expert = thread; expert <= params.experts; expert += THREADS) {
        var first = 0u;
        var tile = 0u;
        for (var other = 0u; other < expert; other += 1u) {
            let tokens = atomicLoad(&counts[other]);
            first += tokens;
            tile += (tokens + params.side - 1u) / params.side;
        }
        if expert < params.experts {
            atomicStore(&places[expert], first);
            write_tiles(tile, expert, first, atomicLoad(&counts[expert]));
        } else {
            let tokens = step.tokens * params.shared_expert;
            write_tiles(tile, expert, first, tokens);
            lists[0] = tile + (tokens + params.side - 1u) / params.side;
        }
    }
    workgroupBarrier();
    for (var i = thread; i < all; i += 4u * THREADS) {
        let experts = experts_of(i, all);
        put(experts.x, i);
        put(experts.y, i + THREADS);
        put(experts.z, i + 2u * THREADS);
        put(experts.w, i + 3u * THREADS);
    }
    if params.shared_expert != 0u {
        for (var token = thread; token < step.tokens; token += THREADS) {
            lists[params.items + all + token] = token * (params.top_k + 1u) + params.top_k;
        }
    }
}
