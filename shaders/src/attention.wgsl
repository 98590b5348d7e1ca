// `attention`: norms, clips and rotates queries and keys, and appends keys and values to the cache (of a latent, keys alone); then
// each query attends to the cache up to its own position with an online softmax (Milakov and Gimelshein, 2018).
//
// Few tokens: `pieces`, in which a workgroup takes a piece of the cache for all queries of a key/value head (Dao et
// al., "Flash-Decoding", 2023), and `merge`, which combines the pieces. Many tokens: `prepare`, then `attend` in tiles
// of 64 queries and keys.
//# kernel AttentionPrepare prepare reduce: many tokens: prepares queries, keys and values
//# kernel AttentionAttend attend reduce: many tokens: tiles of queries over the cache
//# kernel AttentionPieces pieces reduce: few tokens: queries over pieces of the cache
//# kernel AttentionPiecesAny pieces_any reduce: few tokens, for heads whose width is not a multiple of 4
//# kernel AttentionPreparePacked prepare_packed cache reduce: AttentionPrepare with quantized keys and values
//# kernel AttentionAttendPacked attend_packed cache reduce: AttentionAttend with quantized keys and values
//# kernel AttentionPiecesPacked pieces_packed cache reduce: AttentionPieces with quantized keys and values
//# kernel AttentionMerge merge: few tokens: merges the results of the pieces
//# use step

struct Params {
    heads: u32,
    kv_heads: u32,
    /// Width of queries and keys, and of values.
    head_dim: u32,
    value_dim: u32,
    /// Whether values are the first elements of keys, and not stored.
    latent: u32,
    /// The first queries in a row of `query_input`; the first keys and values in one of `input`.
    query_stride: u32,
    query_start: u32,
    input_stride: u32,
    key_start: u32,
    value_start: u32,
    output_stride: u32,
    /// Offset of the norms' weights in `vectors`.
    q_norm: u32,
    k_norm: u32,
    /// The number of first elements of a head that are normed together; 0 where all heads are.
    normed: u32,
    /// Pairs that are rotated, the first of their elements, and whether neighbours are a pair, or else elements `i` and `i + pairs`.
    pairs: u32,
    rope_start: u32,
    interleaved: u32,
    q_eps: f32,
    k_eps: f32,
    /// 0 for none.
    clip: f32,
    /// Number of positions that a query sees; `ABSENT` for all.
    window: u32,
    /// Number of first positions that a query sees regardless of the window.
    sinks: u32,
    scale: f32,
    /// Maximum number of pieces of the cache, and of queries that a piece takes at once.
    pieces: u32,
    rows: u32,
}

@group(0) @binding(_) var<uniform> params: Params;

/// No score yet: finite, so that differences stay defined.
const LOWEST: f32 = -1e30;

/// The oldest position that the query at `position` sees.
fn oldest_seen(position: u32) -> u32 {
    return select(0u, position - params.window + 1u, position >= params.window);
}

/// Index of a position in a cache with room for `capacity` positions: sinks stay, and the others form a ring after
/// them.
fn place_of(position: u32, capacity: u32) -> u32 {
    if position < params.sinks {
        return position;
    }
    return params.sinks + (position - params.sinks) % (capacity - params.sinks);
}

/// The positions seen if the window begins at `oldest`, without those between sinks and window.
struct Sight {
    oldest: u32,
    /// Sinks before the window.
    sinks: u32,
}

fn sight_of(oldest: u32) -> Sight {
    return Sight(oldest, min(params.sinks, oldest));
}

/// The position with index `number` among those that are seen.
fn position_of(sight: Sight, number: u32) -> u32 {
    return select(sight.oldest + number - sight.sinks, number, number < sight.sinks);
}

//# when prepare prepare_packed pieces pieces_any pieces_packed
//# use reduce
/// [T, query_stride].
@group(0) @binding(_) var<storage, read> query_input: array<f32>;
/// Keys and values, [T, input_stride].
@group(0) @binding(_) var<storage, read> input: array<f32>;
/// The op's small tensors, concatenated.
@group(0) @binding(_) var<storage, read> vectors: array<f32>;
/// Cosine and sine by token, [T, pairs].
@group(0) @binding(_) var<storage, read> rotation: array<vec2<f32>>;

const QUERY: u32 = 0u;
const KEY: u32 = 1u;
const VALUE: u32 = 2u;

/// A head of a token, with what is needed to prepare it.
struct Head {
    kind: u32,
    token: u32,
    /// Index of its first element in `query_input` or `input`.
    first: u32,
    /// Offset of its norm's weights, and the norm's factor.
    norm: u32,
    factor: f32,
}

/// Element `at` of the input of a kind.
fn input_of(kind: u32, at: u32) -> f32 {
    if kind == QUERY {
        return query_input[at];
    }
    return input[at];
}

/// Computes the norm of head `head` of its kind; all threads of the workgroup take part.
fn find_head(kind: u32, head: u32, token: u32, ids: Ids) -> Head {
    var heads = params.heads;
    var part = token * params.query_stride + params.query_start;
    var norm = params.q_norm;
    var eps = params.q_eps;
    if kind != QUERY {
        heads = params.kv_heads;
        part = token * params.input_stride + params.key_start;
        norm = params.k_norm;
        eps = params.k_eps;
    }
    var dim = params.head_dim;
    if kind == VALUE {
        part = token * params.input_stride + params.value_start;
        norm = ABSENT;
        dim = params.value_dim;
    }
    let first = part + head * dim;
    var factor = 1.0;
    if norm != ABSENT {
        let own = params.normed > 0u;
        let start = select(part, first, own);
        let width = select(heads * dim, params.normed, own);
        var squares = 0.0;
        for (var i = thread_of(ids); i < width; i += THREADS) {
            let x = input_of(kind, start + i);
            squares += x * x;
        }
        factor = inverseSqrt(sum_over(vec4(squares, 0.0, 0.0, 0.0), ids, THREADS).x / f32(width) + eps);
        norm += select(head * dim, 0u, own);
    }
    return Head(kind, token, first, norm, factor);
}

/// Element `i` of a head, normed and clipped.
fn normed(head: Head, i: u32) -> f32 {
    var value = input_of(head.kind, head.first + i);
    if head.norm != ABSENT && (params.normed == 0u || i < params.normed) {
        value *= head.factor * vectors[head.norm + i];
    }
    if params.clip > 0.0 {
        value = clamp(value, -params.clip, params.clip);
    }
    return value;
}

/// Element `i` of a head, prepared.
fn ready(head: Head, i: u32) -> f32 {
    var value = normed(head, i);
    // An element before `rope_start` is after all pairs.
    let r = i - params.rope_start;
    if head.kind != VALUE && r < 2u * params.pairs {
        let neighbours = params.interleaved != 0u;
        let low = select(r < params.pairs, r % 2u == 0u, neighbours);
        let distance = select(params.pairs, 1u, neighbours);
        let other = normed(head, select(i - distance, i + distance, low));
        let pair = select(r % params.pairs, r / 2u, neighbours);
        let turn = rotation[head.token * params.pairs + pair];
        value = value * turn.x + select(other, -other, low) * turn.y;
    }
    return value;
}

//# when prepare prepare_packed
// A workgroup prepares a head of a token: first the query heads, then the key heads, then the value heads.
const THREADS: u32 = 64u;

/// [T, heads, head_dim].
@group(0) @binding(_) var<storage, read_write> queries: array<f32>;

//# when prepare
/// [capacity, kv_heads, head_dim].
@group(0) @binding(_) var<storage, read_write> keys: array<f32>;
/// [capacity, kv_heads, value_dim]; not of a latent.
@group(0) @binding(_) var<storage, read_write> values: array<f32>;

fn capacity_of_cache() -> u32 {
    return arrayLength(&keys) / (params.kv_heads * params.head_dim);
}

/// Stores key or value head `kv` at its place.
fn keep(kind: u32, head: Head, place: u32, kv: u32, ids: Ids) {
    let number = place * params.kv_heads + kv;
    if kind == KEY {
        for (var i = thread_of(ids); i < params.head_dim; i += THREADS) {
            keys[number * params.head_dim + i] = ready(head, i);
        }
    } else {
        for (var i = thread_of(ids); i < params.value_dim; i += THREADS) {
            values[number * params.value_dim + i] = ready(head, i);
        }
    }
}

//# when prepare_packed
/// [capacity, kv_heads, words of a key or a value] each; of a latent, keys alone.
@group(0) @binding(_) var<storage, read_write> keys: array<u32>;
@group(0) @binding(_) var<storage, read_write> values: array<u32>;

//# use weights

/// Stores key or value head `kv` at its place.
fn keep(kind: u32, head: Head, place: u32, kv: u32, ids: Ids) {
    if kind == KEY {
        stage(head, params.head_dim, ids);
        store_staged_key(at_of(place, kv), ids);
    } else {
        stage(head, params.value_dim, ids);
        store_staged_value(value_at_of(place, kv), ids);
    }
}

//# when prepare prepare_packed
@compute @workgroup_size(THREADS)
//# use main
    let t = group.y;
    let token = step.start + t;
    var kind = QUERY;
    var number = group.x;
    if number >= params.heads {
        number -= params.heads;
        kind = KEY;
        if number >= params.kv_heads {
            number -= params.kv_heads;
            kind = VALUE;
        }
    }
    let head = find_head(kind, number, token, ids);
    if kind != QUERY {
        keep(kind, head, place_of(step.position + t, capacity_of_cache()), number, ids);
        return;
    }
    for (var i = thread_of(ids); i < params.head_dim; i += THREADS) {
        queries[(token * params.heads + number) * params.head_dim + i] = ready(head, i);
    }
}

//# when attend attend_packed
// A workgroup takes 64 queries of a key/value head (neighbouring tokens, with all query heads that share it) over the
// cache, 64 positions at a time.
//# use reduce
//# use products
const THREADS: u32 = 256u;
/// Number of elements of a value that are accumulated at once.
const PART: u32 = 128u;

/// [T, heads, head_dim].
@group(0) @binding(_) var<storage, read> queries: array<f32>;

//# when attend
/// [capacity, kv_heads, head_dim].
@group(0) @binding(_) var<storage, read> keys: array<f32>;
/// [capacity, kv_heads, value_dim]; not of a latent.
@group(0) @binding(_) var<storage, read> values: array<f32>;

fn capacity_of_cache() -> u32 {
    return arrayLength(&keys) / (params.kv_heads * params.head_dim);
}

/// Index of the first element of a head's key at a place.
fn at_of(place: u32, kv: u32) -> u32 {
    return (place * params.kv_heads + kv) * params.head_dim;
}

/// The same of its value, among the keys if they are latents.
fn value_at_of(place: u32, kv: u32) -> u32 {
    return (place * params.kv_heads + kv) * select(params.value_dim, params.head_dim, params.latent != 0u);
}

/// Element `i` of the key at `at`.
fn key_element(at: u32, i: u32) -> f32 {
    return keys[at + i];
}

/// Elements `i ..` of the value at `at`, zeros after its end.
fn value_quad(at: u32, i: u32) -> vec4<f32> {
    var v = vec4(0.0);
    for (var c = 0u; c < 4u; c += 1u) {
        if i + c < params.value_dim {
            if params.latent != 0u {
                v[c] = keys[at + i + c];
            } else {
                v[c] = values[at + i + c];
            }
        }
    }
    return v;
}

//# when attend_packed
/// [capacity, kv_heads, words of a key or a value] each; of a latent, keys alone.
@group(0) @binding(_) var<storage, read> keys: array<u32>;
@group(0) @binding(_) var<storage, read> values: array<u32>;

//# use weights

/// Element `i` of the key at `at`.
fn key_element(at: u32, i: u32) -> f32 {
    return load_key(at, i / 4u)[i % 4u];
}

/// Elements `i ..` of the value at `at`; arbitrary values after its end, zeros after the end of its last group.
fn value_quad(at: u32, i: u32) -> vec4<f32> {
    if i >= params.value_dim {
        return vec4(0.0);
    }
    return load_value_quad(at, i / 4u);
}

//# when attend attend_packed
/// [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

/// Loads 64 elements from `column` on of 16 positions from number `first` on; positions from `end` on count as zeros.
fn load_values(sight: Sight, first: u32, end: u32, kv: u32, column: u32, thread: u32) {
    let number = first + thread / 16u;
    var v = vec4(0.0);
    if number < end {
        let place = place_of(position_of(sight, number), capacity_of_cache());
        v = value_quad(value_at_of(place, kv), column + thread % 16u * 4u);
    }
    right_tile[thread / 16u * COLUMN + thread % 16u] = v;
}

fn write(block: Block, total: vec4<f32>, first_row: u32, end_row: u32, kv: u32, first_column: u32, thread: u32) {
    let sharing = params.heads / params.kv_heads;
    for (var i = 0u; i < 4u; i += 1u) {
        let row = first_row + thread / 16u * 4u + i;
        if row < end_row {
            let head = kv * sharing + row % sharing;
            let column = first_column + thread % 16u * 4u;
            let at = (step.start + row / sharing) * params.output_stride + head * params.value_dim + column;
            var own = block;
            let value = own[i] / total[i];
            for (var c = 0u; c < 4u; c += 1u) {
                if column + c < params.value_dim {
                    output[at + c] = value[c];
                }
            }
        }
    }
}

@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let kv = group.x;
    let sharing = params.heads / params.kv_heads;
    let first_row = group.y * SIDE;
    let end_row = min(first_row + SIDE, step.tokens * sharing);
    let sight = sight_of(oldest_seen(step.position + first_row / sharing));
    // Numbers of the positions that at least one of the queries sees.
    let end = sight.sinks + step.position + (end_row - 1u) / sharing + 1u - sight.oldest;
    let capacity = capacity_of_cache();
    let quad = thread / 16u;
    let own_rows = min(vec4(first_row + quad * 4u) + vec4(0u, 1u, 2u, 3u), vec4(end_row - 1u));
    let positions = vec4(step.position) + own_rows / sharing;

    for (var part = 0u; part < params.value_dim; part += PART) {
        var low = empty_block();
        var high = empty_block();
        var largest = vec4(LOWEST);
        var total = vec4(0.0);
        for (var first = 0u; first < end; first += SIDE) {
            var block = empty_block();
            for (var base = 0u; base < params.head_dim; base += DEPTH) {
                var q = vec4(0.0);
                var k = vec4(0.0);
                let i = base + thread % DEPTH;
                if i < params.head_dim {
                    for (var c = 0u; c < 4u; c += 1u) {
                        let row = own_rows[c];
                        let token = step.start + row / sharing;
                        q[c] = params.scale * queries[(token * params.heads + kv * sharing + row % sharing) * params.head_dim + i];
                        let number = first + quad * 4u + c;
                        if number < end {
                            k[c] = key_element(at_of(place_of(position_of(sight, number), capacity), kv), i);
                        }
                    }
                }
                left_tile[thread % DEPTH * COLUMN + quad] = q;
                right_tile[thread % DEPTH * COLUMN + quad] = k;
                workgroupBarrier();
                add_product(&block, thread);
                workgroupBarrier();
            }

            let numbers = vec4(first + thread % 16u * 4u) + vec4(0u, 1u, 2u, 3u);
            let seen = select(numbers + vec4(sight.oldest - sight.sinks), numbers, numbers < vec4(sight.sinks));
            var most = vec4(LOWEST);
            for (var i = 0u; i < 4u; i += 1u) {
                let near = (vec4(positions[i]) - seen < vec4(params.window)) | (seen < vec4(params.sinks));
                let visible = (seen <= vec4(positions[i])) & near;
                block[i] = select(vec4(LOWEST), block[i], visible);
                most[i] = max(max(block[i].x, block[i].y), max(block[i].z, block[i].w));
            }
            let next = max(largest, largest_over(most, ids, 16u));
            let keep = exp(largest - next);
            largest = next;
            for (var i = 0u; i < 4u; i += 1u) {
                // Masked positions get weight 0 even before any position was seen.
                block[i] = select(exp(block[i] - next[i]), vec4(0.0), block[i] == vec4(LOWEST));
                total[i] = keep[i] * total[i] + dot(block[i], vec4(1.0));
                low[i] *= keep[i];
                high[i] *= keep[i];
            }
            for (var slice = 0u; slice < 4u && first + slice * DEPTH < end; slice += 1u) {
                if thread % 16u / 4u == slice {
                    for (var c = 0u; c < 4u; c += 1u) {
                        left_tile[(thread % 4u * 4u + c) * COLUMN + quad] = vec4(block[0][c], block[1][c], block[2][c], block[3][c]);
                    }
                }
                load_values(sight, first + slice * DEPTH, end, kv, part, thread);
                workgroupBarrier();
                add_product(&low, thread);
                workgroupBarrier();
                if part + SIDE < params.value_dim {
                    load_values(sight, first + slice * DEPTH, end, kv, part + SIDE, thread);
                    workgroupBarrier();
                    add_product(&high, thread);
                    workgroupBarrier();
                }
            }
        }
        total = sum_over(total, ids, 16u);
        write(low, total, first_row, end_row, kv, part, thread);
        if part + SIDE < params.value_dim {
            write(high, total, first_row, end_row, kv, part + SIDE, thread);
        }
    }
}

//# when pieces pieces_any pieces_packed merge
//# use attention_pieces
