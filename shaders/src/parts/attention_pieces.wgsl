// Attention of few tokens over pieces of the cache, which are then combined.

//# when pieces pieces_any pieces_packed merge
/// The position numbers of piece `index`, from x to before y; none if x >= y.
fn piece_of(index: u32, sight: Sight) -> vec2<u32> {
    let end = sight.sinks + step.position + step.tokens - sight.oldest;
    // At least as many positions as the threads' subgroups read together.
    let length = ((end + params.pieces - 1u) / params.pieces + 31u) / 32u * 32u;
    let first = min(index * length, end);
    return vec2(first, min(first + length, end));
}

//# when pieces pieces_any pieces_packed
// A workgroup takes a piece of the cache of a key/value head, for all queries that share it. The workgroup that has a
// position of the run prepares it, and every workgroup prepares the queries, which saves a dispatch.
const THREADS: u32 = 128u;
/// Maximum number of queries at once.
const ROWS: u32 = 8u;
/// Elements of a value per thread, if there are more elements than threads.
const HELD: u32 = 8u;

/// [T, heads, pieces, value_dim + 2]: weighted values, the largest score, the sum of weights.
@group(0) @binding(_) var<storage, read_write> parts: array<f32>;

/// [rows, head_dim / 4].
var<workgroup> queries: array<vec4<f32>, 256>;
/// [THREADS, 2]: weights of eight queries for the current positions.
var<workgroup> weights: array<vec4<f32>, 256>;

//# when pieces
/// [capacity, kv_heads, head_dim / 4].
@group(0) @binding(_) var<storage, read_write> keys: array<vec4<f32>>;

fn capacity_of_cache() -> u32 {
    return arrayLength(&keys) * 4u / (params.kv_heads * params.head_dim);
}

/// Elements `4 * quad ..` of the key at `at`.
fn load_key(at: u32, quad: u32) -> vec4<f32> {
    return keys[at / 4u + quad];
}

fn store_key(at: u32, quad: u32, value: vec4<f32>) {
    keys[at / 4u + quad] = value;
}

fn load_key_element(at: u32) -> f32 {
    return keys[at / 4u][at % 4u];
}

//# when pieces_any
/// [capacity, kv_heads, head_dim].
@group(0) @binding(_) var<storage, read_write> keys: array<f32>;

fn capacity_of_cache() -> u32 {
    return arrayLength(&keys) / (params.kv_heads * params.head_dim);
}

/// Elements `4 * quad ..` of the key at `at`.
fn load_key(at: u32, quad: u32) -> vec4<f32> {
    var value = vec4(0.0);
    for (var i = 0u; i < min(4u, params.head_dim - quad * 4u); i += 1u) {
        value[i] = keys[at + quad * 4u + i];
    }
    return value;
}

fn store_key(at: u32, quad: u32, value: vec4<f32>) {
    for (var i = 0u; i < min(4u, params.head_dim - quad * 4u); i += 1u) {
        keys[at + quad * 4u + i] = value[i];
    }
}

fn load_key_element(at: u32) -> f32 {
    return keys[at];
}

//# when pieces pieces_any
/// [capacity, kv_heads, value_dim]; not of a latent.
@group(0) @binding(_) var<storage, read_write> values: array<f32>;

/// The first element of a head's key at a place.
fn at_of(place: u32, kv: u32) -> u32 {
    return (place * params.kv_heads + kv) * params.head_dim;
}

/// The same of its value, among the keys if they are latents.
fn value_at_of(place: u32, kv: u32) -> u32 {
    return (place * params.kv_heads + kv) * select(params.value_dim, params.head_dim, params.latent != 0u);
}

/// Element `i` of the value at `at`.
fn load_value(at: u32, i: u32) -> f32 {
    if params.latent != 0u {
        return load_key_element(at + i);
    }
    return values[at + i];
}

//# when pieces_packed
/// [capacity, kv_heads, words of a key or a value] each; of a latent, keys alone.
@group(0) @binding(_) var<storage, read_write> keys: array<u32>;
@group(0) @binding(_) var<storage, read_write> values: array<u32>;

//# use weights

/// Element `i` of the value at `at`.
fn load_value(at: u32, i: u32) -> f32 {
    return load_value_quad(at, i / 4u)[i % 4u];
}

//# when pieces pieces_any pieces_packed
/// Elements `4 * quad ..` of a head, prepared, zeros after its end.
fn ready_quad(head: Head, quad: u32) -> vec4<f32> {
    var value = vec4(0.0);
    for (var i = 0u; i < min(4u, params.head_dim - quad * 4u); i += 1u) {
        value[i] = ready(head, quad * 4u + i);
    }
    return value;
}

//# when pieces pieces_any
/// Stores key and value head `kv` of a token at their place.
fn keep(token: u32, place: u32, kv: u32, ids: Ids) {
    let at = at_of(place, kv);
    let key = find_head(KEY, kv, token, ids);
    for (var quad = thread_of(ids); quad < (params.head_dim + 3u) / 4u; quad += THREADS) {
        store_key(at, quad, ready_quad(key, quad));
    }
    if params.latent != 0u {
        return;
    }
    let value = find_head(VALUE, kv, token, ids);
    for (var i = thread_of(ids); i < params.value_dim; i += THREADS) {
        values[value_at_of(place, kv) + i] = ready(value, i);
    }
}

//# when pieces_packed
/// Stores key and value head `kv` of a token at their place.
fn keep(token: u32, place: u32, kv: u32, ids: Ids) {
    stage(find_head(KEY, kv, token, ids), params.head_dim, ids);
    store_staged_key(at_of(place, kv), ids);
    workgroupBarrier();
    if params.latent != 0u {
        return;
    }
    stage(find_head(VALUE, kv, token, ids), params.value_dim, ids);
    store_staged_value(value_at_of(place, kv), ids);
    workgroupBarrier();
}

//# when pieces pieces_any pieces_packed
@compute @workgroup_size(THREADS)
//# use main
    let thread = thread_of(ids);
    let kv = group.x;
    let sight = sight_of(oldest_seen(step.position));
    let piece = piece_of(group.y, sight);
    if piece.x >= piece.y {
        return;
    }
    let capacity = capacity_of_cache();
    let sharing = params.heads / params.kv_heads;
    let quads = (params.head_dim + 3u) / 4u;

    for (var t = 0u; t < step.tokens; t += 1u) {
        let position = step.position + t;
        let number = sight.sinks + position - sight.oldest;
        if number >= piece.x && number < piece.y {
            keep(step.start + t, place_of(position, capacity), kv, ids);
        }
    }
    storageBarrier();

    let narrow = params.value_dim <= THREADS;
    for (var base = 0u; base < step.tokens * sharing; base += params.rows) {
        let count = min(params.rows, step.tokens * sharing - base);
        for (var r = 0u; r < count; r += 1u) {
            let token = step.start + (base + r) / sharing;
            let head = find_head(QUERY, kv * sharing + (base + r) % sharing, token, ids);
            for (var quad = thread; quad < quads; quad += THREADS) {
                queries[r * quads + quad] = params.scale * ready_quad(head, quad);
            }
        }
        workgroupBarrier();

        // Queries 0 to 3 and 4 to 7; with more than 128 elements there are at most four.
        var largest = array<vec4<f32>, 2>(vec4(LOWEST), vec4(LOWEST));
        var total = array<vec4<f32>, 2>(vec4(0.0), vec4(0.0));
        // By groups of four queries; for wider heads, by every 128th element.
        var sum: array<vec4<f32>, HELD>;
        for (var j = 0u; j < HELD; j += 1u) {
            sum[j] = vec4(0.0);
        }
        for (var first = piece.x; first < piece.y; first += THREADS) {
            let number = first + thread;
            let position = position_of(sight, number);
            var score: array<f32, ROWS>;
            for (var r = 0u; r < ROWS; r += 1u) {
                score[r] = 0.0;
            }
            if number < piece.y {
                let at = at_of(place_of(position, capacity), kv);
                for (var quad = 0u; quad < quads; quad += 1u) {
                    let key = load_key(at, quad);
                    for (var r = 0u; r < ROWS; r += 1u) {
                        if r < count {
                            score[r] += dot(queries[r * quads + quad], key);
                        }
                    }
                }
            }
            var keep: array<vec4<f32>, 2>;
            for (var four = 0u; four < 2u; four += 1u) {
                keep[four] = vec4(1.0);
                if four * 4u < count {
                    var scores = vec4(LOWEST);
                    for (var i = 0u; i < 4u; i += 1u) {
                        let r = four * 4u + i;
                        let own = step.position + (base + r) / sharing;
                        let near = own - position < params.window || position < params.sinks;
                        if r < count && number < piece.y && position <= own && near {
                            scores[i] = score[r];
                        }
                    }
                    let next = max(largest[four], largest_over(scores, ids, THREADS));
                    keep[four] = exp(largest[four] - next);
                    largest[four] = next;
                    // Masked positions get weight 0 even before any position was seen.
                    let weight = select(exp(scores - next), vec4(0.0), scores == vec4(LOWEST));
                    total[four] = keep[four] * total[four] + weight;
                    weights[thread * 2u + four] = weight;
                }
            }
            workgroupBarrier();
            let held = min(THREADS, piece.y - first);
            for (var j = 0u; j < HELD; j += 1u) {
                let four = select(0u, j, narrow);
                let i = thread + select(j * THREADS, 0u, narrow);
                if i < params.value_dim && four * 4u < count {
                    var part = vec4(0.0);
                    for (var k = 0u; k < held; k += 1u) {
                        let at = value_at_of(place_of(position_of(sight, first + k), capacity), kv);
                        part += weights[k * 2u + four] * load_value(at, i);
                    }
                    sum[j] = keep[four] * sum[j] + part;
                }
            }
            // The weights are overwritten after the barriers of the next scores.
        }
        for (var four = 0u; four < 2u; four += 1u) {
            total[four] = sum_over(total[four], ids, THREADS);
        }
        for (var r = 0u; r < count; r += 1u) {
            let head = kv * sharing + (base + r) % sharing;
            let row = (base + r) / sharing * params.heads + head;
            let at = (row * params.pieces + group.y) * (params.value_dim + 2u);
            for (var j = 0u; j < HELD; j += 1u) {
                let i = thread + j * THREADS;
                if i < params.value_dim {
                    parts[at + i] = sum[select(j, r / 4u, narrow)][r % 4u];
                }
            }
            if thread == 0u {
                parts[at + params.value_dim] = largest[r / 4u][r % 4u];
                parts[at + params.value_dim + 1u] = total[r / 4u][r % 4u];
            }
        }
        // Wait until all have read these queries before the next ones are written.
        workgroupBarrier();
    }
}

//# when merge
// A workgroup takes a query head of a token.
const THREADS: u32 = 64u;

/// [T, heads, pieces, value_dim + 2]: weighted values, the largest score, the sum of weights.
@group(0) @binding(_) var<storage, read> parts: array<f32>;
/// [T, output_stride].
@group(0) @binding(_) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let t = group.y;
    let width = params.value_dim + 2u;
    let first = (t * params.heads + head) * params.pieces * width;
    let sight = sight_of(oldest_seen(step.position));
    var count = 0u;
    var largest = LOWEST;
    for (var piece = 0u; piece < params.pieces; piece += 1u) {
        let range = piece_of(piece, sight);
        if range.x < range.y {
            count = piece + 1u;
            largest = max(largest, parts[first + piece * width + params.value_dim]);
        }
    }
    var total = 0.0;
    for (var piece = 0u; piece < count; piece += 1u) {
        let at = first + piece * width + params.value_dim;
        total += exp(parts[at] - largest) * parts[at + 1u];
    }
    for (var i = thread; i < params.value_dim; i += THREADS) {
        var sum = 0.0;
        for (var piece = 0u; piece < count; piece += 1u) {
            let at = first + piece * width;
            sum += exp(parts[at + params.value_dim] - largest) * parts[at + i];
        }
        output[(step.start + t) * params.output_stride + head * params.value_dim + i] = sum / total;
    }
}
